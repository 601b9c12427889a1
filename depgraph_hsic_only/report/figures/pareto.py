"""Accuracy against cost: the models of a comparison, and those that nothing else beats in both."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure

from depgraph_hsic_only.report.figures.style import BLUE, GREEN, GREY, ORANGE, open_figure
from depgraph_hsic_only.report.tables import kinds_in

_COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_MARKERS = "osD^vPX"  # told apart where there is no colour
_POINT: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 1.8, "capsize": 3}
_CONTROL: dict[str, Any] = {"color": "black", "marker": "*", "markersize": 13, "markerfacecolor": "black", "zorder": 3}
_CUT: dict[str, Any] = {"markersize": 7, "markerfacecolor": "none", "zorder": 2}  # one behind another is seen
_PANELS = {"parameters": ("parameters, millions", 1e6), "gmacs": ("multiply-adds, billions", 1.0)}
_PANELS |= {"latency_ms": ("latency, ms", 1.0)}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other one beats: none costs no more, is worth no less, and differs.

    Returns:
        The indices in the order of cost. Equal points are all on the front, or none.
    """
    beaten = (any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points) for cost, value in points)
    return sorted((k for k, worse in enumerate(beaten) if not worse), key=lambda k: points[k])


def plot_pareto(summaries: Sequence[Mapping[str, Any]]) -> Figure:
    """The primary mAP50-95 against parameters, multiply-adds and latency, with spreads over seeds and the front.

    Args:
        summaries: `summary` of `comparison.json`; the control is the one whose target is None. What has no latency is
            left out of that panel.
    """
    kind = kinds_in(summaries[0])[-1]
    criteria = dict.fromkeys(s["criterion"] for s in summaries if s["target"] is not None)
    looks = {name: dict(_CUT, color=c, marker=m) for name, c, m in zip(criteria, cycle(_COLORS), cycle(_MARKERS))}
    figure, panels = open_figure(13, 4.4, len(_PANELS), sharey=True)
    for axes, (key, (title, unit)) in zip(panels, _PANELS.items(), strict=True):
        shown = [s for s in summaries if s[key] is not None]
        points = [(s[key] / unit, s[f"map50_95_{kind}"]) for s in shown]
        front = [points[k] for k in pareto_front(points)]
        axes.plot([x for x, _ in front], [y for _, y in front], color=GREY, linewidth=1.2, zorder=1, label="front")
        for summary, (x, y) in zip(shown, points, strict=True):
            name, spread = summary["criterion"], summary[f"{kind}_spread"]
            look = _CONTROL if summary["target"] is None else looks[name]
            axes.errorbar(x, y, yerr=spread, label=name, **_POINT, **look)
        axes.margins(x=0.12, y=0.12)
        axes.set(xlabel=title, ylim=(0, None))
    panels[0].set_ylabel(f"{kind} mAP50-95")
    handles, labels = panels[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=len(named), fontsize=9, frameon=False)
    return figure
