"""Widths for a target: the least damage that meets a budget of parameters, multiply-adds or latency.

From the full widths, the cut with the least damage per saving is taken again and again until the budget is met (damage
from `sensitivity.py`, savings from the exact cost of all widths together, see `cost_model.py`); then widths are
exchanged, one grown and another cut, for as long as that lowers the damage within the budget.

Latency has no formula, and need not fall with the multiply-adds. Budgets of multiply-adds are tried, and what was
measured decides.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import TARGETS, Amount
from depgraph_hsic_only.channels.groups import ChannelGraph, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.widths import Widths, follow_ties, uniform_widths
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.relative_latency import TimeShare

_SIZES = 32  # that are considered for each width
_EXCHANGES = 200
_TRIALS = 6  # of a latency
_SPREAD = 4  # more of them, evenly spaced, where none of these meets the target
_OVERHEAD = 0.1  # of the time by which it exceeds the share of the multiply-adds: then it is not these that take it

CostOf = Callable[[Widths], float]
"""What widths cost; tied ones follow the free ones."""

Clock = Callable[[Widths], TimeShare]
"""Measures the latency of the model with some widths, tied ones following, against the unpruned one's."""


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
    *,
    start: Widths | None = None,
    latency: Clock | None = None,
) -> Allocation:
    """Widths of all width groups of the unpruned model with the least damage found that meet the target.

    Args:
        start: Widths that have been reached already and won't grow again.
        latency: For a target of latency, which is met by trying budgets of multiply-adds. What misses it by less than
            the clock can tell is taken, with a warning, where nothing meets it.

    Raises:
        ConfigError: Not even the smallest widths meet the target, no widths that were measured meet one of latency, or
            a limit names a width that is not there.
    """
    check_reachable(graph, costs, target, limits)
    search = _Search(graph, sensitivity, limits, start)
    metric = "gmacs" if target.metric == "latency" else target.metric
    cost = _cost(graph, costs, metric)
    asked = str(target)
    if latency is not None and target.metric == "latency":
        widths, reached = _latency_widths(search, cost, target, latency)
        asked = f"{target}, measured {reached.median:.3f}"
    else:
        widths = search.within(cost, target.value * cost(search.full))
    reasons = {w.name: _reason(w, widths, sensitivity, cost, metric) for w in graph.widths if not w.tie}
    return Allocation(widths, {n: f"{asked}: {r}" for n, r in reasons.items()}, search.damage(widths))


def check_reachable(graph: ChannelGraph, costs: CostModel, target: Amount, limits: Limits) -> None:
    """Refuse a target of parameters or multiply-adds that not even the smallest widths meet; errors as `allocate`."""
    limits.check_names((w.layer, w.name) for w in graph.widths)
    if target.metric != "latency":
        cost = _cost(graph, costs, target.metric)
        least = cost(smallest_widths(graph, limits)) / cost(graph.full)
        if least > target.value:
            raise _unreachable(target, least)


def smallest_widths(graph: ChannelGraph, limits: Limits) -> dict[str, int]:
    """Every width as small as the limits allow, tied ones following."""
    return follow_ties(graph, {w.name: limits.smallest(w) for w in graph.widths})


class _Search:
    """The least damage within a budget, over the widths that limits allow."""

    def __init__(self, graph: ChannelGraph, sensitivity: Sensitivity, limits: Limits, start: Widths | None) -> None:
        self._graph, self.full = graph, graph.full
        self._sizes = {w.name: _sizes(w, limits, (start or self.full)[w.name]) for w in graph.widths if w.tie is None}
        self._damage = {n: {c: sensitivity.at(n, c) for c in sizes} for n, sizes in self._sizes.items()}
        self.smallest = follow_ties(graph, {name: sizes[0] for name, sizes in self._sizes.items()})

    def damage(self, widths: Widths) -> float:
        """The sum of the damages that each width does alone."""
        return sum(damage[widths[name]] for name, damage in self._damage.items())

    def within(self, cost: CostOf, budget: float) -> dict[str, int]:
        """Widths with the least damage found that cost at most the budget, which the smallest widths meet."""
        widths = {name: sizes[-1] for name, sizes in self._sizes.items()}

        def at(change: Widths) -> float:
            return cost({**widths, **change})

        while (now := at({})) > budget:
            savings = [(change, saved) for change in self._cuts(widths) if (saved := now - at(change)) > 0]
            widths |= min(savings, key=lambda found: -self._gain(widths, found[0]) / found[1])[0]
        for _ in range(_EXCHANGES):
            gains = [(self._gain(widths, change), change) for change in self._exchanges(widths)]
            better = sorted((g for g in gains if g[0] > 0), key=lambda g: -g[0])
            found = next((change for _, change in better if at(change) <= budget), None)
            if found is None:
                break
            widths |= found
        return follow_ties(self._graph, widths)

    def _gain(self, widths: Widths, change: Widths) -> float:
        """By how much a change lowers the damage."""
        return sum(self._damage[name][widths[name]] - self._damage[name][c] for name, c in change.items())

    def _cuts(self, widths: Widths) -> list[dict[str, int]]:
        return [{name: c} for name, sizes in self._sizes.items() for c in sizes if c < widths[name]]

    def _exchanges(self, widths: Widths) -> list[dict[str, int]]:
        """One width grown by a step, alone or with another one cut by any number of steps."""
        grown = [
            {name: min(c for c in sizes if c > widths[name])}
            for name, sizes in self._sizes.items()
            if widths[name] < sizes[-1]
        ]
        return grown + [{**more, **less} for more in grown for less in self._cuts(widths) if not more.keys() & less]


