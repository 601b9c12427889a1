"""The coupled channels of a network, found by torch-pruning's DepGraph (Fang et al. 2023, arXiv:2301.12900).

A *channel group* is a set of channels that must be cut together: for a convolution, its filters, its BatchNorm and the
inputs of every convolution that reads it. A *width group* is a set of channel groups that must keep the same number of
channels for the network to stay a stock Ultralytics model: `w3` is what layer 3 puts out, `h4` is the hidden width of
the C2f at layer 4 (both halves, every bottleneck), `h9` is the hidden width of the SPPF at layer 9, `npr` is the number
of prototypes, `reg_max` that of the bins of a box's distances. Some follow from others as Ultralytics builds them:
`h9` from `w8`, the hidden widths of the head's branches, `box`, `class` and `mask`, from `w15`, and `box` from
`reg_max` too. Which widths a layer has stands in `yolo.blocks`. Where depth is asked for, the repeats of a layer are a
width group too, `d6`: a number that is chosen as a width is, of no channel group.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch_pruning as tp
from torch import nn

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.yolo.architecture import backbone_layers
from depgraph_hsic_only.yolo.blocks import (
    OUTPUT_MULTIPLE,
    Tie,
    Width,
    auxiliary,
    is_left_out,
    repeats_of,
    split_blocks,
    traceable,
    widths_of,
)
from depgraph_hsic_only.yolo.input_shape import input_channels
from depgraph_hsic_only.yolo.predictions import raw_predictions
from depgraph_hsic_only.yolo.types import Network

_TRACE_SIZE = 64  # pixels: every stride divides it, and tracing takes tens of milliseconds

Role = Literal["output", "input", "norm"]


@dataclass(frozen=True, eq=False)
class Member:
    """The part of one module that belongs to a channel group.

    Attributes:
        name: Path of the module in the split model, such as "model.2.cv2.conv".
        module: A Conv2d, ConvTranspose2d or BatchNorm2d.
        role: Whether the channels are its "output" (filters), its "input", or a "norm". A depthwise convolution, which
            the channels pass through, is an "output".
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
        channels: C, the number of channels; of attention heads or bins, each of which is several of its modules.
        members: Every module that the channels pass through as parameters.
        dependencies: torch-pruning's own groups over all C channels, for its importance measures and its cut: one, or
            of attention heads one for their queries and keys and one for their values.
    """

    name: str
    width: str
    layer: int
    channels: int
    members: tuple[Member, ...]
    dependencies: tuple[Any, ...]
    bins: bool = False  # as in `yolo.blocks.Width`

    def cut(self, removed: Sequence[int]) -> None:
        """Cut channels, in place, by their indices in [0, C); uses the group up."""
        for coupled in self.dependencies:
            each = coupled[0].dep.target.module.out_channels // self.channels
            place = (1, self.channels) if self.bins else (each, 1)  # of the next channel, and of the next in it
            coupled.prune(sorted(place[0] * k + place[1] * j for k in removed for j in range(each)))


@dataclass(frozen=True, eq=False)
class WidthGroup:
    """Channel groups that keep the same number of channels; of none, the repeats of a layer."""

    name: str  # as in `yolo.blocks.Width`
    layer: int
    channels: int  # the number that each of its groups has; or repeats
    multiple: int  # what Ultralytics, or speed, wants the number to be a multiple of
    groups: tuple[ChannelGroup, ...]
    tie: Tie | None = None  # None where it is free
    needs: int = 1  # what Ultralytics alone needs it to be a multiple of
    least: int = 1  # as in `yolo.blocks.Width`
    bins: bool = False  # likewise

    @property
    def is_repeats(self) -> bool:
        """Whether it is the repeats of a layer."""
        return not self.groups

    @property
    def is_output(self) -> bool:
        """Whether Ultralytics needs a multiple of 8: the output of a block, or the prototypes."""
        return self.tie is None and self.needs == OUTPUT_MULTIPLE

    def tied(self, widths: Mapping[str, int]) -> int:
        """The width where others are as told: those that it is tied to, and uncut where these are, or not told of."""
        assert self.tie is not None
        to = tuple(widths.get(name, now) for name, now in zip(self.tie.to, self.tie.now, strict=True))
        return self.channels if to == self.tie.now else min(self.channels, self.tie.rule(*to))


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
    def ranked(self) -> "ChannelGraph":
        """The same without what no criterion ranks, since which of it stays is settled."""
        return replace(self, widths=tuple(width for width in self.widths if not width.bins))

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
        widths = (w for w in self.widths if not free.isdisjoint(w.tie.to if w.tie else (w.name,)))
        return replace(self, layers=(layer,), widths=tuple(widths))

    def without_left_out(self, widths: Mapping[str, int]) -> "ChannelGraph":
        """The same without what is in inner blocks beyond the repeats among some widths.

        Such groups, widths of such groups alone, and such members of other groups are gone. So are bins that are not
        told of: by a plan from before these were cut.
        """
        left, told = [], [width for width in self.widths if width.name in widths or not width.bins]
        for width in told:
            groups = (
                replace(group, members=tuple(m for m in group.members if not is_left_out(m.name, widths)))
                for group in width.groups
                if not is_left_out(group.name, widths)
            )
            left.append(replace(width, groups=tuple(groups)))
        there = (new for new, old in zip(left, told, strict=True) if new.groups or old.is_repeats)
        return replace(self, widths=tuple(there))


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
    wrong = [layer for layer in chosen if layer not in there and layer not in backbone]
    if wrong:
        rest = ", ".join(str(i) for i in there if i not in backbone)
        raise ConfigError(
            f"layers: expected some of 0-{backbone.stop - 1}, {rest}, got {wrong[0]!r} in {list(chosen)}; leave it out"
        )
    return tuple(sorted(set(chosen)))


def chosen_widths(network: Network, layers: Sequence[int], depth: bool = False) -> list[tuple[int, Width]]:
    """The widths of some layers, and those that follow from them, each with the index of its layer.

    With `depth`, a layer's repeats come after its other widths.
    """
    there = widths_of(network)
    free = {width.name for i, width in there if i in layers and width.tie is None}
    chosen = [(i, width) for i, width in there if not free.isdisjoint(width.tie.to if width.tie else (width.name,))]
    repeats = [(i, width) for i, width in repeats_of(network) if depth and i in layers]
    return sorted([*chosen, *repeats], key=lambda found: found[0])


def trace_channels(network: Network, layers: object = "backbone", depth: bool = False) -> ChannelGraph:
    """The coupled channels of some layers of a network, which is left as it is; as `choose_layers`.

    With `depth`, their repeats are among the widths.
    """
    chosen = choose_layers(network, layers)
    split = split_network(network)
    parameter = next(split.parameters())
    image = torch.zeros(1, input_channels(split), _TRACE_SIZE, _TRACE_SIZE, device=parameter.device)

    with torch.enable_grad(), warnings.catch_warnings(), traceable(cast(Any, split)) as traced:

        def outputs(_: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
            for module in auxiliary(split.model[-1]):  # what training alone has use for is coupled too
                module.training = True  # of no BatchNorm
            found = [t for branch in raw_predictions(split, x) for t in branch.values()]
            return found + traced

        warnings.simplefilter("ignore")  # torch-pruning warns of the DFL's constant weights, which nothing here cuts
        graph = tp.DependencyGraph().build_dependency(split, image, forward_fn=outputs, verbose=False)
        widths = [_width_group(graph, split, i, width) for i, width in chosen_widths(network, chosen, depth)]
    split.train(network.training)
    return ChannelGraph(split, chosen, tuple(widths))


def split_network(network: Network) -> Network:
    """A copy of a network in split form, float32, with gradients enabled: a checkpoint's parameters are frozen."""
    split: Network = cast(Any, split_blocks(cast(Any, copy.deepcopy(network))))
    return split.float().requires_grad_(True)


