"""The result of a run among what else costs as little: what cutting has gained over the other ways."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from depgraph_hsic_only.report.figures.labels import label_points
from depgraph_hsic_only.report.figures.pareto import pareto_front
from depgraph_hsic_only.report.figures.style import BLUE, GREY, ORANGE, open_figure
from depgraph_hsic_only.report.tables import kinds_in

Row = Mapping[str, Any]
"""A stage of `report.json`, or a rival."""

_UNPRUNED: Row = {"color": "black", "marker": "*", "markersize": 13}
_RESULT: Row = {"color": BLUE, "marker": "o", "markersize": 9}
_RIVAL: Row = {"color": ORANGE, "marker": "s", "markersize": 6}
_AS_CUT: Row = {"color": BLUE, "marker": "o", "markersize": 6, "markerfacecolor": "white"}
_ROOM = 0.25  # of the range of an axis, around the points, for their names


class _Point(NamedTuple):
    cost: float
    value: float
    name: str
    look: Row


def plot_rivals(before: Row, stages: Sequence[Row], rivals: Sequence[Row]) -> Figure:
    """The primary mAP50-95 against latency and multiply-adds: the unpruned model, the result, and the rivals.

    What can be had without cutting lies on a line, as far as nothing else there is better; the legend says where the
    result has had more training. Another line goes up from the cut model as it was before any repair, where that was
    measured.

    Args:
        before: The model before the cut, a stage of `report.json`.
        stages: The stages from the cut on; the last one is the result.
        rivals: `rivals` of `report.json`.
    """
    after, kind = stages[-1], kinds_in(before)[-1]
    key, as_cut = f"map50_95_{kind}", stages[0]["details"].get("as_cut", {})
    lowest = as_cut.get(key) if as_cut.get("parameters") == stages[0]["parameters"] else None  # else of a step undone
    ahead = after["epochs"] and not any(row["epochs"] for row in rivals)
    without = "without cutting, and not trained on as the result was" if ahead else "without cutting"
    figure, panels = open_figure(10, 4.2, 2, sharey=True)
    costs: dict[str, Callable[[Row], float | None]] = {"latency as deployed, ms": _latency}
    costs["multiply-adds, billions"] = lambda row: row["gmacs"]
    drawn = []
    for axes, (title, cost) in zip(panels, costs.items(), strict=True):
        unpruned = _point(cost(before), before[key], f"unpruned, {before['imgsz']} px", _UNPRUNED)
        result = _point(cost(after), after[key], f"the result, {after['imgsz']} px", _RESULT)
        uncut = unpruned + [
            point
            for row in rivals
            for point in _point(
                cost(row), row["map50_95"].get(kind), row["name"].removeprefix("the unpruned model "), _RIVAL
            )
        ]
        front = [uncut[k] for k in pareto_front([point[:2] for point in uncut])]
        axes.plot([p.cost for p in front], [p.value for p in front], color=ORANGE, zorder=1, label=without)
        low = _point(cost(after), lowest, "as cut, before any repair", _AS_CUT) if result else []
        axes.plot([p.cost for p in low + result], [p.value for p in low + result], color=BLUE, linestyle=":", zorder=1)
        every = uncut + result + low
        for point in every:
            axes.plot(*point[:2], linestyle="none", zorder=3, **point.look)
        axes.set(xlabel=title)
        axes.margins(_ROOM)
        axes.grid(color=GREY, alpha=0.25)
        drawn.append((axes, [point[:2] for point in every], [point[:3] for point in every]))
    panels[0].set(ylabel=f"{kind} mAP50-95", ylim=(0, None))
    figure.legend(handles=panels[0].lines[:1], loc="outside upper center", fontsize=9, frameon=False)
    figure.draw_without_rendering()  # so that it is known where everything is
    for given in drawn:
        label_points(*given, size=9)
    return figure


def _point(cost: float | None, value: float | None, name: str, look: Row) -> list[_Point]:
    """One, where both were measured."""
    return [] if cost is None or value is None else [_Point(cost, value, name, look)]


def _latency(row: Row) -> float | None:
    """Milliseconds: of a stage as it is deployed, or of a rival."""
    found: float | None = row["latency_ms"][row["deployed"]] if "deployed" in row else row["latency_ms"]
    return found
