"""Widths for a target: the least damage that meets budgets of parameters, multiply-adds, file size and latency.

Parameters and multiply-adds are counted, so that bounds of them hold for whatever `search.py` finds. The size of a file
is close to a straight line over the parameters; it is measured at both ends, and what was found is measured and, where
it is larger than it seemed, sought again below. Latency has no formula, and need not fall with the multiply-adds:
bounds of these are tried, and what was measured decides.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nextafter
from typing import Any

from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.search import Bound, CostOf, Search
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.budgets import TARGETS, Budget
from depgraph_hsic_only.channels.groups import ChannelGraph, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.widths import Widths, follow_ties, uniform_widths
from depgraph_hsic_only.errors import ConfigError, DataError
from depgraph_hsic_only.evaluation.relative_latency import TimeShare

_TRIALS = 6  # of a latency
_SPREAD = 4  # more of them, evenly spaced, where none of these meets the target
_OVERHEAD = 0.1  # of the time by which it exceeds the share of the multiply-adds: then it is not these that take it

Clock = Callable[[Widths], TimeShare]
"""Measures the latency of the model with some widths, tied ones following, against the unpruned one's."""

Scale = Callable[[Widths], float]
"""Measures the file of the model with some widths, tied ones following, 10^6 bytes."""


@dataclass(frozen=True)
class Allocation:
    """Widths that meet a target."""

    widths: dict[str, int]  # of every width group, tied ones included
    reasons: dict[str, str]  # why, by free width group, for people
    damage: float  # the sum of those that each width does alone: a lower bound of what to expect


def not_measured(widths: Widths) -> Any:
    """The clock or scale where no target is of it."""
    raise DataError("target: expected one of parameters or multiply-adds, since nothing measures latency or files here")


def allocate(
    graph: ChannelGraph,
    sensitivity: Sensitivity,
    costs: CostModel,
    target: Amount,
    limits: Limits,
    start: Widths | None = None,
    latency: Clock = not_measured,
    size: Scale = not_measured,
) -> Allocation:
    """Widths of all width groups of the unpruned model with the least damage found that meet all budgets of a target.

    Args:
        start: Widths that have been reached already and won't grow again.
        latency: For a budget of latency, which is met by trying bounds of multiply-adds. What misses it by less than
            the clock can tell is taken, with a warning, where nothing meets it.
        size: For a budget of the file's size.

    Raises:
        ConfigError: Not even the smallest widths meet the target, no widths that were measured meet one of latency, or
            a limit names a width that is not there.
    """
    bounds = check_reachable(graph, costs, target, limits, size)
    search, timed, sized = Search(graph, sensitivity, limits, start), target.budget("latency"), target.budget("size")
    while True:
        measured = []
        if timed is None:
            widths = search.within([*bounds.values()])
        else:
            gmacs = _counted(graph, costs, "gmacs")
            widths, found = _latency_widths(search, [*bounds.values()], gmacs, target, timed, latency)
            measured.append(timed.figure(found.median * found.full_ms, found.full_ms))
        if sized is None:
            break
        bound, most, got = bounds["size"], sized.limit(size(graph.full)), size(widths)
        measured.append(sized.figure(got, size(graph.full)))
        if got <= most:
            break
        below = min(bound.limit - (got - most), nextafter(bound.cost(widths), 0))
        bounds["size"] = bound._replace(limit=max(below, bound.cost(search.smallest)))
    metric = target.asking[0].metric
    cost = bounds[metric].cost if metric in bounds else _counted(graph, costs, "gmacs")
    what = TARGETS[metric if metric in bounds else "gmacs"]
    asked = ", measured ".join([str(target), *filter(None, [" and ".join(measured)])])
    reasons = {w.name: _reason(w, widths, sensitivity, cost, what) for w in graph.widths if not w.tie}
    return Allocation(widths, {n: f"{asked}: {r}" for n, r in reasons.items()}, search.damage(widths))


