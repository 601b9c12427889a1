"""Figures of a run, from what its report holds: training curves, stages, widths."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.hsic import LassoPath
from depgraph_hsic_only.plan import PruningPlan
from depgraph_hsic_only.sensitivity import Sensitivity

# Okabe & Ito (2008): told apart by everybody.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
_NAMES = {"baseline": "baseline", "trained": "trained", "pruned": "pruned", "fine_tuned": "fine-tuned"}


def plot_metrics(run_folder: str | Path) -> list[Path]:
    """Draw the figures of a run from its `report.json` into its `plots` folder.

    Args:
        run_folder: A folder that a run wrote.

    Returns:
        The PNG files: `stages.png`, `widths.png`, `scores.png` where channels were scored, `sensitivity.png` where
            widths were chosen for a target, `trajectory.png` where the cut had several steps, `training.png` where
            there was a training.

    Raises:
        DataError: The folder holds no report.
    """
    folder = Path(run_folder)
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: expected a run folder with a report.json, got {error}; pass a run's folder"
        ) from error
    figures = {"stages": plot_stages(report["stages"]), "widths": plot_widths(**report["widths"])}
    scored = [stage for stage in report["stages"] if stage["details"].get("scores")]
    if scored:
        figures["scores"] = plot_scores(scored[-1]["details"]["scores"], _kept(folder))
    sensitivity = folder / "sensitivity.json"
    if sensitivity.is_file():
        damage = Sensitivity.from_dict(json.loads(sensitivity.read_text(encoding="utf-8")))
        figures["sensitivity"] = plot_sensitivity(damage, report["widths"]["after"])
    for stage in report["stages"]:
        if sum(point["map50_95_mask"] is not None for point in stage["details"].get("trajectory", ())) > 1:
            figures["trajectory"] = plot_trajectory(stage["details"]["trajectory"])
    if any(stage["epochs"] for stage in report["stages"]):
        figures["training"] = plot_training(report["stages"])
    (folder / "plots").mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / "plots" / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths


def plot_stages(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Parameters, multiply-adds, mAP and latency after each stage, as bars; what was not measured has none.

    Args:
        stages: The stages of `report.json`.
    """
    names = [_NAMES[stage["name"]] for stage in stages]
    runtimes = {"PyTorch": "torch", "onnxruntime": "onnxruntime"}
    panels: list[tuple[str, str, dict[str, list[float | None]]]] = [
        ("parameters, millions", "%.3f", {"": [stage["parameters"] / 1e6 for stage in stages]}),
        ("multiply-adds, billions", "%.3f", {"": [stage["gmacs"] for stage in stages]}),
        ("mAP50-95", "%.3f", {part: [s[f"map50_95_{part}"] for s in stages] for part in ("box", "mask")}),
        ("latency, ms", "%.1f", {name: [s["latency_ms"][key] for s in stages] for name, key in runtimes.items()}),
    ]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for axes, (title, form, series) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        width = 0.8 / len(series)
        for k, (label, values) in enumerate(series.items()):
            places = [i + (k - (len(series) - 1) / 2) * width for i, value in enumerate(values) if value is not None]
            bars = axes.bar(
                places, [value for value in values if value is not None], width, color=(_BLUE, _ORANGE)[k], label=label
            )
            axes.bar_label(bars, fmt=form, fontsize=8)
        axes.set_title(title)
        axes.set_xticks(range(len(names)), names, rotation=20)
        axes.margins(y=0.25 if len(series) > 1 else 0.1)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(fontsize=8, ncols=2, loc="upper right")
    return figure


