"""Figures of a run, from the stages of its report, and all that its folder holds the figures for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.report.figures.channels import plot_scores, plot_sensitivity
from depgraph_hsic_only.report.figures.fonts import find_fonts
from depgraph_hsic_only.report.figures.network import plot_network
from depgraph_hsic_only.report.figures.rivals import plot_rivals
from depgraph_hsic_only.report.figures.style import BLUE, GREEN, GREY, ORANGE, add_legend, open_figure
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.report.search import searched
from depgraph_hsic_only.report.stages import PRUNED, RUNTIMES, TITLES
from depgraph_hsic_only.report.tables import kinds_in
from depgraph_hsic_only.yolo.tasks import TASKS, map_column

_COLORS = (BLUE, ORANGE, GREEN)  # of series side by side
_RING: dict[str, Any] = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgecolor": "black"}
_KINDS = tuple(dict.fromkeys(kind for task in TASKS.values() for kind in task.kinds))  # of predictions, of any task


def plot_metrics(run_folder: str | Path) -> list[Path]:
    """Draw the figures of a run from its `report.json` into its `plots` folder.

    Args:
        run_folder: A folder that a run wrote.

    Returns:
        The PNG files: `stages.png`, `network.png`, `scores.png` where channels were scored, `sensitivity.png` where
            widths were chosen for a target, `search.png` where an image size or precision was, `rivals.png` where
            something else costs as little, `trajectory.png` where the cut had several steps, `training.png` where there
            was a training, `classes.png` where classes were measured before and after, `latency.png` where latencies
            were.

    Raises:
        DataError: The folder holds no report.
    """
    report = RunReport.load(run_folder)
    folder, after = report.folder, report.widths_after
    plan, sensitivity = folder / "plan.json", folder / "sensitivity.json"
    stages: list[dict[str, Any]] = report.to_dict()["stages"]
    figures = {"stages": plot_stages(stages)}
    if report.layers:  # older reports have none
        figures["network"] = plot_network(report.widths_before, after, report.layers)
    if scored := [stage["details"]["scores"] for stage in stages if stage["details"].get("scores")]:
        kept = {group.name: len(group.keep) for group in PruningPlan.load(plan).groups} if plan.is_file() else None
        figures["scores"] = plot_scores(scored[-1], kept)
    if sensitivity.is_file() and report.args["prune"]["target"] is not None:
        damage = Sensitivity.from_dict(json.loads(sensitivity.read_text(encoding="utf-8")))
        if any(damage.damage.values()):  # where neither width nor depth is an axis none was measured
            figures["sensitivity"] = plot_sensitivity(damage, after)
    if (search := searched(report.stages)) is not None:
        figures["search"] = plot_search(search, report.after.primary)
    for stage in stages:
        points = stage["details"].get("trajectory", ())
        if sum(point[f"map50_95_{report.after.primary}"] is not None for point in points) > 1:
            figures["trajectory"] = plot_trajectory(points)
    if report.rivals:
        cut = [stage.name for stage in report.stages].index(PRUNED.name)
        deployed = {f"map50_95_{kind}": value for kind, value in report.worth.items()}
        rows = [*stages[cut:-1], {**stages[-1], **deployed}]
        figures["rivals"] = plot_rivals(report.before.to_dict(), rows, report.to_dict()["rivals"])
    if any(stage["epochs"] for stage in stages):
        figures["training"] = plot_training(stages)
    if report.before.classes and report.after.classes:
        figures["classes"] = plot_classes(report.before.to_dict()["classes"], stages[-1]["classes"])
    if any(any(stage["latency_spread_ms"].values()) for stage in stages):
        figures["latency"] = plot_latency(stages)
    (folder / "plots").mkdir(exist_ok=True)
    paths = {name: folder / "plots" / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        figure.savefig(paths[name], dpi=150)
    return list(paths.values())


def plot_stages(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Parameters, multiply-adds, mAP and latency after each stage, as bars; what was not measured has none.

    Args:
        stages: The stages of `report.json`.
    """
    names, kinds = [TITLES[stage["name"]] for stage in stages], kinds_in(stages[0])
    runtimes = _runtimes(stages)
    panels: list[tuple[str, str, dict[str, list[float | None]]]] = [
        ("parameters, millions", "%.3f", {"": [stage["parameters"] / 1e6 for stage in stages]}),
        ("multiply-adds, billions", "%.3f", {"": [stage["gmacs"] for stage in stages]}),
        (
            "mAP50-95" if len(kinds) > 1 else f"{kinds[0]} mAP50-95",
            "%.3f",
            {kind: [s[f"map50_95_{kind}"] for s in stages] for kind in kinds},
        ),
        ("latency, ms", "%.1f", {name: [s["latency_ms"][key] for s in stages] for key, name in runtimes.items()}),
    ]
    figure, every = open_figure(13, 3.6, len(panels))
    for axes, (title, form, series) in zip(every, panels, strict=True):
        width = 0.8 / len(series)
        for k, (label, values) in enumerate(series.items()):
            left = (k - (len(series) - 1) / 2) * width
            there = {i + left: value for i, value in enumerate(values) if value is not None}
            bars = axes.bar(list(there), list(there.values()), width, color=_COLORS[k], label=label)
            axes.bar_label(bars, fmt=form, fontsize=8, rotation=90 if len(series) > 1 else 0, padding=2)
        axes.set_title(title)
        axes.set_xticks(range(len(names)), names, rotation=20)
        axes.margins(y=0.35 if len(series) > 1 else 0.1)
        axes.set_ylim(0, axes.get_ylim()[1])
        if len(series) > 1:
            axes.legend(fontsize=8, ncols=2, loc="upper right")
    return figure