def check_reachable(
    graph: ChannelGraph, costs: CostModel, target: Amount, limits: Limits, size: Scale = not_measured
) -> dict[str, Bound]:
    """The bounds of a target's budgets by metric, but for latency; refused if the smallest widths don't meet one.

    Errors are those of `allocate`.
    """
    limits.check_names((w.layer, w.name) for w in graph.widths)
    smallest, bounds = smallest_widths(graph, limits), {}
    for budget in target.asking:
        if budget.metric != "latency":
            counted = budget.metric != "size"
            cost = _counted(graph, costs, budget.metric) if counted else _sized(graph, costs, smallest, size)
            full, least = cost(graph.full), cost(smallest)
            bounds[budget.metric] = Bound(cost, budget.limit(full))
            if least > budget.limit(full):
                raise ConfigError(
                    f"target: expected one that the chosen layers can meet, got {target}, but with every width at its "
                    f"smallest {budget.said(least, full)} are left; ask for more than that, loosen min_channels and "
                    "max_ratio, or choose layers=all"
                )
    return bounds


def check_target(
    graph: ChannelGraph,
    costs: CostModel,
    target: Amount,
    limits: Limits,
    latency: Clock,
    size: Scale,
    runtime: str,
    where: str,
) -> None:
    """Refuse a target that can't be met, and one that leaves nothing to cut; warn of a latency at the edge.

    The `runtime` of the latency, and `where` the multiply-adds are of, are what people read.

    Raises:
        ConfigError: Not even the smallest widths meet it, or the unpruned network does.
    """
    bounds = check_reachable(graph, costs, target, limits, size)
    full = {metric: bound.cost(graph.full) for metric, bound in bounds.items()}
    if target.budget("latency"):
        full["latency"] = check_latency(graph, costs, target, limits, latency, runtime, [*bounds.values()]).full_ms
    if all(budget.limit(full[budget.metric]) >= full[budget.metric] for budget in target.asking):
        has = " and ".join(b.said(full[b.metric], full[b.metric]) for b in target.asking if b.absolute)
        raise ConfigError(
            f"target: expected one that the unpruned model exceeds, got {target}, but that has {has} {where}: there is "
            "nothing to cut; ask for less"
        )


def unpruned_cost(graph: ChannelGraph, costs: CostModel, metric: str, latency: Clock, size: Scale) -> float:
    """What the unpruned network costs by a metric, in the unit that absolute budgets of it are in."""
    if metric == "latency":
        return latency(graph.full).full_ms
    return size(graph.full) if metric == "size" else _counted(graph, costs, metric)(graph.full)


def smallest_widths(graph: ChannelGraph, limits: Limits) -> dict[str, int]:
    """Every width as small as the limits allow, tied ones following."""
    return follow_ties(graph, {w.name: limits.smallest(w) for w in graph.widths})


def _counted(graph: ChannelGraph, costs: CostModel, metric: str) -> CostOf:
    count = costs.parameters if metric == "params" else costs.gmacs
    return lambda widths: count(follow_ties(graph, widths))


def _sized(graph: ChannelGraph, costs: CostModel, smallest: Widths, size: Scale) -> CostOf:
    """The size of a file by the straight line over the parameters through the smallest and the full widths."""
    count = _counted(graph, costs, "params")
    least, origin = size(smallest), count(smallest)
    slope = (size(graph.full) - least) / max(1.0, count(graph.full) - origin)
    return lambda widths: least + slope * (count(widths) - origin)


def _latency_widths(
    search: Search, bounds: Sequence[Bound], cost: CostOf, target: Amount, budget: Budget, latency: Clock
) -> tuple[dict[str, int], TimeShare]:
    """The most costly widths found within the bounds whose measured latency meets the budget, and that latency.

    By bisection of a bound of multiply-adds; where no trial meets the budget, more are spread over all bounds.
    """
    full, least = cost(search.full), cost(search.smallest) / cost(search.full)
    found: dict[tuple[int, ...], tuple[float, dict[str, int], TimeShare]] = {}

    def good() -> list[tuple[float, dict[str, int], TimeShare]]:
        return [trial for trial in found.values() if trial[2].median <= _share(budget, trial[2])]

    def meets(share: float) -> bool:
        widths = search.within([*bounds, Bound(cost, share * full)])
        key = tuple(widths.values())
        if key not in found:
            found[key] = cost(widths), widths, latency(widths)
        return found[key][2].median <= _share(budget, found[key][2])

    low, high = least, 1.0
    if not (bounds and meets(high)):
        asked = _share(budget, latency(search.full)) if budget.absolute else budget.value
        trial = min(max(least, asked), high)
        for _ in range(_TRIALS):
            low, high = (trial, high) if meets(trial) else (low, trial)
            trial = (low + high) / 2
    if low == least and not good():
        for k in range(_SPREAD):
            meets(least + (1 - least) * k / _SPREAD)
    if good():
        return max(good(), key=lambda trial: trial[0])[1:]
    _, widths, best = min(found.values(), key=lambda trial: trial[2].median)
    most = _share(budget, best)
    if best.low > most:
        raise ConfigError(
            f"target: expected one that this device can reach, got {target}, but the fastest of {len(found)} models "
            f"that were measured takes {_took(budget, best)}; ask for more than that, or for gmacs="
        )
    over = budget.figure((best.median - most) * best.full_ms, best.full_ms)
    missed = f"missed by {over}, which is less than the clock can tell"
    said = f"target {target}: {missed}; the fastest model found takes {_took(budget, best)}"
    warnings.warn(said, UserWarning, stacklevel=2)
    return widths, best


