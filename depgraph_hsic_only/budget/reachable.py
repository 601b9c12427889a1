"""What widths cost, counted or measured, and whether a target can be reached, which is said at the start."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.search import Bound, CostOf
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.budgets import Budget
from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.widths import Widths, follow_ties, uniform_widths
from depgraph_hsic_only.errors import ConfigError, DataError
from depgraph_hsic_only.evaluation.relative_latency import TimeShare

_OVERHEAD = 0.1  # of the time by which it exceeds the share of the multiply-adds: then it is not these that take it


class OutOfReach(ConfigError):
    """Not even the smallest widths meet a target."""


class AlreadyMet(ConfigError):
    """The unpruned network meets a target."""


Clock = Callable[[Widths], TimeShare]
"""Measures the latency of the model with some widths, tied ones following, against the unpruned one's."""

Scale = Callable[[Widths], float]
"""Measures the file of the model with some widths, tied ones following, 10^6 bytes."""


def not_measured(widths: Widths) -> Any:
    """The clock or scale where no target is of it."""
    raise DataError("target: expected one of parameters or multiply-adds, since nothing measures latency or files here")


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
            weighed = budget.metric == "size"
            cost = _sized(graph, costs, smallest, size) if weighed else counted(graph, costs, budget.metric)
            full, least = cost(graph.full), cost(smallest)
            bounds[budget.metric] = Bound(cost, budget.limit(full))
            if least > budget.limit(full):
                least_of = "every width at its smallest" if limits.channels else "every width as it is"
                raise OutOfReach(
                    f"target: expected one that the chosen layers can meet, got {target}, but with {least_of} "
                    f"{budget.said(least, full)} are left; ask for more than that, or {_loosened(limits)}"
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
        OutOfReach: Not even the smallest widths meet it.
        AlreadyMet: The unpruned network does.
    """
    bounds = check_reachable(graph, costs, target, limits, size)
    full = {metric: bound.cost(graph.full) for metric, bound in bounds.items()}
    if target.budget("latency"):
        full["latency"] = check_latency(graph, costs, target, limits, latency, runtime, [*bounds.values()]).full_ms
    if all(budget.limit(full[budget.metric]) >= full[budget.metric] for budget in target.asking):
        has = " and ".join(b.said(full[b.metric], full[b.metric]) for b in target.asking if b.absolute)
        raise AlreadyMet(
            f"target: expected one that the unpruned model exceeds, got {target}, but that has {has} {where}: there is "
            "nothing to cut; ask for less"
        )


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
        OutOfReach: The budget is.
    """
    (budget,) = (budget for budget in target.budgets if budget.metric == "latency")
    smallest = "the smallest model that the limits allow" if limits.channels else "the model with every width as it is"
    widths, what = smallest_widths(graph, limits), smallest
    best = latency(widths)
    if taken(budget, best)[0] > budget.value:
        halved = uniform_widths(graph, 0.5, limits)
        within = all(bound.cost(halved) <= bound.limit for bound in bounds)
        if limits.channels and within and taken(budget, found := latency(halved))[0] < taken(budget, best)[0]:
            widths, what, best = halved, "the model of half the widths, faster than the smallest,", found
    if taken(budget, best)[0] <= budget.value:
        return best
    reach = f"{what} takes {took(budget, best)} on {runtime}"
    if taken(budget, best)[1] <= budget.value:
        warnings.warn(f"target {target}: at the edge of what can be reached: {reach}", UserWarning, stacklevel=2)
        return best
    left = costs.gmacs(widths) / costs.gmacs(graph.full)
    why = f"the chosen layers and limits leave no more to save; {_loosened(limits)}"
    if best.median > left + _OVERHEAD:
        why = (
            f"with {left:.3f} of the multiply-adds left, most of that goes to launching operations and moving data, "
            "which narrower layers don't save; ask for gmacs= instead, and measure where it will run: exported (ONNX, "
            "TensorRT), with larger batches, or at a smaller imgsz"
        )
    raise OutOfReach(f"target: expected one that this device can reach, got {target}, but {reach}: {why}")


def unpruned_cost(graph: ChannelGraph, costs: CostModel, metric: str, latency: Clock, size: Scale) -> float:
    """What the unpruned network costs by a metric, in the unit that absolute budgets of it are in."""
    if metric == "latency":
        return latency(graph.full).full_ms
    return size(graph.full) if metric == "size" else counted(graph, costs, metric)(graph.full)


def _loosened(limits: Limits) -> str:
    """What makes smaller networks possible."""
    if not limits.channels:
        return "put width among the axes"
    return "loosen min_channels and max_ratio, or choose more layers, up to layers=all"


def smallest_widths(graph: ChannelGraph, limits: Limits) -> dict[str, int]:
    """Every width as small as the limits allow, tied ones following."""
    return follow_ties(graph, {w.name: limits.smallest(w) for w in graph.widths})


def counted(graph: ChannelGraph, costs: CostModel, metric: str) -> CostOf:
    count = costs.parameters if metric == "params" else costs.gmacs
    return lambda widths: count(follow_ties(graph, widths))


def _sized(graph: ChannelGraph, costs: CostModel, smallest: Widths, size: Scale) -> CostOf:
    """The size of a file by the straight line over the parameters through the smallest and the full widths."""
    count = counted(graph, costs, "params")
    least, origin = size(smallest), count(smallest)
    slope = (size(graph.full) - least) / max(1.0, count(graph.full) - origin)
    return lambda widths: least + slope * (count(widths) - origin)


def taken(budget: Budget, found: TimeShare) -> tuple[float, float, float]:
    """A latency in the unit of its budget: median, and what that may be."""
    return found.cut_ms if budget.absolute else (found.median, found.low, found.high)


def took(budget: Budget, found: TimeShare) -> str:
    """A latency for people, in the unit of its budget."""
    if not budget.absolute:
        return str(found)
    median, low, high, full = (budget.figure(time, 1.0) for time in (*found.cut_ms, found.full_ms))
    return f"{median} ({low} to {high}; the unpruned model {full})"
