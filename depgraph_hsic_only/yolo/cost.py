"""What a network costs: parameters and multiply-adds, counted on the real model, in all and by part."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from depgraph_hsic_only.yolo.architecture import backbone_layers
from depgraph_hsic_only.yolo.blocks import block_at, idle
from depgraph_hsic_only.yolo.input_shape import input_channels, rounded_up
from depgraph_hsic_only.yolo.types import Network

_UNCOUNTED = (nn.BatchNorm2d, nn.SiLU)  # multiply nothing, keep shapes, and take most of the time


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
    gmacs: float  # multiply-adds for one image of all that takes part in a prediction, in units of 10^9
    imgsz: int  # side of the square image, pixels
    parts: tuple[PartCost, ...] = ()  # in the order of the network


def measure_cost(network: Network, imgsz: int = 640) -> Cost:
    """Count parameters and multiply-adds of a YOLO network, which is left as it is, for a square image.

    Its side `imgsz`, pixels, is rounded up to the network's stride as Ultralytics does. What only training has use for
    (see `blocks.idle`) counts among the parameters, and not among the multiply-adds.
    """
    side = rounded_up(network, imgsz)
    macs = count_macs(network, side)
    parameters: dict[str, int] = {}
    gmacs: dict[str, float] = {}
    for path, module in network.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own:
            part = part_of(network, path)
            parameters[part] = parameters.get(part, 0) + own
    for path, count in macs.items():
        part = part_of(network, path)
        gmacs[part] = gmacs.get(part, 0.0) + count / 1e9
    parts = tuple(PartCost(part, parameters[part], gmacs.get(part, 0.0)) for part in parameters if part != "rest")
    return Cost(sum(p.numel() for p in network.parameters()), sum(gmacs.values()), side, parts)


def count_macs(network: Network, side: int) -> dict[str, int]:
    """Multiply-adds of each module that takes part in a prediction, without those within it, by path.

    They are those for one square image of so many pixels a side, a multiple of the stride. Beside convolutions the
    products of attentions count, which grow with the fourth power of the side. The network may be in split form.
    """
    meta = on_meta(network)
    dtype = next(meta.parameters()).dtype
    for module in list(meta.modules()):
        for name, child in module.named_children():
            if isinstance(child, _UNCOUNTED):
                setattr(module, name, nn.Identity())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(torch.empty(1, input_channels(meta), side, side, dtype=dtype, device="meta"))
    last = len(network.model) - 1
    unused = tuple(f"model.{last}.{name}." for name in idle(network.model[-1]))
    counts = {name.partition(".")[2]: sum(kinds.values()) // 2 for name, kinds in counter.get_flop_counts().items()}
    own = dict(counts)
    for path in counts:
        above = path.rpartition(".")[0]
        while above and above not in counts:  # a list of modules is none that runs
            above = above.rpartition(".")[0]
        if above:
            own[above] -= counts[path]
    return {path: count for path, count in own.items() if count and path and not f"{path}.".startswith(unused)}


def on_meta(network: Network) -> Network:
    """A copy of a network without its numbers, in evaluation mode with raw outputs: shapes cost nothing to compute."""
    tensors = [*network.parameters(), *network.buffers()]
    shapes = {id(t): t.detach().to("meta").requires_grad_(t.requires_grad) for t in tensors}
    meta = copy.deepcopy(network, memo=shapes).eval()  # the modules, without a copy of their numbers
    meta.model[-1].training = True  # raw outputs: no anchors, whose making reads values
    return meta


def part_of(network: Network, path: str) -> str:
    """The part of a network that a module such as "model.22.cv3.0.0.conv" belongs to.

    It is "rest" for the constant weights of the box distributions.
    """
    layer, _, inside = path.removeprefix("model.").partition(".")
    if int(layer) in backbone_layers(network):
        return "backbone"
    branches = block_at(network, path).branches
    return branches.get(inside.partition(".")[0], "rest") if branches else "neck"
