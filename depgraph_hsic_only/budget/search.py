"""Widths of least damage within bounds: cut greedily, then exchanged.

From the full widths, the cut with the least damage per saving is taken again and again until all bounds hold (damage
from `sensitivity.py`, savings from the exact cost of all widths together, see `cost_model.py`); then widths are
exchanged, one grown and another cut, for as long as that lowers the damage within the bounds. No cut raises a cost, so
bounds that the smallest widths meet one by one can be met together.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NamedTuple

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.groups import ChannelGraph, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.widths import Widths, follow_ties

_SIZES = 32  # that are considered for each width
_EXCHANGES = 200

CostOf = Callable[[Widths], float]
"""What widths cost; tied ones follow the free ones."""


class Bound(NamedTuple):
    """The most that widths may cost by one metric."""

    cost: CostOf
    limit: float  # above 0


class Search:
    """The least damage within bounds of the costs, over the widths that limits allow."""

    def __init__(self, graph: ChannelGraph, sensitivity: Sensitivity, limits: Limits, start: Widths | None) -> None:
        self._graph, self.full = graph, graph.full
        self._sizes = {w.name: _sizes(w, limits, (start or self.full)[w.name]) for w in graph.widths if w.tie is None}
        self._damage = {n: {c: sensitivity.at(n, c) for c in sizes} for n, sizes in self._sizes.items()}
        self.smallest = follow_ties(graph, {name: sizes[0] for name, sizes in self._sizes.items()})

    def damage(self, widths: Widths) -> float:
        """The sum of the damages that each width does alone."""
        return sum(damage[widths[name]] for name, damage in self._damage.items())

    def within(self, bounds: Sequence[Bound]) -> dict[str, int]:
        """Widths with the least damage found that are within all bounds, as the smallest widths are.

        What is cut next has the least damage per saving of what is furthest above its bound.
        """
        widths = {name: sizes[-1] for name, sizes in self._sizes.items()}

        def at(bound: Bound, change: Widths = MappingProxyType({})) -> float:
            return bound.cost({**widths, **change})

        while at(worst := max(bounds, key=lambda bound: at(bound) / bound.limit)) > worst.limit:
            now = at(worst)
            savings = [(change, saved) for change in self._cuts(widths) if (saved := now - at(worst, change)) > 0]
            widths |= min(savings, key=lambda found: -self._gain(widths, found[0]) / found[1])[0]
        for _ in range(_EXCHANGES):
            gains = [(self._gain(widths, change), change) for change in self._exchanges(widths)]
            better = sorted((g for g in gains if g[0] > 0), key=lambda g: -g[0])
            found = next((c for _, c in better if all(at(bound, c) <= bound.limit for bound in bounds)), None)
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
