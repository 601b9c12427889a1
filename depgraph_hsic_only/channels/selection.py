"""From scores and widths to a plan: which channels stay."""

from collections.abc import Mapping

import torch

from depgraph_hsic_only.channels.groups import ChannelGraph, ChannelGroup
from depgraph_hsic_only.channels.plan import GroupCut, PruningPlan, WidthChange
from depgraph_hsic_only.channels.widths import Scores, Widths, check_widths
from depgraph_hsic_only.errors import PlanError


def make_plan(
    graph: ChannelGraph, scores: Scores, widths: Widths, *, criterion: str, reasons: Mapping[str, str]
) -> PruningPlan:
    """Keep the highest-scoring channels of every group; of equal scores the lower index stays.

    Args:
        graph: The channel groups.
        scores: Of each channel.
        widths: Channels to keep in each width group: outputs multiples of 8, ties kept (see `follow_ties`).
        criterion: Name of what made the scores.
        reasons: Why each free width was chosen, by width group.

    Raises:
        PlanError: A width or a score is missing, out of range or not finite.
    """
    check_widths(graph, widths)
    return PruningPlan(
        criterion,
        graph.layers,
        tuple(
            WidthChange(w.name, w.layer, w.channels, widths[w.name], w.tie.text if w.tie else reasons[w.name])
            for w in graph.widths
        ),
        tuple(
            GroupCut(g.name, g.width, g.channels, _highest(g, scores, widths[g.width], criterion)) for g in graph.groups
        ),
    )


def selection_stability(plan: PruningPlan, halves: tuple[Scores, Scores] | None) -> float | None:
    """How well two halves of the calibration images agree on the channels that stay, in [0, 1].

    The Jaccard index of the channels that each half alone would keep, over all channel groups that are cut. None where
    there are no such scores, or nothing is cut.
    """
    if halves is None:
        return None
    shared = either = 0
    for group in plan.groups:
        if len(group.keep) < group.channels:
            a, b = (set(_top(half[group.name], len(group.keep))) for half in halves)
            shared, either = shared + len(a & b), either + len(a | b)
    return shared / either if either else None


def _highest(group: ChannelGroup, scores: Scores, width: int, criterion: str) -> tuple[int, ...]:
    score = scores.get(group.name)
    if score is None or tuple(score.shape) != (group.channels,) or not bool(torch.isfinite(score).all()):
        got = "nothing" if score is None else f"shape {tuple(score.shape)}, finite: {bool(torch.isfinite(score).all())}"
        raise PlanError(
            f"criterion {criterion}: expected {group.channels} finite scores for {group.name}, got {got}; "
            "a criterion returns one number per channel of its group"
        )
    return _top(score, width)


def _top(score: torch.Tensor, width: int) -> tuple[int, ...]:
    """Indices of the `width` highest scores, ascending; of equal scores the lower index."""
    order = torch.argsort(score.double().cpu(), descending=True, stable=True)
    return tuple(sorted(order[:width].tolist()))
