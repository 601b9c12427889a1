"""Costs of widths that have not been cut yet: exact, in microseconds.

Every convolution costs k² · c_in · c_out, times the area of its output for multiply-adds, c_in and c_out being sums of
widths: cost is bilinear in neighbouring widths, and linear in those that pass through depthwise convolutions or are
attention heads. What each convolution reads and makes is taken from the channel groups. An inner block beyond a layer's
repeats costs nothing, and neither does what the layer's last convolution reads of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.yolo.blocks import block_of, inner_block, is_constant, output_convolution, stock_rows
from depgraph_hsic_only.yolo.cost import count_macs
from depgraph_hsic_only.yolo.input_shape import rounded_up
from depgraph_hsic_only.yolo.types import Network


@dataclass
class _Channels:
    """A number of channels as a sum: those that nothing cuts, and shares of widths.

    Where they are `repeated`, the sum is of equal parts: so many, and the repeats of that name, of which there are as
    many unpruned as it ends with.
    """

    fixed: float
    shares: dict[str, float] = field(default_factory=dict)
    repeated: tuple[int, str, int] | None = None

    def at(self, widths: Mapping[str, int]) -> float:
        found = self.fixed + sum(share * widths[name] for name, share in self.shares.items())
        if self.repeated is None:
            return found
        own, name, full = self.repeated
        return found * (own + widths[name]) / (own + full)

    def give(self, name: str, channels: int, full: int) -> None:
        """Of the channels that nothing cuts, so many go with a width, of which there are as many as it is `full`."""
        self.fixed -= channels
        self.shares[name] = self.shares.get(name, 0) + channels / full


@dataclass(frozen=True)
class _Placed:
    """What is in an inner block that may be left out, where it is in one: the repeats, and which of them it is."""

    inner: tuple[str, int] | None

    def stays(self, widths: Mapping[str, int]) -> bool:
        return self.inner is None or self.inner[1] < widths[self.inner[0]]


@dataclass(frozen=True)
class _Heads(_Placed):
    macs: _Channels  # of the products of an attention


@dataclass(frozen=True)
class _Convolution(_Placed):
    inputs: _Channels  # of each group, of a convolution in groups
    outputs: _Channels
    weights: int  # for each pair of an input and an output channel
    biases: int  # for each output channel, the parameters of the BatchNorm that follows included
    area: float  # output positions for one image that each weight is used at


class CostModel:
    """Parameters and multiply-adds as functions of the widths of a graph, which was made of the network.

    The side `imgsz` of the square input image, pixels, is rounded up to the network's stride.
    """

    def __init__(self, network: Network, graph: ChannelGraph, imgsz: int = 640) -> None:
        split: Network = graph.model
        repeats = {w.name: w for w in graph.widths if w.is_repeats}
        macs = count_macs(split, rounded_up(network, imgsz))

        def place(path: str) -> tuple[str, int] | None:
            inner = inner_block(path)
            return inner if inner is not None and inner[0] in repeats else None

        found: dict[str, _Convolution] = {}
        self._other = 0.0  # parameters of neither convolutions nor the BatchNorm layers behind them
        for name, m in split.named_modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
                norm = getattr(split.get_submodule(name.rpartition(".")[0]), "bn", None)
                biases = (m.bias is not None) + 2 * isinstance(norm, nn.BatchNorm2d)
                inputs, outputs = _Channels(m.in_channels // m.groups), _Channels(m.out_channels)
                counted = macs.pop(name, 0)  # of one that stands for no convolution too, which costs nothing
                area = counted / m.weight.numel() if stock_rows(cast(Any, split), name) is not None else 0.0
                found[name] = _Convolution(place(name), inputs, outputs, m.weight[0, 0].numel(), biases, area)
            elif not isinstance(m, nn.BatchNorm2d):
                self._other += sum(p.numel() for p in m.parameters(recurse=False))
        heads = {name: _Heads(place(name), _Channels(count)) for name, count in macs.items()}
        for name, width in repeats.items():
            depth = block_of(network.model[width.layer]).depth
            if depth is not None:
                reader = found[output_convolution(network, width.layer)]
                reader.inputs.repeated = depth.slots, name, width.channels
        for width in (w for w in graph.widths if w.bins):
            for path in filter(is_constant, found):
                found[path].inputs.give(width.name, width.channels, width.channels)
        for group in graph.groups:
            if group.name in heads:
                heads[group.name].macs.give(group.width, macs[group.name], group.channels)
            for member in group.members:
                if member.role == "output":
                    found[member.name].outputs.give(group.width, len(member.index), group.channels)
                elif member.role == "input":
                    found[member.name].inputs.give(group.width, len(member.index), group.channels)
        self._convolutions, self._heads = list(found.values()), list(heads.values())

    def parameters(self, widths: Mapping[str, int]) -> float:
        """Number of parameters at the widths of all width groups, tied ones included."""
        there = (c for c in self._convolutions if c.stays(widths))
        return sum(c.outputs.at(widths) * (c.inputs.at(widths) * c.weights + c.biases) for c in there) + self._other

    def gmacs(self, widths: Mapping[str, int]) -> float:
        """Multiply-adds at these widths, in units of 10^9."""
        there = (c for c in self._convolutions if c.stays(widths))
        macs = sum(c.inputs.at(widths) * c.outputs.at(widths) * c.weights * c.area for c in there)
        return (macs + sum(heads.macs.at(widths) for heads in self._heads if heads.stays(widths))) / 1e9
