"""The coupled channels of a YOLOv8 backbone, found by torch-pruning's DepGraph (Fang et al. 2023, arXiv:2301.12900).

A *channel group* is a set of channels that must be cut together: for a convolution, its filters, its BatchNorm and the
inputs of every convolution that reads it. A *width group* is a set of channel groups that must keep the same number of
channels for the network to stay a stock Ultralytics model: `w3` is what layer 3 puts out, `h4` is the hidden width of
the C2f at layer 4 (both halves, every bottleneck), `h9` is the hidden width of the SPPF at layer 9.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch_pruning as tp
from torch import nn
from ultralytics.nn.modules import SPPF, Conv

from depgraph_hsic_only.c2f import SplitC2f, split_c2f
from depgraph_hsic_only.errors import ConfigError

BACKBONE = tuple(range(10))
OUTPUT_MULTIPLE = 8  # Ultralytics' parse_model rounds every block output up to a multiple of 8
_TRACE_SIZE = 64  # pixels: every stride divides it, and tracing takes tens of milliseconds

Role = Literal["output", "input", "norm"]


@dataclass(frozen=True, eq=False)
class Member:
    """The part of one module that belongs to a channel group.

    Attributes:
        name: Path of the module in the split model, such as "model.2.cv2.conv".
        module: A Conv2d, ConvTranspose2d or BatchNorm2d.
        role: Whether the channels are its "output" (filters), its "input", or a "norm".
        index: (k,) positions along that dimension of the module.
        channel: (k,) the group's channel at each position, in [0, C).
    """

    name: str
    module: nn.Module
    role: Role
    index: torch.Tensor
    channel: torch.Tensor


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are cut together, and what a criterion scores.

    Attributes:
        name: Path of the convolution that makes the channels, such as "model.2.cv1.first" or "model.3".
        width: Name of the width group it belongs to, such as "h2" or "w3".
        layer: Index of the layer that makes the channels.
        channels: C, the number of channels.
        members: Every module that the channels pass through as parameters.
        dependencies: torch-pruning's own group over all C channels, for its importance measures.
    """

    name: str
    width: str
    layer: int
    channels: int
    members: tuple[Member, ...]
    dependencies: Any


