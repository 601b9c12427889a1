"""`--dry-run`: what a run would cut, without running it."""

from rich.console import Group
from rich.text import Text

from depgraph_hsic_only.axes.candidates import IMGSZ, PRECISION
from depgraph_hsic_only.budget.reachable import smallest_widths
from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.data.calibration import in_batches
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.data.images import load_images
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.pruning.api import report_cut
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.fit import take_classes
from depgraph_hsic_only.yolo.device import on_device
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.tasks import task_of

_QUICK_IMAGES = 16


def dry_run(config: Config) -> Group:
    """Widths, parameters and multiply-adds before and after, and the most that the chosen layers could save.

    Nothing is written. With a ratio no channel is ranked and no image is read; for a target the widths' damage is
    measured quickly: on few images, at one size for each width. A threshold is refused, since all images would have to
    be read for it.
    """
    settings = config.prune
    if settings.threshold is not None:
        raise ConfigError(
            "prune.threshold: expected a ratio or a target with --dry-run, since widths by a threshold follow from "
            "scores that images have to be read for, got a threshold; leave out --dry-run"
        )
    if {IMGSZ, PRECISION} & set(settings.spent_on):
        raise ConfigError(
            "prune.axes: expected width and depth alone with --dry-run, since image sizes and precisions are chosen by "
            f"measuring, got {','.join(settings.spent_on)}; leave out --dry-run, or pass --axes width,depth"
        )
    model = load_model(config.pretrained, trust=config.trust)
    network, planner = on_device(model.model, config.device), config.planner(model)
    planner.check(network)
    said = []
    if planner.amount.is_target and not planner.amount.is_nothing:
        if planner.scorer.needs_batches and planner.scorer.needs_labels:
            raise ConfigError(
                f"prune.criterion: expected one without labels for a target with --dry-run, got {planner.criterion}, "
                "whose labels Ultralytics would cache on the disk; leave out --dry-run, or pass another criterion"
            )
        dataset, limit = (
            find_dataset(config.data, task_of(network).name),
            min(_QUICK_IMAGES, config.calibration["images"]),
        )
        take_classes(model, dataset, config)
        images = load_images(dataset.images("train"), planner.imgsz, limit=limit, channels=dataset.channels)
        scored = planner.score(network, in_batches(images, 8))
        plan = planner.plan(scored, planner.sensitivity(scored, images, quick=True))
        said.append(
            f"Planned from a quick scan ({len(images)} images, one size for each width): a run measures more and may "
            "choose other widths."
        )
    else:
        scored = planner.with_scores(network)
        plan = planner.plan(scored)
    report = report_cut(plan, network, cut(network, plan, scored.graph).network, planner.imgsz)
    before, least = report.before, smallest_widths(scored.graph, planner.limits)
    layers = "the backbone" if settings.layers == "backbone" else f"layers {list(plan.layers)}"
    said.append(
        f"Cutting {layers} can save at most {1 - scored.costs.parameters(least) / before.parameters:.1%} of the "
        f"parameters and {1 - scored.costs.gmacs(least) / before.gmacs:.1%} of the multiply-adds (every width at its "
        "smallest)."
    )
    return Group(report, *map(Text, [*said, "Nothing was written."]))