def plot_trajectory(points: Sequence[Mapping[str, Any]]) -> Figure:
    """The primary mAP against parameters through all cuts (blue) and the fine-tunings after them (orange).

    Args:
        points: `details.trajectory` of a stage of `report.json`: "step", "parameters", and such as "map50_95_mask".
    """
    kind = kinds_in(points[0])[-1]
    figure, [axes] = open_figure(8, 4.5)
    x = [point["parameters"] / points[0]["parameters"] for point in points]
    y = [point[f"map50_95_{kind}"] for point in points]
    for k in range(1, len(points)):
        tuned = points[k]["step"] == points[k - 1]["step"]
        color, label = (ORANGE, "fine-tuned") if tuned else (BLUE, "cut and recovered")
        axes.plot(x[k - 1 : k + 1], y[k - 1 : k + 1], color=color, marker="o", markersize=4, label=label)
    axes.invert_xaxis()
    axes.set(title="Steps of the cut", xlabel="share of the parameters that is left", ylim=(0, None))
    axes.set_ylabel(f"{kind} mAP50-95")
    add_legend(axes)
    return figure


def plot_search(search: Mapping[str, Any], kind: str) -> Figure:
    """What candidates for a target are worth by the size of their images; the one that was chosen has a ring.

    Finalists have a second point, of what they are worth fine-tuned.

    Args:
        search: `details.search` of a stage of `report.json`.
        kind: Of prediction, whose mAP50-95 they were chosen by.
    """
    figure, [axes] = open_figure(8, 4.5)
    rows = [row for row in search["candidates"] if row["score"] is not None]
    for precision, color in zip(dict.fromkeys(row["precision"] for row in rows), _COLORS, strict=False):
        shown = sorted((row for row in rows if row["precision"] == precision), key=lambda row: row["imgsz"])
        points = [(row["imgsz"], row["score"]) for row in shown]
        axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, label=precision)
        for row, point in zip(shown, points, strict=True):
            text = f"{row['gmacs']:.2f} GMACs" if row["cut"] else "uncut"
            axes.annotate(text, point, xytext=(0, -14), textcoords="offset points", ha="center", fontsize=8)
            if row["chosen"] and row.get("tuned") is None:
                axes.plot(*point, **_RING)
    finalists = [row for row in rows if row.get("tuned") is not None]
    for number, row in enumerate(finalists):
        label = None if number else "fine-tuned, on the validation images"
        axes.plot(row["imgsz"], row["tuned"], color=GREY, marker="D", markersize=6, linestyle="none", label=label)
        if row["chosen"]:
            axes.plot(row["imgsz"], row["tuned"], **_RING)
    axes.set(title="What meets the target", xlabel="side of the images, pixels")
    axes.set_ylabel(f"{kind} mAP50-95" if finalists else f"{kind} mAP50-95, untrained")
    axes.set_xticks(sorted({row["imgsz"] for row in rows}))
    axes.margins(x=0.12)
    axes.set_ylim(0, 1.3 * max(max(row["score"], row.get("tuned") or 0) for row in rows) or 1)
    add_legend(axes)
    return figure


