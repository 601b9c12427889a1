"""Figures of how it was cut: scores, sensitivity, the path of the lasso."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.hsic import LassoPath
from depgraph_hsic_only.report.figures.style import BLUE, GREEN, GREY, ORANGE, name_powers_plainly, open_figure


def plot_scores(scores: Mapping[str, Sequence[float]], kept: Mapping[str, int] | None = None) -> Figure:
    """Importance of the channels of each group, the highest first, with a line where the cut is.

    Groups in which half of the channels have less than a twentieth of the highest are drawn on a logarithmic scale.

    Args:
        scores: Importance of each channel by channel group, in the order of the network.
        kept: Channels that stay, by channel group, but for groups in blocks that are left out; no lines where it is
            None.
    """
    figure, panels = _grid(len(scores), columns=6)
    for axes, (name, values) in zip(panels, scores.items(), strict=True):
        stay = len(values) if kept is None else kept.get(name, 0)
        ranked = sorted(values, reverse=True)
        axes.fill_between(range(1, stay + 1), ranked[:stay], step="mid", color=BLUE, alpha=0.6)
        axes.fill_between(range(stay + 1, len(ranked) + 1), ranked[stay:], step="mid", color=GREY, alpha=0.6)
        axes.plot(range(1, len(ranked) + 1), ranked, color=BLUE, linewidth=1)
        if stay < len(ranked):
            axes.axvline(stay + 0.5, color=ORANGE, linewidth=1.5)
        axes.set_title(f"{name}: {stay} of {len(ranked)}", fontsize=8)
        if ranked[0] > 0 and ranked[len(ranked) // 2] < 0.05 * ranked[0]:  # else a spike would hide the rest
            axes.set(yscale="log", ylim=(1e-4 * ranked[0], 1.5 * ranked[0]))
            name_powers_plainly(axes.yaxis)
        else:
            axes.set_ylim(min(0.0, ranked[-1]), None)
        _label_sparsely(axes)
    figure.supxlabel("channel, by rank", fontsize=9)
    figure.supylabel("importance", x=0.008, fontsize=9)
    return figure


def plot_sensitivity(sensitivity: Sensitivity, after: Mapping[str, int]) -> Figure:
    """Damage of each width cut alone, as measured and as interpolated, with the width that was chosen.

    Args:
        sensitivity: What was measured, of one width at least; those that were not measured are left out.
        after: The chosen widths, by width group; what it doesn't name is uncut.
    """
    shown = {name: full for name, full in sensitivity.full.items() if sensitivity.damage[name]}
    figure, panels = _grid(len(shown), columns=7, sharey=True)
    for axes, (name, full) in zip(panels, shown.items(), strict=True):
        points, chosen = sensitivity.damage[name], after.get(name, full)
        smallest = min([*points, full - 1, chosen])
        sizes = [smallest + k * (full - 1 - smallest) / 40 for k in range(41)]
        axes.plot([size / full for size in sizes], [sensitivity.at(name, size) for size in sizes], color=BLUE)
        axes.plot([c / full for c in points], list(points.values()), "o", color=BLUE, markersize=4)
        axes.axvline(chosen / full, color=ORANGE, linewidth=1.5)
        axes.set(yscale="log", xlim=(1.04, 0.0 if smallest else -0.04))
        name_powers_plainly(axes.yaxis)
        axes.set_title(f"{name}: {full} -> {chosen}", fontsize=9)
        _label_sparsely(axes)
    figure.supxlabel("share of the channels that stays (orange: chosen)", fontsize=9)
    figure.supylabel("divergence, that width alone cut and re-fitted", x=0.008, fontsize=9)
    return figure


def plot_lasso_path(path: LassoPath, *, threshold: float | None = None) -> Figure:
    """Coefficients of a non-negative lasso along its path, one line for each channel.

    Args:
        path: Of `HsicLassoPruner.path` or `hsic.nonnegative_lasso_path`.
        threshold: Share of λ_max at which to draw the threshold; None for none.
    """
    figure, [axes] = open_figure(8, 4.5)
    share = path.lambdas / path.lambdas.max()
    shown = share > 0
    for rank, k in enumerate(path.entry.argsort()[::-1]):
        color, width = ((BLUE, ORANGE, GREEN)[rank % 3], 1.4) if rank < 12 else (GREY, 0.6)
        axes.plot(share[shown], path.coefs[shown, k], color=color, linewidth=width)
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
        axes.legend(fontsize=8)
    axes.set(xscale="log", xlabel="λ / λ_max (the path goes from left to right)", ylabel="coefficient α")
    name_powers_plainly(axes.xaxis)
    axes.invert_xaxis()
    axes.set_title(f"{int((path.entry > 0).sum())} of {len(path.entry)} channels enter; the first twelve in colour")
    return figure


def _label_sparsely(axes: Axes) -> None:
    """Few and small ticks: drawing them is most of the time that a figure of seventy panels takes."""
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(**{"numticks" if axis.get_scale() == "log" else "nbins": 4})
    axes.tick_params(labelsize=7)


def _grid(count: int, *, columns: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in rows; what is left over of the last row is not shown.

    Its margins are fixed, since fitting them to seventy panels takes longer than drawing these.
    """
    rows = -(-count // columns)
    width, height = 13.0, 1.9 * rows + 0.3  # inches
    margins = {"left": 0.8 / width, "right": 1 - 0.1 / width, "bottom": 0.55 / height, "top": 1 - 0.3 / height}
    margins |= {"wspace": 0.12 if sharey else 0.32, "hspace": 0.4}  # of a panel
    figure, panels = open_figure(width, height, columns, rows, fitted=False, sharey=sharey, gridspec_kw=margins)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]