def plot_widths(before: Mapping[str, int], after: Mapping[str, int]) -> Figure:
    """Widths before and after, in the order of the network, with the share that is left.

    Args:
        before: Channels by width group (see `graph.WidthGroup`).
        after: The same after the cut.
    """
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes = figure.subplots()
    places = range(len(before))
    axes.bar(places, list(before.values()), color=_GREY, alpha=0.45, label="before")
    bars = axes.bar(places, [after[name] for name in before], width=0.55, color=_BLUE, label="after")
    axes.bar_label(bars, [f"{after[name] / count:.0%}" for name, count in before.items()], fontsize=7)
    axes.set_xticks(places, list(before), fontsize=8)
    axes.set_ylabel("channels")
    axes.set_xlabel("w: output of a layer, h: hidden width of a layer or of a branch of the head, npr: prototypes")
    axes.set_title("Widths")
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_sensitivity(sensitivity: Sensitivity, after: Mapping[str, int]) -> Figure:
    """Damage of each width cut alone, as measured and as interpolated, with the width that was chosen.

    Args:
        sensitivity: What was measured.
        after: The chosen widths, by width group.
    """
    columns = 7
    rows = -(-len(sensitivity.full) // columns)
    figure = Figure(figsize=(13, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (name, full) in zip(panels, sensitivity.full.items(), strict=False):
        points = sensitivity.damage[name]
        smallest = min([*points, full - 1, after[name]])
        sizes = [smallest + k * (full - 1 - smallest) / 40 for k in range(41)]
        axes.plot([size / full for size in sizes], [sensitivity.at(name, size) for size in sizes], color=_BLUE)
        axes.plot([c / full for c in points], list(points.values()), "o", color=_BLUE, markersize=4)
        axes.axvline(after[name] / full, color=_ORANGE, linewidth=1.5)
        axes.set_yscale("log")
        axes.set_xlim(1.04, 0.0)
        axes.set_title(f"{name}: {full} -> {after[name]}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(sensitivity.full) :]:
        axes.set_visible(False)
    figure.supxlabel("share of the channels that stays (orange: chosen)", fontsize=9)
    figure.supylabel("divergence, that width alone cut and re-fitted", fontsize=9)
    return figure


def plot_trajectory(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Mask mAP against parameters through all cuts (blue) and the fine-tunings after them (orange).

    Args:
        points: `details.trajectory` of a stage of `report.json`: "step", "parameters", "map50_95_mask".
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    first = points[0]["parameters"]
    x = [point["parameters"] / first for point in points]
    y = [point["map50_95_mask"] for point in points]
    for k in range(1, len(points)):
        tuned = points[k]["step"] == points[k - 1]["step"]
        color, label = (_ORANGE, "fine-tuned") if tuned else (_BLUE, "cut and recovered")
        axes.plot(x[k - 1 : k + 1], y[k - 1 : k + 1], color=color, marker="o", markersize=4, label=label)
    axes.invert_xaxis()
    axes.set_ylim(0, None)
    axes.set_xlabel("share of the parameters that is left")
    axes.set_ylabel("mask mAP50-95")
    axes.set_title("Steps of the cut")
    _legend(axes)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_training(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses, mAPs and learning rate of all trainings, one after the other along one axis of epochs.

    Args:
        stages: The stages of `report.json`; those without epochs are passed over.
    """
    trained = [stage for stage in stages if stage["epochs"]]
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    first = 0
    for stage in trained:
        epochs, style = stage["epochs"], {"marker": "o", "markersize": 3}
        x = [first + k + 1 for k in range(len(epochs))]
        lines = (
            (panels[0], _BLUE, "training", [_loss(e, "train") for e in epochs]),
            (panels[0], _ORANGE, "validation", [_loss(e, "val") for e in epochs]),
            (panels[1], _BLUE, "box", [e["metrics/mAP50-95(B)"] for e in epochs]),
            (panels[1], _ORANGE, "mask", [e["metrics/mAP50-95(M)"] for e in epochs]),
            (panels[2], _GREEN, "first parameter group", [e["lr/pg0"] for e in epochs]),
        )
        for axes, color, label, values in lines:
            points = [(at, value) for at, value in zip(x, values, strict=True) if value is not None]
            axes.plot(*zip(*points, strict=True), color=color, label=label, **style)
        for axes in panels:
            axes.axvline(first + 0.5, color=_GREY, linewidth=0.8)
            axes.text(first + 0.6, 1.0, _NAMES[stage["name"]], transform=axes.get_xaxis_transform(), fontsize=8)
        first += len(epochs)
    panels[1].set_ylim(0, 1.05 * panels[1].get_ylim()[1])
    panels[2].yaxis.set_major_formatter("{x:g}")
    for axes, title in zip(panels, ("sum of the losses", "mAP50-95", "learning rate"), strict=True):
        axes.set_title(title, pad=14)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, first + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _legend(axes)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _legend(axes: Axes) -> None:
    """A legend in which every label stands once."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    axes.legend(named.values(), named.keys(), fontsize=8)


def _loss(epoch: Mapping[str, float | None], part: str) -> float | None:
    """The sum of an epoch's training or validation losses; None where they were not measured."""
    losses = [value for key, value in epoch.items() if key.startswith(f"{part}/") and key.endswith("_loss")]
    return None if None in losses else sum(value for value in losses if value is not None)


def plot_scores(scores: Mapping[str, Sequence[float]], kept: Mapping[str, int] | None = None) -> Figure:
    """Importance of the channels of each group, the highest first, with a line where the cut is.

    Groups in which half of the channels have less than a twentieth of the highest are drawn on a logarithmic scale.

    Args:
        scores: Importance of each channel by channel group, in the order of the network.
        kept: Channels that stay, by channel group; no lines where it is None.
    """
    columns = 6
    rows = -(-len(scores) // columns)
    figure = Figure(figsize=(13, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (name, values) in zip(panels, scores.items(), strict=False):
        stay = len(values) if kept is None else kept[name]
        ranked = sorted(values, reverse=True)
        axes.fill_between(range(1, stay + 1), ranked[:stay], step="mid", color=_BLUE, alpha=0.6)
        axes.fill_between(range(stay + 1, len(ranked) + 1), ranked[stay:], step="mid", color=_GREY, alpha=0.6)
        axes.plot(range(1, len(ranked) + 1), ranked, color=_BLUE, linewidth=1)
        if stay < len(ranked):
            axes.axvline(stay + 0.5, color=_ORANGE, linewidth=1.5)
        axes.set_title(f"{name}: {stay} of {len(ranked)}", fontsize=8)
        if ranked[0] > 0 and ranked[len(ranked) // 2] < 0.05 * ranked[0]:  # else a spike would hide the rest
            axes.set_yscale("log")
            axes.set_ylim(1e-4 * ranked[0], 1.5 * ranked[0])
        else:
            axes.set_ylim(min(0.0, ranked[-1]), None)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(scores) :]:
        axes.set_visible(False)
    figure.supxlabel("channel, by rank", fontsize=9)
    figure.supylabel("importance", fontsize=9)
    return figure


def plot_lasso_path(path: LassoPath, *, threshold: float | None = None) -> Figure:
    """Coefficients of a non-negative lasso along its path, one line for each channel.

    Args:
        path: Of `HsicLassoPruner.path` or `hsic.nonnegative_lasso_path`.
        threshold: Share of λ_max at which to draw the threshold; None for none.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    share = path.lambdas / path.lambdas.max()
    shown = share > 0
    order = path.entry.argsort()[::-1]
    for rank, k in enumerate(order):
        color, width = ((_BLUE, _ORANGE, _GREEN)[rank % 3], 1.4) if rank < 12 else (_GREY, 0.6)
        axes.plot(share[shown], path.coefs[shown, k], color=color, linewidth=width)
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
        axes.legend(fontsize=8)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("λ / λ_max (the path goes from left to right)")
    axes.set_ylabel("coefficient α")
    axes.set_title(f"{int((path.entry > 0).sum())} of {len(path.entry)} channels enter; the first twelve in colour")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _kept(folder: Path) -> dict[str, int] | None:
    """Channels that stay by channel group, of the plan in a run folder."""
    path = folder / "plan.json"
    return {group.name: len(group.keep) for group in PruningPlan.load(path).groups} if path.is_file() else None
