"""Pruning in memory: `plan_pruning` decides, `apply_plan` cuts, `prune` does both."""

from dataclasses import replace
from typing import Any

import torch

from depgraph_hsic_only import surgery
from depgraph_hsic_only.costs import measure_cost
from depgraph_hsic_only.criteria.registry import Batches, Measured, create_criterion
from depgraph_hsic_only.graph import OUTPUT_MULTIPLE, trace_channels
from depgraph_hsic_only.plan import PruningPlan
from depgraph_hsic_only.planning import (
    Scores,
    check_amount,
    check_rounding,
    plan_cut,
)
from depgraph_hsic_only.recovery import check_method, recover
from depgraph_hsic_only.report import PruningReport


def plan_pruning(
    model: Any,
    ratio: float | None = None,
    *,
    threshold: float | None = None,
    criterion: str = "magnitude",
    layers: object = "backbone",
    round_to: int = OUTPUT_MULTIPLE,
    min_channels: int = 0,
    batches: Batches | None = None,
    scores: Scores | None = None,
    **options: Any,
) -> PruningPlan:
    """Decide what to cut from a YOLOv8 model; the model is left as it is.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel.
        ratio: Share of the channels to cut from each width, 0 ≤ ratio < 1.
        threshold: Instead of a ratio: the smallest score that stays. Scores of `hsic_lasso` are in [0, 1] and mean the
            same in every layer.
        criterion: Name of a registered criterion (see `list_criteria`).
        layers: "backbone" for layers 0–9, "all" for neck and prototypes too, or a list (see `graph.trace_channels`).
        round_to: What block outputs are multiples of: 8, 16 or 32.
        min_channels: No width is cut below this many channels.
        batches: Images, for criteria that need them: labelled for "taylor", {"img": tensor} for "hsic_lasso".
        scores: What `score_channels` returned for this model; the criterion is not run again then.
        options: Options of the criterion, such as `seed` of "random".

    Raises:
        UnsupportedModelError: The model is no unmodified YOLOv8 network.
        ConfigError: A setting is unknown or out of range.
        DataError: The criterion needs batches and there are none.
        PlanError: The criterion's scores are not finite or of a wrong shape.
    """
    check_amount(ratio, threshold)
    check_rounding(round_to, min_channels)
    scorer = create_criterion(criterion, **options)
    graph = trace_channels(surgery.network_of(model), layers)
    scores = scorer.score(graph, batches) if scores is None else scores
    return plan_cut(
        graph,
        scores,
        ratio=ratio,
        threshold=threshold,
        round_to=round_to,
        min_channels=min_channels,
        criterion=criterion,
    )


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
    report = PruningReport(plan, measure_cost(network), measure_cost(pruned))
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