@dataclass(frozen=True, eq=False)
class WidthGroup:
    """Channel groups that keep the same number of channels.

    Attributes:
        name: "w<layer>" for a block's output, "h<layer>" for a hidden width.
        layer: Index of the layer.
        channels: The number of channels of each of its groups.
        groups: The channel groups.
        half_of: Name of the width group that this one is always half of (an SPPF's hidden width follows its input), or
            None where it is free.
    """

    name: str
    layer: int
    channels: int
    groups: tuple[ChannelGroup, ...]
    half_of: str | None = None

    @property
    def is_output(self) -> bool:
        """Whether it is the output of a block, which must be a multiple of 8."""
        return self.name.startswith("w")


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The channel groups of some backbone layers of one model.

    Attributes:
        model: A copy of the model in split form (see `c2f.py`), float32, with gradients enabled. It belongs to the
            graph: criteria measure on it, and the cut is made in it.
        layers: The chosen layers, ascending.
        widths: The width groups to cut, in the order of the network, tied ones included.
    """

    model: nn.Module
    layers: tuple[int, ...]
    widths: tuple[WidthGroup, ...]

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """Every channel group, in the order of the network."""
        return tuple(group for width in self.widths for group in width.groups)


def check_layers(layers: object) -> tuple[int, ...]:
    """The chosen backbone layers, ascending and without repeats.

    Args:
        layers: "backbone" for all of 0–9, or a sequence of integers among them.

    Raises:
        ConfigError: It is anything else.
    """
    if layers == "backbone":
        return BACKBONE
    if isinstance(layers, Sequence) and not isinstance(layers, str):
        wrong = [layer for layer in layers if type(layer) is not int or layer not in BACKBONE]
        if not wrong:
            return tuple(sorted(set(layers)))
        raise ConfigError(f"layers: expected indices among 0-9, got {wrong[0]!r} in {list(layers)}; leave it out")
    raise ConfigError(f"layers: expected 'backbone' or a list such as [3, 4, 8], got {layers!r}")


def trace_channels(model: nn.Module, layers: object = "backbone") -> ChannelGraph:
    """Find the coupled channels of `layers` in a YOLOv8 model, which is left as it is.

    Args:
        model: A YOLOv8 SegmentationModel or DetectionModel (checked by `architecture.check_yolov8`).
        layers: "backbone" or a subset of the layers 0–9.

    Raises:
        ConfigError: `layers` is something else.
    """
    chosen = check_layers(layers)
    with torch.enable_grad():
        split = split_c2f(copy.deepcopy(model)).float().requires_grad_(True)  # a checkpoint's parameters are frozen
        graph = _dependency_graph(split)
        widths = [_width_group(graph, split, name) for name in _width_names(split, chosen)]
    split.train(model.training)
    return ChannelGraph(split, chosen, tuple(widths))


def _dependency_graph(split: nn.Module) -> Any:
    """torch-pruning's graph of the whole model, traced through the head's raw outputs."""
    head = cast(Any, split).model[-1]
    parameter = next(split.parameters())
    image = torch.zeros(1, cast(Any, split).yaml.get("channels", 3), _TRACE_SIZE, _TRACE_SIZE, device=parameter.device)

    def raw_outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        head.training = True  # of the head alone: raw outputs, while every BatchNorm stays in evaluation mode
        outputs = model(x)
        return [t for name, t in outputs.items() if name != "feats"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch-pruning warns of the DFL's constant weights, which nothing here cuts
        return tp.DependencyGraph().build_dependency(split, image, forward_fn=raw_outputs, verbose=False)


def _width_names(split: nn.Module, layers: tuple[int, ...]) -> Iterator[str]:
    """Names of the width groups to cut, in the order of the network."""
    blocks = cast(Any, split).model
    for i in BACKBONE:
        follows = isinstance(blocks[i], SPPF) and i - 1 in layers
        if follows or (i in layers and isinstance(blocks[i], SplitC2f)):
            yield f"h{i}"
        if i in layers:
            yield f"w{i}"


def _width_group(graph: Any, split: nn.Module, name: str) -> WidthGroup:
    layer = int(name[1:])
    block = cast(Any, split).model[layer]
    groups: list[ChannelGroup] = []
    for root in _output_roots(block) if name.startswith("w") else _hidden_roots(block):
        produced = {member.module for group in groups for member in group.members if member.role == "output"}
        if root.conv not in produced:  # with a shortcut the bottlenecks' outputs are coupled with the second half
            groups.append(_channel_group(graph, root.conv, name, layer))
    half_of = f"w{layer - 1}" if isinstance(block, SPPF) and name.startswith("h") else None
    return WidthGroup(name, layer, groups[0].channels, tuple(groups), half_of)


def _output_roots(block: Any) -> list[Any]:
    return [block if type(block) is Conv else block.cv2]


def _hidden_roots(block: Any) -> list[Any]:
    if isinstance(block, SPPF):
        return [block.cv1]
    return [block.first, block.second, *(conv for bottleneck in block.m for conv in (bottleneck.cv1, bottleneck.cv2))]


def _channel_group(graph: Any, conv: nn.Conv2d, width: str, layer: int) -> ChannelGroup:
    channels = conv.out_channels
    dependencies = graph.get_pruning_group(conv, tp.prune_conv_out_channels, list(range(channels)))
    members = []
    for item in dependencies:
        module, name = item.dep.target.module, graph._module2name.get(item.dep.target.module)
        role = _role(graph, item.dep.handler, module)
        if role is not None:
            index, channel = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
            members.append(Member(name, module, role, index, channel))
    name = members[0].name.removesuffix(".conv")
    return ChannelGroup(name, width, layer, channels, tuple(members), dependencies)


def _role(graph: Any, handler: Any, module: object) -> Role | None:
    """What the group's channels are to `module`; None for operations without parameters (concatenation, addition)."""
    if isinstance(module, nn.BatchNorm2d):
        return "norm"
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return "output" if graph.is_out_channel_pruning_fn(handler) else "input"
    return None
