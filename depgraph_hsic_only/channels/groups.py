"""The coupled channels of a YOLOv8 network, found by torch-pruning's DepGraph (Fang et al. 2023, arXiv:2301.12900).

A *channel group* is a set of channels that must be cut together: for a convolution, its filters, its BatchNorm and the
inputs of every convolution that reads it. A *width group* is a set of channel groups that must keep the same number of
channels for the network to stay a stock Ultralytics model: `w3` is what layer 3 puts out, `h4` is the hidden width of
the C2f at layer 4 (both halves, every bottleneck), `h9` is the hidden width of the SPPF at layer 9, `npr` is the number
of prototypes. Some follow from others as Ultralytics builds them: `h9` from `w8`, and the hidden widths of the head's
branches, `box`, `class` and `mask`, from `w15`.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch_pruning as tp
from torch import nn
from ultralytics.nn.modules import SPPF, C2f, Conv, Detect, Segment

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.yolo.c2f import SplitC2f, split_c2f

BACKBONE = tuple(range(10))
YOLOV8_LAYERS = (*BACKBONE, 12, 15, 16, 18, 19, 21, 22)  # those with a width: backbone, neck, head (its prototypes)
OUTPUT_MULTIPLE = 8  # Ultralytics' parse_model rounds every block output, and npr, up to a multiple of 8
HIDDEN_MULTIPLE = 4  # nothing asks for it, but kernels on narrower steps are no faster
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
class Tie:
    """How a width follows from another one.

    Attributes:
        to: Name of the width group that it follows.
        rule: The width that Ultralytics builds, from that of `to`.
        text: The rule, for people.
    """

    to: str
    rule: Callable[[int], int]
    text: str


@dataclass(frozen=True, eq=False)
class WidthGroup:
    """Channel groups that keep the same number of channels.

    Attributes:
        name: "w<layer>" for a block's output, "h<layer>" for a hidden width, "npr" for the prototypes, and "box",
            "class", "mask" for the hidden widths of the head's branches.
        layer: Index of the layer.
        channels: The number of channels of each of its groups.
        multiple: What Ultralytics, or speed, wants the number to be a multiple of: 8 or 4.
        groups: The channel groups.
        tie: How the width follows from another one, or None where it is free.
    """

    name: str
    layer: int
    channels: int
    multiple: int
    groups: tuple[ChannelGroup, ...]
    tie: Tie | None = None

    @property
    def is_output(self) -> bool:
        """Whether Ultralytics needs a multiple of 8: the output of a block, or the prototypes."""
        return self.tie is None and self.multiple == OUTPUT_MULTIPLE

    def tied(self, full: int, to: int) -> int:
        """The width where the one that it is tied to goes from `full` to `to` channels; uncut with that one."""
        assert self.tie is not None
        return self.channels if to == full else min(self.channels, self.tie.rule(to))


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The channel groups of some layers of one model.

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

    @property
    def readers(self) -> tuple[str, ...]:
        """Paths, in the split model, of the convolutions that read a channel group, each once."""
        names = (m.name for group in self.groups for m in group.members if m.role == "input")
        return tuple(dict.fromkeys(names))


def check_layers(layers: object) -> None:
    """Refuse what chooses no layers of a YOLOv8 network.

    Args:
        layers: "backbone" for 0–9, "all" for every layer that has a width (neck and prototypes too), or a list of such.

    Raises:
        ConfigError: It is anything else.
    """
    _chosen(layers, YOLOV8_LAYERS)


def _chosen(layers: object, there: tuple[int, ...]) -> tuple[int, ...]:
    """The chosen layers among those that have a width, ascending and without repeats."""
    if layers == "backbone":
        return BACKBONE
    if layers == "all":
        return there
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise ConfigError(f"layers: expected 'backbone', 'all' or a list such as [3, 4, 8], got {layers!r}")
    wrong = [layer for layer in layers if type(layer) is not int or layer not in there]
    if wrong:
        rest = ", ".join(str(i) for i in there if i not in BACKBONE)
        raise ConfigError(f"layers: expected some of 0-9, {rest}, got {wrong[0]!r} in {list(layers)}; leave it out")
    return tuple(sorted(set(layers)))


def trace_channels(model: nn.Module, layers: object = "backbone") -> ChannelGraph:
    """Find the coupled channels of `layers` in a YOLOv8 model, which is left as it is.

    Args:
        model: A YOLOv8 SegmentationModel or DetectionModel (checked by `architecture.check_yolov8`).
        layers: "backbone" for 0–9, "all" for every layer that has a width, or a list of such; the last layer stands for
            the prototypes.

    Raises:
        ConfigError: `layers` is something else.
    """
    blocks = cast(Any, model).model
    chosen = _chosen(
        layers, tuple(i for i, block in enumerate(blocks) if isinstance(block, (Conv, C2f, SPPF, Segment)))
    )
    with torch.enable_grad():
        split = split_c2f(copy.deepcopy(model)).float().requires_grad_(True)  # a checkpoint's parameters are frozen
        graph = _dependency_graph(split)
        widths = [_width_group(graph, width) for width in _widths(cast(Any, split).model, chosen)]
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


@dataclass(frozen=True)
class _Width:
    """A width before its groups are known: the convolutions that make its channels."""

    name: str
    layer: int
    multiple: int
    roots: list[Any]
    tie: Tie | None = None


def _widths(blocks: Any, layers: tuple[int, ...]) -> Iterator[_Width]:
    """The widths to cut, in the order of the network."""
    for i, block in enumerate(blocks):
        if isinstance(block, SPPF) and i - 1 in layers:
            tie = Tie(f"w{i - 1}", lambda width: width // 2, f"half of w{i - 1}")
            yield _Width(f"h{i}", i, HIDDEN_MULTIPLE, [block.cv1.conv], tie)
        if i in layers and isinstance(block, SplitC2f):
            inside = [conv.conv for bottleneck in cast(Any, block.m) for conv in (bottleneck.cv1, bottleneck.cv2)]
            yield _Width(f"h{i}", i, HIDDEN_MULTIPLE, [block.first.conv, block.second.conv, *inside])
        if i in layers and isinstance(block, Conv):
            yield _Width(f"w{i}", i, OUTPUT_MULTIPLE, [block.conv])
        if i in layers and isinstance(block, (SplitC2f, SPPF)):
            yield _Width(f"w{i}", i, OUTPUT_MULTIPLE, [block.cv2.conv])
        if isinstance(block, Detect) and block.f[0] in layers:
            yield from _branch_widths(block, i)
        if i in layers and isinstance(block, Segment):
            proto = block.proto
            yield _Width("npr", i, OUTPUT_MULTIPLE, [proto.cv1.conv, proto.upsample, proto.cv2.conv])


def _branch_widths(head: Any, layer: int) -> Iterator[_Width]:
    """The hidden widths of the head's branches that follow from what its first input has."""
    to, boxes, classes = f"w{head.f[0]}", max(16, 4 * head.reg_max), min(head.nc, 100)
    ties: dict[str, tuple[Any, Tie]] = {
        "box": (head.cv2, Tie(to, lambda w: max(w // 4, boxes), f"max({to} / 4, {boxes})")),
        "class": (head.cv3, Tie(to, lambda w: max(w, classes), f"max({to}, {classes})")),
    }
    if isinstance(head, Segment):
        ties["mask"] = (head.cv4, Tie(to, lambda w: max(w // 4, head.nm), f"max({to} / 4, {head.nm})"))
    for name, (branch, tie) in ties.items():
        roots = [cast(Any, conv).conv for scale in branch for conv in (scale[0], scale[1])]
        yield _Width(name, layer, HIDDEN_MULTIPLE, roots, tie)


def _width_group(graph: Any, width: _Width) -> WidthGroup:
    groups: list[ChannelGroup] = []
    for root in width.roots:
        produced = {member.module for group in groups for member in group.members if member.role == "output"}
        if root not in produced:  # with a shortcut the bottlenecks' outputs are coupled with the second half
            groups.append(_channel_group(graph, root, width.name, width.layer))
    return WidthGroup(width.name, width.layer, groups[0].channels, width.multiple, tuple(groups), width.tie)


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
