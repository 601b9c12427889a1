"""A plan becomes a network: cut, join the halves, write the YAML, and put the result into the live model."""

from typing import Any, cast

import torch_pruning as tp
from torch import nn
from ultralytics.engine.model import Model
from ultralytics.nn.modules import Segment

from depgraph_hsic_only.channels.groups import ChannelGraph, trace_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.channels.widths import check_widths
from depgraph_hsic_only.errors import PlanError
from depgraph_hsic_only.yolo.architecture import check_yolov8, stock_yaml
from depgraph_hsic_only.yolo.c2f import merge_c2f
from depgraph_hsic_only.yolo.patches import ensure_nms


def network_of(model: Any) -> Any:
    """The SegmentationModel or DetectionModel of a `YOLO`, or `model` itself where it is one.

    Raises:
        UnsupportedModelError: It is no unmodified YOLOv8 network (see `architecture.check_yolov8`).
    """
    ensure_nms()  # so that a pruned YOLO predicts wherever it could be pruned
    network = model.model if isinstance(model, Model) else model
    check_yolov8(network)
    return network


def pruned_copy(model: nn.Module, plan: PruningPlan) -> Any:
    """A pruned copy of a YOLOv8 network: only stock modules, with the YAML that rebuilds it.

    Training mode, device, number format, and which parameters take gradients are those of `model`, which is left as it
    is.

    Raises:
        PlanError: The plan was made for other layers or widths.
    """
    graph = trace_channels(model, list(plan.layers))
    _check_belongs(plan, graph)
    for group, cut in zip(graph.groups, plan.groups, strict=True):
        removed = sorted(set(range(cut.channels)) - set(cut.keep))
        if removed:
            root = group.members[0].module
            dependency_graph = group.dependencies._DG
            dependency_graph.get_pruning_group(root, tp.prune_conv_out_channels, removed).prune()
    pruned = cast(Any, merge_c2f(graph.model))
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(flags[name])
    for layer in pruned.model:
        layer.np = sum(parameter.numel() for parameter in layer.parameters())
        if isinstance(layer, Segment):
            layer.npr = layer.proto.cv1.conv.out_channels
    pruned.yaml = stock_yaml(pruned)
    pruned.to(next(model.parameters()).dtype)
    check_yolov8(pruned)
    return pruned


def _check_belongs(plan: PruningPlan, graph: ChannelGraph) -> None:
    """Refuse a plan of other widths or groups than the model has, and one that leads to no stock model."""
    groups = [(group.name, group.width, group.channels) for group in graph.groups]
    if [(cut.name, cut.width, cut.channels) for cut in plan.groups] != groups:
        wants = {cut.name: cut.channels for cut in plan.groups}
        has = {group.name: group.channels for group in graph.groups}
        differing = [name for name in {**wants, **has} if wants.get(name) != has.get(name)]
        name = differing[0] if differing else "their order"
        raise PlanError(
            f"expected the model that the plan was made for, got one that differs in {name} ({has.get(name)} channels, "
            f"the plan has {wants.get(name)}); make the plan anew for this model"
        )
    listed = [(width.name, width.layer, width.before) for width in plan.widths]
    if listed != [(width.name, width.layer, width.channels) for width in graph.widths]:
        raise PlanError(
            "expected the model that the plan was made for, got one of other widths; make the plan anew for this model"
        )
    check_widths(graph, plan.after)


def install(model: Any, pruned: Any) -> None:
    """Give a live model the layers of `pruned`, so that the object in the caller's hands is as good as a file.

    Args:
        model: A `YOLO`, or a SegmentationModel or DetectionModel.
        pruned: What `pruned_copy` made of its network.
    """
    network = model.model if isinstance(model, Model) else model
    network.model, network.yaml = pruned.model, pruned.yaml
    network.__dict__.pop("criterion", None)  # a cached loss belongs to the old head
    if isinstance(model, Model):
        model.predictor = None  # holds a fused copy of the old network
        # train() continues from the live network only where ckpt is truthy; the epoch and optimizer of an interrupted
        # training, and the file that resume would read, belong to the old one.
        model.ckpt = {**(model.ckpt or {}), "epoch": -1, "optimizer": None, "ema": None, "model": network}
        model.ckpt_path = None
