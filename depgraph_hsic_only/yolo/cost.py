"""What a network costs: parameters and multiply-adds, counted on the real model, in all and by part."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from depgraph_hsic_only.yolo.architecture import backbone_layers
from depgraph_hsic_only.yolo.blocks import block_at
from depgraph_hsic_only.yolo.input_shape import input_channels, rounded_up
from depgraph_hsic_only.yolo.types import Network

COUNT_SIZE = 64  # pixels; multiply-adds of a fully convolutional network grow with the area, exactly


@dataclass(frozen=True)
class PartCost:
    """The share of one part of a network."""

    name: str  # "backbone", "neck", or of the head "boxes", "classes", "masks" and "prototypes"
    parameters: int
    gmacs: float


@dataclass(frozen=True)
class Cost:
    """Size and computation of a network."""

    parameters: int
    gmacs: float  # multiply-adds of all convolutions for one image, in units of 10^9
    imgsz: int  # side of the square image, pixels
    parts: tuple[PartCost, ...] = ()  # in the order of the network


def measure_cost(network: Network, imgsz: int = 640) -> Cost:
    """Count parameters and multiply-adds of a YOLOv8 network, which is left as it is, for a square image.

    Its side `imgsz`, pixels, is rounded up to the network's stride as Ultralytics does.
    """
    side = rounded_up(network, imgsz)
    meta = on_meta(network)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(empty_image(meta))
    scale = (side / COUNT_SIZE) ** 2 / 2e9
    flops = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    parameters: dict[str, int] = {}
    gmacs: dict[str, float] = {}
    for path, module in network.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own:
            part = part_of(network, path)
            parameters[part] = parameters.get(part, 0) + own
            gmacs[part] = gmacs.get(part, 0.0) + flops.get(f"{type(meta).__name__}.{path}", 0) * scale
    parts = tuple(PartCost(part, parameters[part], gmacs[part]) for part in parameters if part != "rest")
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() * scale, side, parts)


def on_meta(network: Network) -> Network:
    """A copy of a network without its numbers, in evaluation mode with raw outputs: shapes cost nothing to compute."""
    tensors = [*network.parameters(), *network.buffers()]
    shapes = {id(t): t.detach().to("meta").requires_grad_(t.requires_grad) for t in tensors}
    meta = copy.deepcopy(network, memo=shapes).eval()  # the modules, without a copy of their numbers
    meta.model[-1].training = True  # raw outputs: no anchors, whose making reads values
    return meta


def empty_image(meta: Any) -> torch.Tensor:
    """An image of `COUNT_SIZE` without its numbers, as a network of `on_meta` reads it."""
    dtype = next(meta.parameters()).dtype
    return torch.empty(1, input_channels(meta), COUNT_SIZE, COUNT_SIZE, dtype=dtype, device="meta")


def part_of(network: Network, path: str) -> str:
    """The part of a network that a module such as "model.22.cv3.0.0.conv" belongs to.

    It is "rest" for the constant weights of the box distributions.
    """
    layer, _, inside = path.removeprefix("model.").partition(".")
    if int(layer) in backbone_layers(network):
        return "backbone"
    branches = block_at(network, path).branches
    return branches.get(inside.partition(".")[0], "rest") if branches else "neck"
