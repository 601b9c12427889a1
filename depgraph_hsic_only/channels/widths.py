"""Widths that a stock model can have: uniform, by a threshold, and with the tied ones following."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import torch

from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.groups import ChannelGraph, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.errors import PlanError
from depgraph_hsic_only.yolo.blocks import OUTPUT_MULTIPLE

Scores = Mapping[str, torch.Tensor]
"""Importance of each channel by channel group: name to (C,), finite, higher is more important."""

Widths = Mapping[str, int]
"""A number of channels, or repeats, for each width group; for some of them where a function says so."""

_NO_LIMITS = Limits()


def uniform_widths(graph: ChannelGraph, ratio: float, limits: Limits = _NO_LIMITS) -> dict[str, int]:
    """The widths left by cutting the same share of every width group; repeats and bins stay.

    Widths are rounded to the nearest multiple of what `limits` say, hidden ones of 4, ties up, and none grows. Tied
    widths follow. A ratio, the share of the channels to cut in [0, 1), of 0 changes nothing.
    """
    share = Amount.ratio(ratio).exact
    limits.check_names((w.layer, w.name) for w in graph.widths)
    if not share:
        return graph.full
    left = {w: w.channels * (1 if w.is_repeats or w.bins else 1 - share) for w in graph.widths}
    return _rounded(graph, limits, lambda w, multiple: math.floor(left[w] / multiple + Fraction(1, 2)))


def threshold_widths(
    graph: ChannelGraph, scores: Scores, threshold: float, limits: Limits = _NO_LIMITS
) -> dict[str, int]:
    """The smallest widths at which no channel that scores `threshold` or more is cut; repeats and bins stay.

    A shared width is the largest that one of its groups needs. Widths are rounded up to a multiple of what `limits`
    say, hidden ones of 4.
    """
    least = Amount.threshold(threshold).value
    limits.check_names((w.layer, w.name) for w in graph.widths)
    found = ((w, [int((scores[g.name] >= least).sum()) for g in w.groups if not g.bins]) for w in graph.widths)
    needed = {w.name: max(counts, default=w.channels) for w, counts in found}
    full = graph.full
    for width in graph.widths:
        if width.tie is not None and (to := width.tie.to[0]) in full:
            cuts = range(OUTPUT_MULTIPLE, full[to], OUTPUT_MULTIPLE)
            enough = (w for w in cuts if width.tied({to: w}) >= needed[width.name])
            needed[to] = max(needed[to], next(enough, full[to]))
    return _rounded(graph, limits, lambda w, multiple: math.ceil(needed[w.name] / multiple))


def partial_widths(graph: ChannelGraph, widths: Widths, share: Fraction, limits: Limits = _NO_LIMITS) -> dict[str, int]:
    """A share of the way, in [0, 1], from the full widths to others, rounded up."""
    return _rounded(
        graph, limits, lambda w, multiple: math.ceil((w.channels - share * (w.channels - widths[w.name])) / multiple)
    )


def _rounded(graph: ChannelGraph, limits: Limits, steps: Callable[[WidthGroup, int], int]) -> dict[str, int]:
    """The widths of so many steps each, a step being the multiple that a width has to be, within the limits."""
    multiples = {w: limits.multiple(w) for w in graph.widths if w.tie is None}
    free = {w.name: min(w.channels, max(steps(w, m) * m, limits.smallest(w))) for w, m in multiples.items()}
    return follow_ties(graph, free)


def follow_ties(graph: ChannelGraph, widths: Widths) -> dict[str, int]:
    """`widths` of the free width groups with those of the tied ones added, in the order of the network."""
    return {w.name: w.tied(widths) if w.tie else widths[w.name] for w in graph.widths}


def check_widths(graph: ChannelGraph, widths: Widths) -> None:
    """Refuse, by a `PlanError`, widths that no stock model has, and tied ones that don't follow."""
    for width in graph.widths:
        after, multiple = widths.get(width.name), 1 if width.tie else width.needs
        least, most = width.least, width.channels
        if type(after) is not int or not least <= after <= most or (after % multiple and after != most):
            of = f" and a multiple of {multiple}" if multiple > 1 else ""
            raise PlanError(f"width {width.name}: expected an integer in [{least}, {most}]{of}, got {after!r}")
    if dict(widths) != follow_ties(graph, widths):
        raise PlanError("expected tied widths to follow those that they are tied to; take widths from follow_ties")
