"""Pruning in memory: `plan_pruning` decides, `apply_plan` cuts, `prune` does both."""

from dataclasses import replace
from typing import Any

import torch

from depgraph_hsic_only.channels.amount import Amount, default_criterion
from depgraph_hsic_only.channels.cut import Kept, cut
from depgraph_hsic_only.channels.groups import ChannelGraph, trace_channels
from depgraph_hsic_only.channels.limits import Limits, MaxRatio
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.channels.widths import Scores
from depgraph_hsic_only.criteria.registry import Batches, create_criterion
from depgraph_hsic_only.data.calibration import fitting, fitting_batches, in_batches
from depgraph_hsic_only.errors import DataError, PlanError
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.recovery.layerwise import batch_size
from depgraph_hsic_only.recovery.recover import check_method, recover
from depgraph_hsic_only.report.pruning_report import PruningReport, compared_widths
from depgraph_hsic_only.yolo.architecture import list_layers
from depgraph_hsic_only.yolo.blocks import OUTPUT_MULTIPLE
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.input_shape import input_side
from depgraph_hsic_only.yolo.load import install, network_of
from depgraph_hsic_only.yolo.types import Network, Yolo


def plan_pruning(
    model: Yolo | Network,
    ratio: float | None = None,
    *,
    threshold: float | None = None,
    target: object = None,
    criterion: str | None = None,
    layers: object = "backbone",
    round_to: int = OUTPUT_MULTIPLE,
    min_channels: int = 0,
    max_ratio: MaxRatio = 1.0,
    depth: bool = False,
    batches: Batches | None = None,
    scores: Scores | None = None,
    images: torch.Tensor | None = None,
    imgsz: int | None = None,
    **options: Any,
) -> PruningPlan:
    """Decide what to cut from a YOLO model; the model is left as it is.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel.
        ratio: Share of the channels to cut from each width, 0 ≤ ratio < 1; 0 cuts nothing, and needs nothing.
        threshold: Instead of a ratio: the smallest score that stays. Scores of `hsic_lasso` are in [0, 1] and mean the
            same in every layer.
        target: Instead of a ratio: what may be left, as a share of the unpruned model, {"params": 0.8}, or an amount,
            {"gmacs": "3G"}, of "params", "gmacs", "size" (of the ONNX file in float32, MB) and "latency" (ms), one or
            several, which all hold: {"latency": 0.5, "params": "2M"}, or as text (see `channels.budgets`). How much
            each width hurts is measured on `images` (see `budget.sensitivity`), and the widths are those of least
            damage (see `budget.allocation`).
        criterion: Name of a registered criterion (see `list_criteria`); None for "magnitude", and for a target
            "reconstruction".
        layers: "backbone" for what the model's own YAML calls so (layers 0–9), "all" for neck and prototypes too, or a
            list (see `groups.choose_layers`).
        round_to: What block outputs are multiples of: 8, 16 or 32.
        min_channels: No width is cut below this many channels.
        max_ratio: Largest share that may be cut of every width, or by layer or width (see `limits.Limits`).
        depth: Whether a target may leave out inner blocks of C2f, C3k2 and A2C2f too.
        batches: Images, for criteria that need them: labelled for "taylor", {"img": tensor} for "hsic_lasso" and
            "reconstruction"; None for `images`, where labels are not needed.
        scores: What `score_channels` returned for this model; the criterion is not run again then.
        images: Calibration images for a target, (n, c, h, w), float in [0, 1] or uint8.
        imgsz: Side of the square image that a target's multiply-adds and latency are of, pixels; None for the model's
            own.
        options: Options of the criterion, such as `seed` of "random".

    Raises:
        UnsupportedModelError: The model is no unmodified YOLO network.
        ConfigError: A setting is unknown or out of range.
        DataError: The criterion needs batches and there are none.
        PlanError: The criterion's scores are not finite or of a wrong shape.
    """
    amount = Amount.of(ratio, threshold, target)
    limits = Limits(round_to, min_channels, max_ratio)
    planner = Planner(criterion or default_criterion(target), amount, limits, layers, options, depth=depth)
    network, scorer = network_of(model), planner.scorer
    planner = replace(planner, imgsz=input_side(model, imgsz))
    sought = amount.is_target and not amount.is_nothing
    if sought and (images is None or not len(images)):
        raise DataError("target: expected calibration images, got none; pass images=")
    planner.check(network)
    if amount.is_nothing:
        return planner.plan(planner.ranked(network))
    images = None if images is None else fitting(images, network)
    if batches is not None:
        batches = fitting_batches(batches, network, labelled=scorer.needs_labels)
    elif images is not None and scorer.needs_batches and not scorer.needs_labels:
        batches = in_batches(images, batch_size(images))
    scored = planner.score(network, batches) if scores is None else planner.with_scores(network, scores)
    measured = planner.sensitivity(scored, images) if amount.is_target and images is not None else None
    return planner.plan(scored, measured)


