"""The coupled channels of a network, found by torch-pruning's DepGraph (Fang et al. 2023, arXiv:2301.12900).

A *channel group* is a set of channels that must be cut together: for a convolution, its filters, its BatchNorm and the
inputs of every convolution that reads it. A *width group* is a set of channel groups that must keep the same number of
channels for the network to stay a stock Ultralytics model: `w3` is what layer 3 puts out, `h4` is the hidden width of
the C2f at layer 4 (both halves, every bottleneck), `h9` is the hidden width of the SPPF at layer 9, `npr` is the number
of prototypes. Some follow from others as Ultralytics builds them: `h9` from `w8`, and the hidden widths of the head's
branches, `box`, `class` and `mask`, from `w15`. Which widths a layer has stands in `yolo.blocks`.
"""

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch_pruning as tp
from torch import nn

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.yolo.architecture import backbone_layers
from depgraph_hsic_only.yolo.blocks import OUTPUT_MULTIPLE, Tie, Width, block_of, widths_of
from depgraph_hsic_only.yolo.input_shape import input_channels
from depgraph_hsic_only.yolo.types import Network

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
        dependencies: torch-pruning's own group over all C channels, for its importance measures and its cut.
    """

    name: str
    width: str
    layer: int
    channels: int
    members: tuple[Member, ...]
    dependencies: Any


@dataclass(frozen=True, eq=False)
class WidthGroup:
    """Channel groups that keep the same number of channels."""

    name: str  # as in `yolo.blocks.Width`
    layer: int
    channels: int  # the number that each of its groups has
    multiple: int  # what Ultralytics, or speed, wants the number to be a multiple of: 8 or 4
    groups: tuple[ChannelGroup, ...]
    tie: Tie | None = None  # None where it is free

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

    The model is a copy in split form (see `yolo.blocks.Block.split`), float32, with gradients enabled. It belongs to
    the graph: criteria measure on it, and the cut is made in it.
    """

    model: Network
    layers: tuple[int, ...]  # those chosen, ascending
    widths: tuple[WidthGroup, ...]  # those to cut, in the order of the network, tied ones included

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """Every channel group, in the order of the network."""
        return tuple(group for width in self.widths for group in width.groups)

    @property
    def full(self) -> dict[str, int]:
        """The number of channels of every width group."""
        return {width.name: width.channels for width in self.widths}

    @property
    def consumers(self) -> tuple[str, ...]:
        """Paths, in the split model, of the convolutions that read a channel group, each once."""
        names = (m.name for group in self.groups for m in group.members if m.role == "input")
        return tuple(dict.fromkeys(names))

    def of_layer(self, layer: int) -> "ChannelGraph":
        """The same groups as far as they belong to one layer, and to what follows from its width."""
        free = {width.name for width in self.widths if width.layer == layer and width.tie is None}
        widths = (w for w in self.widths if (w.tie.to if w.tie else w.name) in free)
        return replace(self, layers=(layer,), widths=tuple(widths))


def check_layers(layers: object) -> None:
    """Refuse, by a `ConfigError`, what chooses no layers of any network; whether one has them is seen later."""
    if layers in ("backbone", "all"):
        return
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise ConfigError(f"layers: expected 'backbone', 'all' or a list such as [3, 4, 8], got {layers!r}")
    wrong = [layer for layer in layers if type(layer) is not int or layer < 0]
    if wrong:
        raise ConfigError(f"layers: expected indices of layers, got {wrong[0]!r} in {list(layers)}; leave it out")


def choose_layers(network: Network, layers: object) -> tuple[int, ...]:
    """The chosen layers of a network that was checked, ascending and without repeats.

    They are "backbone" for what the model's own YAML calls so, "all" for every layer that has a width (neck and
    prototypes too), or a list of such; the last layer stands for the prototypes.

    Raises:
        ConfigError: `layers` is something else.
    """
    check_layers(layers)
    backbone = backbone_layers(network)
    if layers == "backbone":
        return tuple(backbone)
    there = dict.fromkeys(i for i, width in widths_of(network) if width.tie is None)
    if layers == "all":
        return tuple(there)
    chosen = cast(Sequence[int], layers)
    wrong = [layer for layer in chosen if layer not in there]
    if wrong:
        rest = ", ".join(str(i) for i in there if i not in backbone)
        raise ConfigError(
            f"layers: expected some of 0-{backbone.stop - 1}, {rest}, got {wrong[0]!r} in {list(chosen)}; leave it out"
        )
    return tuple(sorted(set(chosen)))


def chosen_widths(network: Network, layers: Sequence[int]) -> list[tuple[int, Width]]:
    """The widths of some layers, and those that follow from them, each with the index of its layer."""
    there = widths_of(network)
    free = {width.name for i, width in there if i in layers and width.tie is None}
    return [(i, width) for i, width in there if (width.tie.to if width.tie else width.name) in free]


def trace_channels(network: Network, layers: object = "backbone") -> ChannelGraph:
    """The coupled channels of some layers of a network, which is left as it is; as `choose_layers`."""
    chosen = choose_layers(network, layers)
    split = split_network(network)
    head, parameter = split.model[-1], next(split.parameters())
    image = torch.zeros(1, input_channels(split), _TRACE_SIZE, _TRACE_SIZE, device=parameter.device)

    def raw_outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        head.training = True  # of the head alone: raw outputs, while every BatchNorm stays in evaluation mode
        return [t for name, t in model(x).items() if name != "feats"]

    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch-pruning warns of the DFL's constant weights, which nothing here cuts
        graph = tp.DependencyGraph().build_dependency(split, image, forward_fn=raw_outputs, verbose=False)
        widths = [_width_group(graph, split, i, width) for i, width in chosen_widths(network, chosen)]
    split.train(network.training)
    return ChannelGraph(split, chosen, tuple(widths))


def split_network(network: Network) -> Network:
    """A copy of a network in split form, float32, with gradients enabled: a checkpoint's parameters are frozen."""
    split = copy.deepcopy(network)
    for i, layer in enumerate(split.model):
        split.model[i] = block_of(layer).split(layer)
    return split.float().requires_grad_(True)


def _width_group(graph: Any, split: Network, layer: int, width: Width) -> WidthGroup:
    groups: list[ChannelGroup] = []
    for path in width.convolutions:
        root = split.model[layer].get_submodule(path)
        made = {member.module for group in groups for member in group.members if member.role == "output"}
        if root not in made:  # with a shortcut the bottlenecks' outputs are coupled with the second half
            channels = root.out_channels
            coupled = graph.get_pruning_group(root, tp.prune_conv_out_channels, list(range(channels)))
            members = tuple(_members(graph, coupled))
            name = members[0].name.removesuffix(".conv")
            groups.append(ChannelGroup(name, width.name, layer, channels, members, coupled))
    return WidthGroup(width.name, layer, width.channels, width.multiple, tuple(groups), width.tie)


def _members(graph: Any, dependencies: Any) -> Iterable[Member]:
    """The modules with parameters in torch-pruning's group: concatenations and additions have none."""
    for item in dependencies:
        module, role = item.dep.target.module, "norm"
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            role = "output" if graph.is_out_channel_pruning_fn(item.dep.handler) else "input"
        elif not isinstance(module, nn.BatchNorm2d):
            continue
        index, channel = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
        yield Member(graph._module2name[module], module, cast(Role, role), index, channel)
