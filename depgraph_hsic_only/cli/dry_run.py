"""What a run would cut, without running it."""

from typing import Any

import torch
from rich.console import Group
from rich.text import Text

from depgraph_hsic_only.budget.allocation import Allocation, smallest_widths
from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.sensitivity import measure_sensitivity
from depgraph_hsic_only.channels.amount import Target
from depgraph_hsic_only.channels.cut import pruned_copy
from depgraph_hsic_only.channels.groups import ChannelGraph, trace_channels
from depgraph_hsic_only.channels.widths import make_plan, uniform_widths
from depgraph_hsic_only.criteria import create_criterion
from depgraph_hsic_only.data.calibration import in_batches
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.data.images import load_images
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.pruning.api import widths_for
from depgraph_hsic_only.report.pruning_report import cost_table, part_table, width_table
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.recorder import imgsz_of
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.load import load_model

_QUICK_IMAGES = 16


def preview(config: Config) -> Group:
    """Widths, parameters and multiply-adds before and after, and the most that the chosen layers could save.

    Nothing is written. With a ratio no channel is ranked and no image is read; for a target the widths' damage is
    measured quickly: on few images, at one size for each width.

    Raises:
        CheckpointError, UnsupportedModelError: The checkpoint can't be used.
        ConfigError: Widths are to follow from a threshold, for which all images would have to be read, or the target
            can't be met.
        DataError: The data set of a target can't be used.
    """
    settings = config.prune
    if settings.threshold is not None:
        raise ConfigError(
            "prune.threshold: expected a ratio or a target with --dry-run, since widths by a threshold follow from "
            "scores that images have to be read for, got a threshold; leave out --dry-run"
        )
    model = load_model(config.pretrained, trust=config.trust)
    network, imgsz = model.model, imgsz_of(model, config)
    graph = trace_channels(network, settings.layers)
    before = measure_cost(network, imgsz)
    if settings.target is None:
        widths = uniform_widths(graph, settings.ratio or 0, settings.limits)
        reasons = dict.fromkeys(widths, f"uniform, ratio {settings.ratio or 0:g}")
        said = []
    else:
        found, images = _quick_widths(network, graph, config, imgsz)
        widths, reasons = found.widths, found.reasons
        said = [
            f"Planned from a quick scan ({images} images, one size for each width): a run measures more and may choose "
            "other widths."
        ]
    plan = make_plan(graph, _no_scores(graph), widths, criterion=settings.criterion, reasons=reasons)
    after = measure_cost(pruned_copy(network, plan), imgsz)
    costs = CostModel(network, graph, imgsz)
    least = smallest_widths(graph, settings.limits)
    layers = "the backbone" if settings.layers == "backbone" else f"layers {list(plan.layers)}"
    said.append(
        f"Cutting {layers} can save at most {1 - costs.parameters(least) / before.parameters:.1%} of the parameters "
        f"and {1 - costs.gmacs(least) / before.gmacs:.1%} of the multiply-adds (every width at its smallest)."
    )
    tables = cost_table(before, after), part_table(before.parts, after.parts), width_table(plan)
    return Group(*tables, *map(Text, [*said, "Nothing was written."]))


def _quick_widths(network: Any, graph: ChannelGraph, config: Config, imgsz: int) -> tuple[Allocation, int]:
    """Widths for the target from a quick scan, and the number of images."""
    settings = config.prune
    criterion = create_criterion(settings.criterion, **settings.options)
    if criterion.needs_batches and criterion.needs_labels:
        raise ConfigError(
            f"prune.criterion: expected one without labels for a target with --dry-run, got {settings.criterion}, "
            "whose labels Ultralytics would cache on the disk; leave out --dry-run, or pass another criterion"
        )
    files = find_dataset(config.data).images("train")
    images = load_images(files, imgsz, limit=min(_QUICK_IMAGES, config.calibration["images"]))
    scores = criterion.score(graph, in_batches(images, 8))
    damage = measure_sensitivity(network, graph, scores, images, limits=settings.limits, quick=True, seed=config.seed)
    return widths_for(network, graph, damage, Target.parse(settings.target), settings.limits, imgsz), len(images)


def _no_scores(graph: ChannelGraph) -> dict[str, torch.Tensor]:
    """For a plan of which only the widths are wanted."""
    return {group.name: torch.zeros(group.channels) for group in graph.groups}
