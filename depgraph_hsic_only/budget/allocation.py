"""Widths for a target: the least damage that meets budgets of parameters, multiply-adds, file size and latency.

Parameters and multiply-adds are counted, so that bounds of them hold for whatever `search.py` finds. The size of a file
is close to a straight line over the parameters; it is measured at both ends, and what was found is measured and, where
it is larger than it seemed, sought again below. Latency has no formula, and need not fall with the multiply-adds:
bounds of these are tried, and what was measured decides.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nextafter

from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.reachable import (
    Clock,
    OutOfReach,
    Scale,
    check_reachable,
    counted,
    not_measured,
    taken,
    took,
)
from depgraph_hsic_only.budget.search import Bound, CostOf, Search
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.budgets import TARGETS, Budget
from depgraph_hsic_only.channels.groups import ChannelGraph, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.widths import Widths
from depgraph_hsic_only.evaluation.relative_latency import TimeShare

TRIALS = 6  # of a latency
_AIM, _CLOSE = 0.99, 0.98  # of a latency that is asked for: what is just above it is of no use; this is near enough
_SPREAD = 4  # more of them, evenly spaced, where none of these meets the target


@dataclass(frozen=True)
class Allocation:
    """Widths that meet a target."""

    widths: dict[str, int]  # of every width group, tied ones included
    reasons: dict[str, str]  # why, by free width group, for people
    damage: float  # the sum of those that each width does alone: a lower bound of what to expect


def allocate(
    graph: ChannelGraph,
    sensitivity: Sensitivity,
    costs: CostModel,
    target: Amount,
    limits: Limits,
    start: Widths | None = None,
    latency: Clock = not_measured,
    size: Scale = not_measured,
    trials: int = TRIALS,
) -> Allocation:
    """Widths of all width groups of the unpruned model with the least damage found that meet all budgets of a target.

    Args:
        start: Widths that have been reached already and won't grow again.
        latency: For a budget of latency, which is met by trying bounds of multiply-adds. What misses it by less than
            the clock can tell is taken, with a warning, where nothing meets it.
        size: For a budget of the file's size.
        trials: How many widths are timed.

    Raises:
        OutOfReach: Not even the smallest widths meet the target, or no widths that were measured meet one of latency.
        ConfigError: A limit names a width that is not there, or the latency can't be measured.
    """
    bounds = check_reachable(graph, costs, target, limits, size)
    search, timed, sized = Search(graph, sensitivity, limits, start), target.budget("latency"), target.budget("size")
    while True:
        measured = []
        if timed is None:
            widths = search.within([*bounds.values()])
        else:
            gmacs = counted(graph, costs, "gmacs")
            widths, found = _latency_widths(search, [*bounds.values()], gmacs, target, timed, latency, trials)
            measured.append(timed.figure(taken(timed, found)[0], 1.0))
        if sized is None:
            break
        bound, most, got = bounds["size"], sized.limit(size(graph.full)), size(widths)
        measured.append(sized.figure(got, size(graph.full)))
        if got <= most:
            break
        below = min(bound.limit - (got - most), nextafter(bound.cost(widths), 0))
        bounds["size"] = bound._replace(limit=max(below, bound.cost(search.smallest)))
    metric = target.asking[0].metric
    cost = bounds[metric].cost if metric in bounds else counted(graph, costs, "gmacs")
    what = TARGETS[metric if metric in bounds else "gmacs"]
    asked = ", measured ".join([str(target), *filter(None, [" and ".join(measured)])])
    reasons = {w.name: _reason(w, widths, sensitivity, cost, what) for w in graph.widths if not w.tie}
    return Allocation(widths, {n: f"{asked}: {r}" for n, r in reasons.items()}, search.damage(widths))


def _latency_widths(
    search: Search, bounds: Sequence[Bound], cost: CostOf, target: Amount, budget: Budget, latency: Clock, trials: int
) -> tuple[dict[str, int], TimeShare]:
    """The most costly widths found within the bounds whose measured latency meets the budget, and that latency.

    A bound of multiply-adds is sought by the line through the two trials nearest to the budget; where no trial meets
    it, more are spread over all bounds.
    """
    full, smallest = cost(search.full), cost(search.smallest)
    least = smallest / full
    found: dict[tuple[int, ...], tuple[float, dict[str, int], TimeShare]] = {}

    def good() -> list[tuple[float, dict[str, int], TimeShare]]:
        return [trial for trial in found.values() if taken(budget, trial[2])[0] <= budget.value]

    def latency_at(share: float) -> float:
        widths = search.within([*bounds, Bound(cost, max(share * full, smallest))])  # which rounding may miss
        key = tuple(widths.values())
        if key not in found:
            found[key] = cost(widths), widths, latency(widths)
        return taken(budget, found[key][2])[0]

    low, high = least, 1.0
    times = {high: latency_at(high)}  # by bound: smaller images may be all that it takes, or nearly
    if times[high] > budget.value:
        for _ in range(trials):
            if low == high or (trial := _next_trial(times, _AIM * budget.value, low, high)) in times:
                break
            times[trial] = latency_at(trial)
            low, high = (trial, high) if times[trial] <= budget.value else (low, trial)
            if _CLOSE * budget.value <= times[trial] <= budget.value:
                break
    if low == least and not good():
        for k in range(_SPREAD):
            latency_at(least + (1 - least) * k / _SPREAD)
    if good():
        return max(good(), key=lambda trial: trial[0])[1:]
    _, widths, best = min(found.values(), key=lambda trial: taken(budget, trial[2])[0])
    median, low, _ = taken(budget, best)
    if low > budget.value:
        raise OutOfReach(
            f"target: expected one that this device can reach, got {target}, but the fastest of {len(found)} models "
            f"that were measured takes {took(budget, best)}; ask for more than that, or for gmacs="
        )
    missed = f"missed by {budget.figure(median - budget.value, 1.0)}, which is less than the clock can tell"
    said = f"target {target}: {missed}; the fastest model found takes {took(budget, best)}"
    warnings.warn(said, UserWarning, stacklevel=2)
    return widths, best


def _next_trial(times: Mapping[float, float], budget: float, low: float, high: float) -> float:
    """Where latencies by bound are expected to meet a budget, in [low, high]; without two that differ, in proportion.

    That is on the line between both ends once they were tried, before that on the one through the two trials nearest to
    the budget. At least a tenth of what is between stays on either side, unless the end was not tried yet.
    """
    ends = [bound for bound in (high, low) if bound in times]
    nearest = ends if len(ends) == 2 else sorted(times, key=lambda bound: abs(times[bound] - budget))[:2]
    slope = times[nearest[0]] / nearest[0]
    if len(nearest) == 2 and (rise := (times[nearest[0]] - times[nearest[1]]) / (nearest[0] - nearest[1])) > 0:
        slope = rise
    margin = (high - low) / 10
    least, most = (end if end not in times else end + inwards for end, inwards in ((low, margin), (high, -margin)))
    return min(max(nearest[0] + (budget - times[nearest[0]]) / slope, least), most)


def _reason(width: WidthGroup, widths: Widths, sensitivity: Sensitivity, cost: CostOf, what: str) -> str:
    """Why a width is what it is, by its damage alone and what it saves, the others being what they are.

    That is against what the sensitivity was measured on, of which an earlier step may have left less than all.
    """
    now, full = widths[width.name], sensitivity.full[width.name]
    total = cost(widths)
    if now < full:
        saved = cost({**widths, width.name: full}) - total
        return f"costs {sensitivity.at(width.name, now):.2g} alone, saves {saved / total:.1%} of the {what}"
    points = sensitivity.damage[width.name]
    if not points:
        return "at its limit"
    least = max(points)
    saved = total - cost({**widths, width.name: least})
    return f"kept: {least} would cost {points[least]:.2g} alone and save {saved / total:.1%}"
