"""Pruning in memory: `plan_pruning` decides, `apply_plan` cuts, `prune` does both."""

from dataclasses import replace
from typing import Any

import torch

from depgraph_hsic_only.budget.allocation import Allocation, Widths, allocate
from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.sensitivity import Sensitivity, measure_sensitivity
from depgraph_hsic_only.channels import cut as surgery
from depgraph_hsic_only.channels.amount import Target
from depgraph_hsic_only.channels.groups import OUTPUT_MULTIPLE, ChannelGraph, trace_channels
from depgraph_hsic_only.channels.limits import Limits, MaxRatio
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.channels.widths import Scores, check_amount, default_criterion, make_plan, plan_cut
from depgraph_hsic_only.criteria.registry import Batches, Measured, create_criterion
from depgraph_hsic_only.data.calibration import in_batches
from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.evaluation.relative_latency import relative_latency
from depgraph_hsic_only.recovery.layerwise import batch_size
from depgraph_hsic_only.recovery.recover import check_method, recover
from depgraph_hsic_only.report.pruning_report import PruningReport
from depgraph_hsic_only.yolo.architecture import layer_widths, list_layers
from depgraph_hsic_only.yolo.cost import measure_cost


def plan_pruning(
    model: Any,
    ratio: float | None = None,
    *,
    threshold: float | None = None,
    target: object = None,
    criterion: str | None = None,
    layers: object = "backbone",
    round_to: int = OUTPUT_MULTIPLE,
    min_channels: int = 0,
    max_ratio: MaxRatio = 1.0,
    batches: Batches | None = None,
    scores: Scores | None = None,
    images: torch.Tensor | None = None,
    imgsz: int = 640,
    **options: Any,
) -> PruningPlan:
    """Decide what to cut from a YOLOv8 model; the model is left as it is.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel.
        ratio: Share of the channels to cut from each width, 0 ≤ ratio < 1.
        threshold: Instead of a ratio: the smallest score that stays. Scores of `hsic_lasso` are in [0, 1] and mean the
            same in every layer.
        target: Instead of a ratio: what may be left of the unpruned model, {"params": 0.8}, {"gmacs": 0.8} or
            {"latency": 0.8}. How much each width hurts is measured on `images` (see `sensitivity.py`), and the widths
            are those of least damage (see `allocation.py`).
        criterion: Name of a registered criterion (see `list_criteria`); None for "magnitude", and for a target
            "reconstruction".
        layers: "backbone" for layers 0–9, "all" for neck and prototypes too, or a list (see `graph.trace_channels`).
        round_to: What block outputs are multiples of: 8, 16 or 32.
        min_channels: No width is cut below this many channels.
        max_ratio: Largest share that may be cut of every width, or by layer or width (see `limits.Limits`).
        batches: Images, for criteria that need them: labelled for "taylor", {"img": tensor} for "hsic_lasso" and
            "reconstruction"; None for `images`, where labels are not needed.
        scores: What `score_channels` returned for this model; the criterion is not run again then.
        images: Calibration images for a target, (n, 3, h, w), float in [0, 1] or uint8.
        imgsz: Side of the square image that a target's multiply-adds and latency are of, pixels.
        options: Options of the criterion, such as `seed` of "random".

    Raises:
        UnsupportedModelError: The model is no unmodified YOLOv8 network.
        ConfigError: A setting is unknown or out of range.
        DataError: The criterion needs batches and there are none.
        PlanError: The criterion's scores are not finite or of a wrong shape.
    """
    check_amount(ratio, threshold, target)
    limits = Limits(round_to, min_channels, max_ratio)
    criterion = criterion or default_criterion(target)
    scorer = create_criterion(criterion, **options)
    network = surgery.network_of(model)
    graph = trace_channels(network, layers)
    if target is not None and (images is None or not len(images)):
        raise DataError("target: expected calibration images, got none; pass images=")
    if batches is None and images is not None and scorer.needs_batches and not scorer.needs_labels:
        batches = in_batches(images, batch_size(images))
    scores = scorer.score(graph, batches) if scores is None else scores
    if target is not None and images is not None:
        damage = measure_sensitivity(network, graph, scores, images, limits=limits)
        found = widths_for(network, graph, damage, Target.parse(target), limits, imgsz)
        return make_plan(graph, scores, found.widths, criterion=criterion, reasons=found.reasons)
    return plan_cut(
        graph,
        scores,
        ratio=ratio,
        threshold=threshold,
        limits=limits,
        criterion=criterion,
    )


def widths_for(
    network: Any,
    graph: ChannelGraph,
    sensitivity: Sensitivity,
    target: Target,
    limits: Limits,
    imgsz: int,
    *,
    start: Widths | None = None,
) -> Allocation:
    """Widths that meet a target, counted or measured on the network: see `allocation.allocate`."""
    latency = relative_latency(network, graph, imgsz) if target.metric == "latency" else None
    costs = CostModel(network, graph, imgsz)
    return allocate(graph, sensitivity, costs, target, limits, start=start, latency=latency)


def prune(model: Any, ratio: float | None = None, **settings: Any) -> PruningReport:
    """Plan and cut a live model, in place; after an error it is as it was.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel.
        ratio: Share of the channels to cut from each width, 0 ≤ ratio < 1.
        settings: The other arguments of `plan_pruning`.

    Raises:
        PruningError: As `plan_pruning` and `apply_plan`.
    """
    return apply_plan(model, plan_pruning(model, ratio, **settings))


def apply_plan(
    model: Any, plan: PruningPlan, *, recovery: str = "none", images: torch.Tensor | None = None, **settings: Any
) -> PruningReport:
    """Cut a live model as planned, in place; after an error it is as it was.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel: the planned one or another copy of it.
        plan: What to cut.
        recovery: What brings the cut model back: "none", or another method of `recover`.
        images: Calibration images for the recovery, (n, 3, h, w), float in [0, 1] or uint8.
        settings: Other arguments of `recover`.

    Raises:
        UnsupportedModelError: The model is no unmodified YOLOv8 network.
        PlanError: The plan was made for another model.
        ConfigError: There is no such recovery.
        DataError: The images can't be used.
    """
    network = surgery.network_of(model)
    pruned = surgery.pruned_copy(network, plan)
    costs = measure_cost(network), measure_cost(pruned)
    report = PruningReport(plan, *costs, list_layers(network), layer_widths(network), layer_widths(pruned))
    if check_method(recovery) != "none":
        given = torch.empty(0) if images is None else images
        found = recover(pruned, network, plan, given, method=recovery, **settings)
        report = replace(report, recovery=found)
    surgery.install(model, pruned)
    return report


def score_channels(
    model: Any,
    criterion: str = "magnitude",
    *,
    layers: object = "backbone",
    batches: Batches | None = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Importance of each channel by channel group, name to (C,), higher is more important; nothing is changed.

    Arguments and errors are those of `plan_pruning`.
    """
    return measure_channels(model, criterion, layers=layers, batches=batches, **options).scores


def measure_channels(
    model: Any,
    criterion: str = "magnitude",
    *,
    layers: object = "backbone",
    batches: Batches | None = None,
    **options: Any,
) -> Measured:
    """As `score_channels`, with the scores by each half of the images, for a criterion that reads images."""
    scorer = create_criterion(criterion, **options)
    return scorer.measure(trace_channels(surgery.network_of(model), layers), batches)
