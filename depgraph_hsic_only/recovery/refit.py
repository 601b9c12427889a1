"""The re-fit of a cut network along its layers, and which of its convolutions and layers the cut has touched."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from depgraph_hsic_only.channels.cut import Kept
from depgraph_hsic_only.recovery.layerwise import LayerwisePass
from depgraph_hsic_only.recovery.least_squares import FittedLayer, fit_layer, recorded
from depgraph_hsic_only.recovery.positions import SampledPositions
from depgraph_hsic_only.yolo.blocks import is_constant, output_convolution
from depgraph_hsic_only.yolo.types import Network

Targets = Callable[[int, Mapping[str, SampledPositions]], Mapping[str, Sequence[torch.Tensor]]]
"""The original's outputs where convolutions of one layer are sampled (see `least_squares.recorded`), by its index."""


def refit(
    student: LayerwisePass, targets: Targets, sampled: Mapping[str, SampledPositions], kept: Kept, ridge: float
) -> Iterator[FittedLayer]:
    """Fit every convolution that has sampled positions, by path, one by one in the order of the network, in place.

    The student is a pass through the cut network, at or before the first of their layers; it ends at the last. The
    targets are of the same images in the same batches.
    """
    last = max((int(name.split(".")[1]) for name in sampled), default=student.index)
    for i in range(student.index, last + 1):
        if here := _of_layer(sampled, i):
            yield from fit_layer(student, targets(i, here), here, kept, ridge)
        if i < last:
            student.step()


def targets_along(teacher: LayerwisePass) -> Targets:
    """Those of a pass through the original, which goes on with them and keeps none: each layer once, in their order."""

    def found(layer: int, sampled: Mapping[str, SampledPositions]) -> Mapping[str, Sequence[torch.Tensor]]:
        while teacher.index < layer:
            teacher.step()
        return recorded(teacher, sampled)

    return found


def targets_kept(teacher: LayerwisePass, sampled: Mapping[str, SampledPositions]) -> Targets:
    """All of them, from one pass through the original, for many fits to some of them."""
    along = targets_along(teacher)
    known = {i: along(i, here) for i in range(len(teacher.network.model)) if (here := _of_layer(sampled, i))}
    return lambda layer, wanted: {name: found for name, found in known[layer].items() if name in wanted}


def _of_layer(sampled: Mapping[str, SampledPositions], layer: int) -> dict[str, SampledPositions]:
    return {name: positions for name, positions in sampled.items() if name.startswith(f"model.{layer}.")}


def touched_convolutions(pruned: Network, original: Network) -> list[str]:
    """Paths of the convolutions that are still there and have lost inputs or outputs; a constant one is none."""
    shapes = {
        name: m.weight.shape
        for name, m in pruned.named_modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) and not is_constant(name)
    }
    return [name for name, shape in shapes.items() if original.get_parameter(f"{name}.weight").shape != shape]


def untouched_layers(pruned: Network, original: Network) -> list[int]:
    """Indices of the layers with weights that a cut has left as they were, but for the weights' values.

    They are none where nothing was cut.
    """
    touched = {int(name.split(".")[1]) for name in touched_convolutions(pruned, original)}
    return [i for i, layer in enumerate(original.model) if touched and i not in touched and list(layer.parameters())]


def head_channels(original: Network, kept: Kept) -> tuple[tuple[int, ...] | None, ...]:
    """The original's channels that each input of the head still has, ascending; None for all."""
    return tuple(kept.get(output_convolution(original, i)) for i in original.model[-1].f)
