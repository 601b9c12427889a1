"""Widths for a target: the least damage that meets a budget of parameters, multiply-adds or latency.

From the full widths, the cut with the least damage per saving is taken again and again until the budget is met (damage
from `sensitivity.py`, savings from the exact cost of all widths together, see `cost_model.py`); then widths are
exchanged, one grown and another cut, for as long as that lowers the damage within the budget.
"""

from collections.abc import Callable
from dataclasses import dataclass

from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import TARGETS, Amount
from depgraph_hsic_only.channels.groups import ChannelGraph, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.widths import Widths, follow_ties
from depgraph_hsic_only.errors import ConfigError

_SIZES = 32  # that are considered for each width
_EXCHANGES = 200
_TRIALS = 6  # of a latency

CostOf = Callable[[Widths], float]
"""What widths cost; tied ones follow the free ones."""


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
    latency: CostOf | None = None,
) -> Allocation:
    """Widths of all width groups of the unpruned model with the least damage found that meet the target.

    Args:
        start: Widths that have been reached already and won't grow again.
        latency: Measures the latency of the model with some widths as a share of the unpruned one's; for a target of
            latency, which is met by trying budgets of multiply-adds.

    Raises:
        ConfigError: Not even the smallest widths meet the target, or a limit names a width that is not there.
    """
    check_reachable(graph, costs, target, limits)
    search = _Search(graph, sensitivity, limits, start)
    metric = "gmacs" if target.metric == "latency" else target.metric
    cost = _cost(graph, costs, metric)
    if latency is not None and target.metric == "latency":
        widths = _latency_widths(search, cost, target, latency)
    else:
        widths = search.within(cost, target.value * cost(search.full))
    reasons = {w.name: _reason(w, widths, sensitivity, cost, metric) for w in graph.widths if not w.tie}
    return Allocation(widths, {n: f"{target}: {r}" for n, r in reasons.items()}, search.damage(widths))


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


def _latency_widths(search: _Search, cost: CostOf, target: Amount, latency: CostOf) -> dict[str, int]:
    """The largest budget of multiply-adds found, by bisection, whose measured latency meets the target."""
    full = cost(search.full)
    low, high = cost(search.smallest) / full, 1.0
    found, reached = search.smallest, latency(search.smallest)
    if reached > target.value:
        raise _unreachable(target, reached)
    trial = max(low, target.value)
    for _ in range(_TRIALS):
        widths = search.within(cost, trial * full)
        if latency(widths) <= target.value:
            found, low = widths, trial
        else:
            high = trial
        trial = (low + high) / 2
    return found


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