def _width_group(graph: Any, split: Network, layer: int, width: Width) -> WidthGroup:
    groups: list[ChannelGroup] = []
    for path in width.makers:
        maker = split.model[layer].get_submodule(path)
        roots = getattr(maker, "makers", (maker,))  # of attention heads several
        made = {member.module for group in groups for member in group.members if member.role == "output"}
        if roots[0] not in made:  # with a shortcut the bottlenecks' outputs are coupled with the second half
            coupled = tuple(
                graph.get_pruning_group(root, tp.prune_conv_out_channels, list(range(root.out_channels)))
                for root in roots
            )
            members = tuple(member for group in coupled for member in _members(graph, group, width))
            name = members[0].name.removesuffix(".conv") if len(roots) == 1 else f"model.{layer}.{path}"
            groups.append(ChannelGroup(name, width.name, layer, width.channels, members, coupled, width.bins))
    given = width.name, layer, width.channels, width.multiple, tuple(groups)
    return WidthGroup(*given, width.tie, width.needs, width.least, width.bins)


def _members(graph: Any, dependencies: Any, width: Width) -> Iterable[Member]:
    """The modules with parameters in torch-pruning's group: concatenations and additions have none.

    The group is of the channels of a width, or of its heads of as many channels each, or of its bins.
    """
    each = dependencies[0].dep.target.module.out_channels // width.channels
    seen: set[nn.Module] = set()
    for item in dependencies:
        module, role = item.dep.target.module, "norm"
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            depthwise = module.groups > 1
            role = "output" if depthwise or graph.is_out_channel_pruning_fn(item.dep.handler) else "input"
            if depthwise and module in seen:  # once for its inputs and once for its outputs
                continue
            seen.add(module)
        elif not isinstance(module, nn.BatchNorm2d):
            continue
        index, roots = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
        channel = roots % width.channels if width.bins else roots // each
        yield Member(graph._module2name[module], module, cast(Role, role), index, channel)
