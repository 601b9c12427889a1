"""What a run would cut, without running it."""

from typing import Any

import torch
from rich.console import Group
from rich.text import Text

from depgraph_hsic_only.config import Config
from depgraph_hsic_only.costs import Cost, measure_cost
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.graph import ChannelGraph, trace_channels
from depgraph_hsic_only.loading import load_model
from depgraph_hsic_only.plan import PruningPlan
from depgraph_hsic_only.planning import plan_cut
from depgraph_hsic_only.recording import imgsz_of
from depgraph_hsic_only.report import cost_table, width_table
from depgraph_hsic_only.surgery import pruned_copy

_ALL_BUT_NOTHING = 0.999999  # the ratio that leaves every width at its smallest


def preview(config: Config) -> Group:
    """Widths, parameters and multiply-adds before and after, and the most that the chosen layers could save.

    No channel is ranked, so no image is read, and nothing is written.

    Raises:
        CheckpointError, UnsupportedModelError: The checkpoint can't be used.
        ConfigError: Widths are to follow from a threshold, for which images would have to be read.
    """
    if config.prune.threshold is not None:
        raise ConfigError(
            "prune.threshold: expected a ratio with --dry-run, since widths by a threshold follow from scores that "
            "images have to be read for, got a threshold; leave out --dry-run"
        )
    model = load_model(config.pretrained)
    network, imgsz = model.model, imgsz_of(model, config)
    graph = trace_channels(network, config.prune.layers)
    before = measure_cost(network, imgsz)
    plan, after = _cost_at(network, graph, config, config.prune.ratio or 0, imgsz)
    _, smallest = _cost_at(network, graph, config, _ALL_BUT_NOTHING, imgsz)
    layers = "the backbone" if config.prune.layers == "backbone" else f"layers {list(plan.layers)}"
    limit = (
        f"Cutting {layers} can save at most {1 - smallest.parameters / before.parameters:.1%} of the parameters and "
        f"{1 - smallest.gmacs / before.gmacs:.1%} of the multiply-adds (every width at its smallest)."
    )
    return Group(cost_table(before, after), width_table(plan), Text(limit), Text("Nothing was written."))


def _cost_at(network: Any, graph: ChannelGraph, config: Config, ratio: float, imgsz: int) -> tuple[PruningPlan, Cost]:
    settings = config.prune
    plan = plan_cut(
        graph,
        {group.name: torch.zeros(group.channels) for group in graph.groups},
        ratio=ratio,
        threshold=None,
        round_to=settings.round_to,
        min_channels=settings.min_channels,
        criterion=settings.criterion,
    )
    return plan, measure_cost(pruned_copy(network, plan), imgsz)