def prune(model: Yolo | Network, ratio: float | None = None, **settings: Any) -> PruningReport:
    """Plan and cut a live model, in place; after an error it is as it was.

    The `YOLO`, or the network, is the same object; its layers are new ones, so hooks and optimizers come after the cut.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel.
        ratio: Share of the channels to cut from each width, 0 ≤ ratio < 1.
        settings: The other arguments of `plan_pruning`.

    Raises:
        PruningError: As `plan_pruning` and `apply_plan`.
    """
    return apply_plan(model, plan_pruning(model, ratio, **settings))


def apply_plan(
    model: Yolo | Network,
    plan: PruningPlan,
    *,
    recovery: str = "none",
    images: torch.Tensor | None = None,
    **settings: Any,
) -> PruningReport:
    """Cut a live model as planned, in place; after an error it is as it was.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel: the planned one or another copy of it.
        plan: What to cut.
        recovery: What brings the cut model back: "none", or another method of `recover`.
        images: Calibration images for the recovery, (n, c, h, w), float in [0, 1] or uint8.
        settings: Other arguments of `recover`.

    Raises:
        UnsupportedModelError: The model is no unmodified YOLO network.
        PlanError: The plan was made for another model.
        ConfigError: There is no such recovery.
        DataError: The images can't be used.
    """
    check_method(recovery)
    if not isinstance(plan, PruningPlan):
        raise PlanError(f"expected a PruningPlan, got {type(plan).__name__}; PruningPlan.load(path) reads one")
    given = torch.empty(0) if images is None else images
    return cut_in_place(model, network_of(model), plan, None, recovery, images=given, **settings)[0]


def cut_in_place(
    model: Yolo | Network, network: Network, plan: PruningPlan, graph: ChannelGraph | None, method: str, **settings: Any
) -> tuple[PruningReport, Kept]:
    """As `apply_plan`, of a network that was checked, in its channel groups where they are known; and what is left.

    The settings are those of `recover`. Where nothing is cut, nothing is recovered.
    """
    done = cut(network, plan, graph)
    report = report_cut(plan, network, done.network)
    if method != "none" and not plan.cuts_nothing:
        report = replace(report, recovery=recover(done.network, network, done.kept, method=method, **settings))
    install(model, done.network)
    return report, done.kept


def report_cut(plan: PruningPlan, original: Network, pruned: Network, imgsz: int | None = None) -> PruningReport:
    """What a plan has cut from a network, counted on both for images of a side in pixels, or of the model's own."""
    side = input_side(original, imgsz)
    costs = measure_cost(original, side), measure_cost(pruned, side)
    return PruningReport(plan, *costs, list_layers(original), *compared_widths(original, pruned))


def score_channels(
    model: Yolo | Network,
    criterion: str = "magnitude",
    *,
    layers: object = "backbone",
    batches: Batches | None = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Importance of each channel by channel group, name to (C,), higher is more important; nothing is changed.

    Arguments and errors are those of `plan_pruning`.
    """
    scorer, network = create_criterion(criterion, **options), network_of(model)
    if batches is not None:
        batches = fitting_batches(batches, network, labelled=scorer.needs_labels)
    return scorer.score(trace_channels(network, layers).ranked, batches)
