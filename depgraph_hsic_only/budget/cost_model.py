"""Costs of widths that have not been cut yet: exact, in microseconds.

Every convolution costs k² · c_in · c_out, times the area of its output for multiply-adds, c_in and c_out being sums of
widths: cost is bilinear in neighbouring widths. What each convolution reads and makes is taken from the channel groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.recovery.layerwise import tapped
from depgraph_hsic_only.yolo.cost import COUNT_SIZE, empty_image, on_meta
from depgraph_hsic_only.yolo.input_shape import rounded_up
from depgraph_hsic_only.yolo.types import Network


@dataclass
class _Channels:
    """A number of channels as a sum: those that nothing cuts, and shares of widths."""

    fixed: float
    shares: dict[str, float]

    def at(self, widths: Mapping[str, int]) -> float:
        return self.fixed + sum(share * widths[name] for name, share in self.shares.items())


@dataclass(frozen=True)
class _Convolution:
    inputs: _Channels
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
        areas = _areas(split, (rounded_up(network, imgsz) / COUNT_SIZE) ** 2)
        found: dict[str, _Convolution] = {}
        for name, m in split.named_modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
                norm = split.get_submodule(name.rpartition(".")[0])
                biases = (m.bias is not None) + 2 * isinstance(getattr(norm, "bn", None), nn.BatchNorm2d)
                inputs, outputs = _Channels(m.in_channels, {}), _Channels(m.out_channels, {})
                found[name] = _Convolution(inputs, outputs, m.weight[0, 0].numel(), biases, areas[name])
        for group in graph.groups:
            for member in group.members:
                if member.role != "norm":
                    side = found[member.name].inputs if member.role == "input" else found[member.name].outputs
                    side.fixed -= len(member.index)
                    side.shares[group.width] = side.shares.get(group.width, 0) + len(member.index) / group.channels
        self._convolutions = list(found.values())

    def parameters(self, widths: Mapping[str, int]) -> float:
        """Number of parameters at the widths of all width groups, tied ones included."""
        return sum(c.outputs.at(widths) * (c.inputs.at(widths) * c.weights + c.biases) for c in self._convolutions)

    def gmacs(self, widths: Mapping[str, int]) -> float:
        """Multiply-adds at these widths, in units of 10^9."""
        macs = (c.inputs.at(widths) * c.outputs.at(widths) * c.weights * c.area for c in self._convolutions)
        return sum(macs) / 1e9


def _areas(split: Network, scale: float) -> dict[str, float]:
    """How often each convolution's weights are used for one image; 0 of those that take no part."""
    meta = on_meta(split)
    areas = dict.fromkeys((n for n, m in meta.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))), 0.0)

    def tap(name: str, conv: nn.Module, x: torch.Tensor, output: torch.Tensor) -> None:
        used = x if isinstance(conv, nn.ConvTranspose2d) else output
        areas[name] = used.shape[2] * used.shape[3] * scale

    with tapped(meta, areas, tap), torch.no_grad():
        meta(empty_image(meta))
    return areas