def plot_training(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses, mAPs and learning rate of all trainings, one after the other along one axis of epochs.

    Args:
        stages: The stages of `report.json`; those without epochs are passed over.
    """
    figure, panels = open_figure(13, 3.8, 3)
    first = 0
    for stage in (stage for stage in stages if stage["epochs"]):
        epochs = stage["epochs"]
        kinds = [kind for kind in _KINDS if map_column(kind) in epochs[0]]
        x = [first + k + 1 for k in range(len(epochs))]
        lines = (
            (panels[0], BLUE, "training", [_loss(e, "train") for e in epochs]),
            (panels[0], ORANGE, "validation", [_loss(e, "val") for e in epochs]),
            *(
                (panels[1], color, kind, [e[map_column(kind)] for e in epochs])
                for kind, color in zip(kinds, _COLORS, strict=False)
            ),
            (panels[2], GREEN, "first parameter group", [e["lr/pg0"] for e in epochs]),
        )
        for axes, color, label, values in lines:
            points = [(at, value) for at, value in zip(x, values, strict=True) if value is not None]
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker="o", markersize=3)
        for axes in panels:
            axes.axvline(first + 0.5, color=GREY, linewidth=0.8)
            axes.text(first + 0.6, 1.0, TITLES[stage["name"]], transform=axes.get_xaxis_transform(), fontsize=8)
        first += len(epochs)
    panels[1].set_ylim(0, 1.05 * panels[1].get_ylim()[1])
    panels[2].yaxis.set_major_formatter("{x:g}")
    for axes, title in zip(panels, ("sum of the losses", "mAP50-95", "learning rate"), strict=True):
        axes.set_title(title, pad=14)
        axes.set(xlabel="epoch", xlim=(0.5, first + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        add_legend(axes)
    return figure


def plot_classes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], *, most: int = 10) -> Figure:
    """The primary mAP50-95 before and after of the classes that lost most and of those that gained most or lost least.

    A name that no font of this machine can draw is given by the number of its class, and a long one is shortened.

    Args:
        before: `classes` of a stage of `report.json`.
        after: The same of another one.
        most: Largest number of classes at either end.
    """
    kind = kinds_in(after[0])[-1]
    known = {row["name"]: row[f"map50_95_{kind}"] for row in before}
    rows = [(known[r["name"]], r[f"map50_95_{kind}"], r) for r in after if r["name"] in known]
    rows.sort(key=lambda row: row[1] - row[0])
    shown = rows if len(rows) <= 2 * most else [*rows[:most], *rows[-most:]]
    figure, [axes] = open_figure(8, 1.2 + 0.26 * len(shown))
    for k, (was, now, _) in enumerate(shown):
        axes.plot([was, now], [k, k], color=ORANGE if now < was else GREEN, linewidth=2.5, zorder=1)
    places = range(len(shown))
    axes.scatter([was for was, _, _ in shown], places, color=GREY, label="before", zorder=2)
    axes.scatter([now for _, now, _ in shown], places, color=BLUE, label="after", zorder=3)
    if len(shown) < len(rows):
        axes.axhline(most - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    fonts = find_fonts(row["name"] for _, _, row in shown)
    names = [f"{fonts.label(row['name'], row.get('index'))} ({row['instances']})" for _, _, row in shown]
    axes.set_yticks(places, names, fontsize=8, fontfamily=fonts.families, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * max([0.01, *(max(was, now) for was, now, _ in shown)]))
    axes.set_xlabel(f"{kind} mAP50-95 (instances in brackets)")
    left_out = f", {len(rows) - len(shown)} in between left out" if len(shown) < len(rows) else ""
    axes.set_title(f"Classes, greatest loss first{left_out}")
    axes.grid(axis="x", color=GREY, alpha=0.3)
    add_legend(axes)
    return figure


def plot_latency(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Median latency of each stage and its spread, from the 10th to the 90th percentile, a panel for each runtime.

    Args:
        stages: The stages of `report.json`.
    """
    runtimes = _runtimes(stages)
    figure, panels = open_figure(11, 1.3 + 0.4 * len(stages), len(runtimes), sharey=True)
    for axes, (runtime, title), color in zip(panels, runtimes.items(), _COLORS, strict=False):
        for k, stage in enumerate(stages):
            median, spread = stage["latency_ms"][runtime], stage["latency_spread_ms"][runtime]
            if median is not None and spread is not None:
                axes.plot(spread, [k, k], color=color, linewidth=4, alpha=0.4, solid_capstyle="butt")
                axes.plot(median, k, "o", color=color)
                axes.annotate(f"{median:.1f}", (median, k), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        axes.set(title=title, xlim=(0, None), ylim=(len(stages) - 0.5, -0.7))
        axes.set_xlabel("ms: median, and 10th to 90th percentile")
    panels[0].set_yticks(range(len(stages)), [TITLES[stage["name"]] for stage in stages])
    return figure


def _runtimes(stages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What latencies are measured in, by key: for people."""
    return {key: RUNTIMES.get(key, key) for key in stages[-1]["latency_ms"]}


def _loss(epoch: Mapping[str, float | None], part: str) -> float | None:
    """The sum of an epoch's training or validation losses; None where they were not measured."""
    losses = [value for key, value in epoch.items() if key.startswith(f"{part}/") and key.endswith("_loss")]
    return None if None in losses else sum(value for value in losses if value is not None)
