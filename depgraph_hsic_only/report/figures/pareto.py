"""Accuracy against cost: the models of a comparison, and those that nothing else beats in both."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from depgraph_hsic_only.report.figures.labels import label_points
from depgraph_hsic_only.report.figures.style import BLUE, GREEN, GREY, ORANGE, open_figure
from depgraph_hsic_only.report.tables import kinds_in

_COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_MARKERS = "osD^vPX"  # told apart where there is no colour
_CONTROL: dict[str, Any] = {"color": "black", "marker": "*"}
_FILLS = {"float": "none", "half": "left", "int8": "full"}  # of a marker, by precision
_SIZES = (9.0, 5.0)  # of the markers of the largest images and of the smallest, points of type
_STAR = 1.6  # times as large as others
_FAINT = 0.3  # what something else beats
_BELOW = 0.4  # of the range of mAPs: room below them, for labels
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
    """The primary mAP50-95 against parameters, multiply-adds and latency, with spreads over seeds.

    Each panel has one front over all models; what is on it has its name beside it, and the others are faint. Colours
    and shapes are those of criteria, a star is the unpruned model, larger markers are of larger images, and full ones
    of files in int8.

    Args:
        summaries: `summary` of `comparison.json`; unpruned models are those whose target is None. What has no latency
            is left out of that panel.
    """
    kind = kinds_in(summaries[0])[-1]
    looks, legend = _looks(summaries)
    worst, best = (of(summary[f"map50_95_{kind}"] for summary in summaries) for of in (min, max))
    floor = max(0.0, worst - _BELOW * (best - worst))
    figure, panels = open_figure(14, 5.2, len(_PANELS), sharey=True)
    drawn = []
    for axes, (key, (title, unit)) in zip(panels, _PANELS.items(), strict=True):
        shown = [k for k, s in enumerate(summaries) if s[key] is not None]
        points = [(summaries[k][key] / unit, summaries[k][f"map50_95_{kind}"]) for k in shown]
        front = pareto_front(points)
        axes.plot(*zip(*(points[n] for n in front), strict=True), color=GREY, linewidth=1.2, zorder=1)
        for n, (k, (x, y)) in enumerate(zip(shown, points, strict=True)):
            alpha = 1.0 if n in front else _FAINT
            spread = summaries[k][f"{kind}_spread"]
            axes.errorbar(x, y, yerr=spread, linestyle="none", capsize=3, alpha=alpha, **looks[k])
        axes.margins(x=0.12, y=0.12)
        axes.set(xlabel=title, ylim=(floor, None))
        drawn.append((axes, points, [(*points[n], _name(summaries[shown[n]], summaries)) for n in front]))
    panels[0].set_ylabel(f"{kind} mAP50-95")
    columns = min(len(legend), 9)
    figure.legend(handles=legend, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)
    figure.draw_without_rendering()  # so that it is known where everything is
    for given in drawn:
        label_points(*given)
    return figure


def _looks(summaries: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Line2D]]:
    """How each model is drawn, and a legend of that."""
    criteria = dict.fromkeys(s["criterion"] for s in summaries if s["target"] is not None)
    styles = {name: {"color": c, "marker": m} for name, c, m in zip(criteria, cycle(_COLORS), cycle(_MARKERS))}
    sides, precisions = (list(dict.fromkeys(s.get(key) for s in summaries)) for key in ("imgsz", "precision"))
    least, most = min(s or 0 for s in sides), max(s or 0 for s in sides)

    def look(style: Mapping[str, Any], side: Any, precision: Any) -> dict[str, Any]:
        share = ((side or 0) - least) / (most - least) if most > least else 1.0
        size, star = _SIZES[1] + share * (_SIZES[0] - _SIZES[1]), style is _CONTROL
        fill = "full" if star and len(precisions) == 1 else _FILLS.get(precision, "none")
        shape = {"markersize": size * (_STAR if star else 1), "fillstyle": fill, "markerfacecoloralt": "white"}
        return {**style, **shape, "markeredgewidth": 1.2 if star else 1.8, "zorder": 3 if star else 2}

    found = [
        look(_CONTROL if s["target"] is None else styles[s["criterion"]], s.get("imgsz"), s.get("precision"))
        for s in summaries
    ]
    plain = {"color": GREY, "marker": "o"}
    named = [(name, look(style, most, precisions[0])) for name, style in styles.items()]
    if any(s["target"] is None for s in summaries):
        named.insert(0, ("unpruned", look(_CONTROL, most, precisions[0])))
    named += [(f"{side} px", look(plain, side, precisions[0])) for side in sides if len(sides) > 1]
    named += [(str(name), look(plain, most, name)) for name in precisions if len(precisions) > 1]
    legend = [Line2D([], [], linestyle="none", label=name, **style) for name, style in named]
    return found, [*legend, Line2D([], [], color=GREY, linewidth=1.2, label="front")]


def _name(summary: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]) -> str:
    """What a model is, beside its criterion."""
    several = [key for key in ("imgsz", "precision") if len({s.get(key) for s in summaries}) > 1]
    axes = [f"{summary[key]}{' px' * (key == 'imgsz')}" for key in several if summary[key] != "float"]
    return ", ".join([summary["target"] or "unpruned", *axes])
