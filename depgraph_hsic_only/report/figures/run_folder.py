"""All figures of a run, drawn from what its folder holds."""

import json
from pathlib import Path
from typing import Any

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.report.figures.channels import plot_scores, plot_sensitivity
from depgraph_hsic_only.report.figures.network import plot_network
from depgraph_hsic_only.report.figures.run import (
    MAP,
    plot_classes,
    plot_latency,
    plot_stages,
    plot_training,
    plot_trajectory,
)
from depgraph_hsic_only.report.run_report import RunReport


def plot_metrics(run_folder: str | Path) -> list[Path]:
    """Draw the figures of a run from its `report.json` into its `plots` folder.

    Args:
        run_folder: A folder that a run wrote.

    Returns:
        The PNG files: `stages.png`, `network.png`, `scores.png` where channels were scored, `sensitivity.png` where
            widths were chosen for a target, `trajectory.png` where the cut had several steps, `training.png` where
            there was a training, `classes.png` where classes were measured before and after, `latency.png` where
            latencies were.

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
        figures["sensitivity"] = plot_sensitivity(damage, after)
    for stage in stages:
        if sum(point[MAP] is not None for point in stage["details"].get("trajectory", ())) > 1:
            figures["trajectory"] = plot_trajectory(stage["details"]["trajectory"])
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