def _sizes(width: WidthGroup, limits: Limits, largest: int) -> list[int]:
    """The sizes to consider, ascending, the largest last."""
    multiple, smallest = limits.multiple(width), min(limits.smallest(width), largest)
    step = multiple * max(1, width.channels // (multiple * _SIZES))
    return sorted({smallest, *range(-(-smallest // step) * step, largest, step), largest})


def _cost(graph: ChannelGraph, costs: CostModel, metric: str) -> CostOf:
    count = costs.parameters if metric == "params" else costs.gmacs
    return lambda widths: count(follow_ties(graph, widths))


def _latency_widths(search: _Search, cost: CostOf, target: Amount, latency: Clock) -> tuple[dict[str, int], TimeShare]:
    """The most costly widths found whose measured latency meets the target, and that latency.

    By bisection of the budget of multiply-adds; where no trial meets the target, more are spread over all budgets.
    """
    full, least = cost(search.full), cost(search.smallest) / cost(search.full)
    found: dict[tuple[int, ...], tuple[float, dict[str, int], TimeShare]] = {}

    def meets(budget: float) -> bool:
        widths = search.within(cost, budget * full)
        key = tuple(widths.values())
        if key not in found:
            found[key] = cost(widths), widths, latency(widths)
        return found[key][2].median <= target.value

    low, high, trial = least, 1.0, max(least, target.value)
    for _ in range(_TRIALS):
        low, high = (trial, high) if meets(trial) else (low, trial)
        trial = (low + high) / 2
    if low == least and not any(share.median <= target.value for _, _, share in found.values()):
        for k in range(_SPREAD):
            meets(least + (1 - least) * k / _SPREAD)
    good = [trial for trial in found.values() if trial[2].median <= target.value]
    if good:
        return max(good, key=lambda trial: trial[0])[1:]
    _, widths, best = min(found.values(), key=lambda trial: trial[2].median)
    if best.low > target.value:
        raise ConfigError(
            f"target: expected one that this device can reach, got {target}, but the fastest of {len(found)} models "
            f"that were measured takes {best}; ask for more than that, or for gmacs="
        )
    missed = f"missed by {best.median - target.value:.3f}, which is less than the clock can tell"
    warnings.warn(f"target {target}: {missed}; the fastest model found takes {best}", UserWarning, stacklevel=2)
    return widths, best


def check_latency(
    graph: ChannelGraph, costs: CostModel, target: Amount, limits: Limits, latency: Clock, runtime: str
) -> None:
    """Refuse a target of latency that a device can't reach, and warn of one that is at the edge of what it can.

    The smallest widths are measured; where they miss the target, half a cut too, since the smallest need not be the
    fastest. What is nearer to the target than the clock can tell is not refused. The `runtime` is what people read.

    Raises:
        ConfigError: The target is out of reach.
    """
    widths, what = smallest_widths(graph, limits), "the smallest model that the limits allow"
    best = latency(widths)
    if best.median > target.value:
        halved = uniform_widths(graph, 0.5, limits)
        if (found := latency(halved)).median < best.median:
            widths, what, best = halved, "the model of half the widths, faster than the smallest,", found
    if best.median <= target.value:
        return
    reach = f"{what} takes {best} on {runtime}"
    if best.low <= target.value:
        warnings.warn(f"target {target}: at the edge of what can be reached: {reach}", UserWarning, stacklevel=2)
        return
    left = costs.gmacs(widths) / costs.gmacs(graph.full)
    why = "the chosen layers and limits leave no more to save; choose layers=all, or loosen min_channels and max_ratio"
    if best.median > left + _OVERHEAD:
        why = (
            f"with {left:.3f} of the multiply-adds left, most of that goes to launching operations and moving data, "
            "which narrower layers don't save; ask for gmacs= instead, and measure where it will run: exported (ONNX, "
            "TensorRT), with larger batches, or at a smaller imgsz"
        )
    raise ConfigError(f"target: expected one that this device can reach, got {target}, but {reach}: {why}")


def _unreachable(target: Amount, least: float) -> ConfigError:
    return ConfigError(
        f"target: expected one that the chosen layers can meet, got {target}, but with every width at its smallest "
        f"{least:.3f} of the {TARGETS[target.metric]} are left; ask for more than that, loosen min_channels and "
        "max_ratio, or choose layers=all"
    )


def _reason(width: WidthGroup, widths: Widths, sensitivity: Sensitivity, cost: CostOf, metric: str) -> str:
    """Why a width is what it is, by its damage alone and what it saves, the others being what they are."""
    now = widths[width.name]
    total = cost(widths)
    if now < width.channels:
        saved = cost({**widths, width.name: width.channels}) - total
        return f"costs {sensitivity.at(width.name, now):.2g} alone, saves {saved / total:.1%} of the {TARGETS[metric]}"
    points = sensitivity.damage[width.name]
    if not points:
        return "at its limit"
    least = max(points)
    saved = total - cost({**widths, width.name: least})
    return f"kept: {least} would cost {points[least]:.2g} alone and save {saved / total:.1%}"
