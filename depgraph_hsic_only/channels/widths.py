"""From scores to a plan: a width for each width group, then the channels to keep."""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch

from depgraph_hsic_only.channels.amount import Target
from depgraph_hsic_only.channels.groups import OUTPUT_MULTIPLE, ChannelGraph, ChannelGroup, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.plan import GroupCut, PruningPlan, WidthChange
from depgraph_hsic_only.errors import ConfigError, PlanError

Scores = Mapping[str, torch.Tensor]
"""Importance of each channel by channel group: name to (C,), finite, higher is more important."""

_NO_LIMITS = Limits()


def check_ratio(ratio: object) -> Fraction:
    """The exact decimal value of a pruning ratio, 0 ≤ ratio < 1.

    Raises:
        ConfigError: It is anything else.
    """
    if isinstance(ratio, (int, float)) and not isinstance(ratio, bool) and 0 <= ratio < 1:
        return Fraction(str(float(ratio)))  # what was written: 0.35 as 7/20, so that ties are ties
    raise ConfigError(f"ratio: expected a number with 0 <= ratio < 1, got {ratio!r}; 0.25 cuts a quarter of each width")


def default_criterion(target: object) -> str:
    """What ranks channels where nothing is said: for a target, which is met by measuring, what measures best."""
    return "magnitude" if target is None else "reconstruction"


def check_amount(ratio: object, threshold: object, target: object = None) -> None:
    """Refuse anything but a ratio, a threshold or a target.

    Raises:
        ConfigError: None or several are given, or the one that is given is out of range.
    """
    given = {"ratio": ratio, "threshold": threshold, "target": target}
    if sum(value is not None for value in given.values()) != 1:
        got = " and ".join(f"{name}={value!r}" for name, value in given.items() if value is not None) or "none of them"
        raise ConfigError(f"expected a ratio, a threshold or a target, got {got}; leave all but one out")
    if ratio is not None:
        check_ratio(ratio)
    elif threshold is not None:
        check_threshold(threshold)
    else:
        Target.parse(target)


def check_threshold(threshold: object) -> None:
    """Refuse what scores can't be compared with.

    Raises:
        ConfigError: It is no finite number.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
        raise ConfigError(f"threshold: expected a finite number that scores are compared with, got {threshold!r}")


def uniform_widths(graph: ChannelGraph, ratio: float, limits: Limits = _NO_LIMITS) -> dict[str, int]:
    """The widths left by cutting the same share of every width group.

    Widths are rounded to the nearest multiple of what `limits` say, hidden ones of 4, ties up, and none grows. Tied
    widths follow. A ratio of 0 changes nothing.

    Args:
        graph: The channel groups of the unpruned model.
        ratio: Share of the channels to cut, in [0, 1).
        limits: Bounds of the widths.

    Raises:
        ConfigError: A setting is out of range.
    """
    share = check_ratio(ratio)
    limits.check_names(graph)
    widths: dict[str, int] = {}
    for width in graph.widths:
        if width.tie is None:
            multiple, floor = limits.multiple(width), limits.smallest(width)
            nearest = math.floor(width.channels * (1 - share) / multiple + Fraction(1, 2)) * multiple
            widths[width.name] = min(width.channels, max(nearest, floor)) if share else width.channels
    return follow_ties(graph, widths)


def threshold_widths(
    graph: ChannelGraph, scores: Scores, threshold: float, limits: Limits = _NO_LIMITS
) -> dict[str, int]:
    """The smallest widths at which no channel that scores `threshold` or more is cut.

    A shared width is the largest that one of its groups needs. Widths are rounded up to a multiple of what `limits`
    say, hidden ones of 4.

    Args:
        graph: The channel groups.
        scores: A score for each channel of each group.
        threshold: The smallest score that stays.
        limits: Bounds of the widths.

    Raises:
        ConfigError: A setting is out of range.
    """
    check_threshold(threshold)
    limits.check_names(graph)
    needed = {w.name: max(int((scores[g.name] >= threshold).sum()) for g in w.groups) for w in graph.widths}
    full = {w.name: w.channels for w in graph.widths}
    for width in graph.widths:
        if width.tie is not None and width.tie.to in full:
            to = width.tie.to
            enough = (
                w
                for w in range(OUTPUT_MULTIPLE, full[to], OUTPUT_MULTIPLE)
                if width.tied(full[to], w) >= needed[width.name]
            )
            needed[to] = max(needed[to], next(enough, full[to]))
    widths: dict[str, int] = {}
    for width in graph.widths:
        if width.tie is None:
            multiple = limits.multiple(width)
            up = math.ceil(needed[width.name] / multiple) * multiple
            widths[width.name] = min(width.channels, max(up, limits.smallest(width)))
    return follow_ties(graph, widths)


def follow_ties(graph: ChannelGraph, widths: Mapping[str, int]) -> dict[str, int]:
    """`widths` of the free width groups with those of the tied ones added, in the order of the network."""
    full = {w.name: w.channels for w in graph.widths}
    return {w.name: w.tied(full[w.tie.to], widths[w.tie.to]) if w.tie else widths[w.name] for w in graph.widths}


def plan_cut(
    graph: ChannelGraph,
    scores: Scores,
    *,
    ratio: float | None,
    threshold: float | None,
    limits: Limits,
    criterion: str,
    unpruned: ChannelGraph | None = None,
) -> PruningPlan:
    """A plan by a ratio or by a threshold: see `uniform_widths`, `threshold_widths` and `make_plan`.

    Args:
        unpruned: The channel groups whose widths the ratio is a share of; `graph` itself where None.
    """
    check_amount(ratio, threshold)
    if ratio is not None:
        widths = uniform_widths(unpruned or graph, ratio, limits)
        reason = f"uniform, ratio {ratio:g}"
    elif threshold is not None:
        widths = threshold_widths(graph, scores, threshold, limits)
        reason = f"scores of at least {threshold:g}"
    return make_plan(graph, scores, widths, criterion=criterion, reasons=dict.fromkeys(widths, reason))


def agreement(plan: PruningPlan, halves: tuple[Scores, Scores] | None) -> float | None:
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


def make_plan(
    graph: ChannelGraph, scores: Scores, widths: Mapping[str, int], *, criterion: str, reasons: Mapping[str, str]
) -> PruningPlan:
    """Keep the highest-scoring channels of every group; of equal scores the lower index stays.

    Args:
        graph: The channel groups.
        scores: A score for each channel of each group.
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


def check_widths(graph: ChannelGraph, widths: Mapping[str, int]) -> None:
    """Refuse widths that no stock model has.

    Raises:
        PlanError: One is missing or out of range, or a tied one doesn't follow.
    """
    for width in graph.widths:
        _check_width(width, widths)
    if dict(widths) != follow_ties(graph, widths):
        raise PlanError("expected tied widths to follow those that they are tied to; take widths from follow_ties")


def _check_width(width: WidthGroup, widths: Mapping[str, int]) -> None:
    after = widths.get(width.name)
    multiple = OUTPUT_MULTIPLE if width.is_output else 1
    if type(after) is not int or not 0 < after <= width.channels or (after % multiple and after != width.channels):
        of = f" and a multiple of {multiple}" if multiple > 1 else ""
        raise PlanError(f"width {width.name}: expected an integer in [1, {width.channels}]{of}, got {after!r}")


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