def check_latency(
    graph: ChannelGraph,
    costs: CostModel,
    target: Amount,
    limits: Limits,
    latency: Clock,
    runtime: str,
    bounds: Sequence[Bound] = (),
) -> TimeShare:
    """Refuse a budget of latency that a device can't reach, and warn of one that is at the edge of what it can.

    The smallest widths are measured; where they miss it, half a cut too if that is within the `bounds` of the others,
    since the smallest need not be the fastest. What is nearer to the budget than the clock can tell is not refused. The
    `runtime` is what people read.

    Returns:
        The latency of the fastest of what was measured.

    Raises:
        ConfigError: The budget is out of reach.
    """
    (budget,) = (budget for budget in target.budgets if budget.metric == "latency")
    widths, what = smallest_widths(graph, limits), "the smallest model that the limits allow"
    best = latency(widths)
    if best.median > _share(budget, best):
        halved = uniform_widths(graph, 0.5, limits)
        within = all(bound.cost(halved) <= bound.limit for bound in bounds)
        if within and (found := latency(halved)).median < best.median:
            widths, what, best = halved, "the model of half the widths, faster than the smallest,", found
    if best.median <= _share(budget, best):
        return best
    reach = f"{what} takes {_took(budget, best)} on {runtime}"
    if best.low <= _share(budget, best):
        warnings.warn(f"target {target}: at the edge of what can be reached: {reach}", UserWarning, stacklevel=2)
        return best
    left = costs.gmacs(widths) / costs.gmacs(graph.full)
    why = "the chosen layers and limits leave no more to save; choose layers=all, or loosen min_channels and max_ratio"
    if best.median > left + _OVERHEAD:
        why = (
            f"with {left:.3f} of the multiply-adds left, most of that goes to launching operations and moving data, "
            "which narrower layers don't save; ask for gmacs= instead, and measure where it will run: exported (ONNX, "
            "TensorRT), with larger batches, or at a smaller imgsz"
        )
    raise ConfigError(f"target: expected one that this device can reach, got {target}, but {reach}: {why}")


def _share(budget: Budget, found: TimeShare) -> float:
    """The most that a budget of latency allows, as a share of the time that the unpruned model took beside."""
    return budget.value / found.full_ms if budget.absolute else budget.value


def _took(budget: Budget, found: TimeShare) -> str:
    """A latency as the budget is stated."""
    if not budget.absolute:
        return str(found)
    median, low, high = (budget.figure(s * found.full_ms, found.full_ms) for s in (found.median, found.low, found.high))
    return f"{median} ({low} to {high}; the unpruned model {budget.figure(found.full_ms, found.full_ms)})"


def _reason(width: WidthGroup, widths: Widths, sensitivity: Sensitivity, cost: CostOf, what: str) -> str:
    """Why a width is what it is, by its damage alone and what it saves, the others being what they are."""
    now = widths[width.name]
    total = cost(widths)
    if now < width.channels:
        saved = cost({**widths, width.name: width.channels}) - total
        return f"costs {sensitivity.at(width.name, now):.2g} alone, saves {saved / total:.1%} of the {what}"
    points = sensitivity.damage[width.name]
    if not points:
        return "at its limit"
    least = max(points)
    saved = total - cost({**widths, width.name: least})
    return f"kept: {least} would cost {points[least]:.2g} alone and save {saved / total:.1%}"
