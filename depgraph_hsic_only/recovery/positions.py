"""Where in the images a layer's reconstruction matters: sampled positions, weighted by what later layers need.

An error at one position of a layer's output costs as much of the predictions as the loss is curved there. That is
measured by one backward pass of the original: the squared gradients of `divergence.sampled_loss` with respect to the
layer's output, summed over channels. Their square root, plus a tenth of its mean, is the weight of the position: the
square itself, from one draw, is too noisy (measured: it loses against equal weights, the root wins). Where no
prediction depends on a layer, one that training alone has use for, all positions weigh the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch

from depgraph_hsic_only.recovery.divergence import number_of_objects, sampled_loss
from depgraph_hsic_only.recovery.layerwise import as_input, batch_size, tapped
from depgraph_hsic_only.recovery.samples import grid, sample_positions, taken_outputs
from depgraph_hsic_only.support.progress import track
from depgraph_hsic_only.yolo.predictions import raw_predictions
from depgraph_hsic_only.yolo.types import Network

_FLOOR = 0.1  # of the mean weight: nothing is left out altogether


@dataclass(frozen=True, eq=False)
class SampledPositions:
    """The positions at which one convolution is sampled, batch by batch.

    Half of the curvature, that of the divergence along each output, times the mean squared error of the output is about
    what the error costs.
    """

    index: tuple[torch.Tensor, ...]  # for each batch (b, count) into the grid of the samples (see `samples.grid`)
    weight: tuple[torch.Tensor, ...]  # for each batch (b, count), of mean 1
    # (c_out,), or (4 c_out,) of a transposed convolution; 0 where no prediction depends on it
    curvature: torch.Tensor


def choose_positions(
    original: Network, convolutions: Sequence[str], images: torch.Tensor, *, positions: int, seed: int
) -> dict[str, SampledPositions]:
    """Positions and weights for each named convolution of the original, from one backward pass of the images.

    The original is in evaluation mode, with what is auxiliary where that is named (see `layerwise.evaluating`), and is
    left as it is; the images are (n, c, h, w), float in [0, 1] or uint8. So many positions are sampled from each,
    without repetition where the map is large enough.
    """
    chosen: dict[str, list[torch.Tensor]] = {name: [] for name in convolutions}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in convolutions}
    curvature: dict[str, torch.Tensor] = {}
    generators = {name: torch.Generator().manual_seed(seed) for name in convolutions}
    draws = torch.Generator().manual_seed(seed)
    objects = 0.0  # about their number, by which the divergence is divided
    waiting: dict[str, Callable[[], None]] = {}  # for the gradients of a batch, to be called where none comes

    def tap(name: str, conv: Any, _: torch.Tensor, output: torch.Tensor) -> None:
        def weigh(gradient: torch.Tensor) -> None:
            del waiting[name]
            squared = grid(conv, gradient.square())
            needed = squared.sum(1, keepdim=True).sqrt()
            curvature[name] = curvature.get(name, 0) + squared.double().sum((0, 2, 3))
            sampled = sample_positions(needed, positions, generators[name])
            chosen[name].append(sampled)
            found[name].append(taken_outputs(needed, sampled).view(sampled.shape))

        waiting[name] = partial(weigh, output.new_zeros(()).expand(output.shape))
        cast(Any, output).register_hook(weigh)

    device, parts = next(original.parameters()).device, torch.split(images, batch_size(images))
    with tapped(original, convolutions, tap):
        for part in track(parts, "weighing positions", len(parts)):
            with torch.enable_grad():
                x = as_input(part, device).requires_grad_(True)  # so that gradients flow through frozen weights
                predictions = raw_predictions(original, x)
                torch.autograd.grad(sampled_loss(predictions, draws), x)
                objects += number_of_objects(predictions)
                for unneeded in list(waiting.values()):
                    unneeded()
    return {
        name: SampledPositions(tuple(chosen[name]), _normalised(found[name]), curvature[name] / max(objects, 1.0))
        for name in convolutions
    }


def _normalised(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    mean = float(torch.cat([w.flatten() for w in weights]).double().mean())
    if not mean > 0:
        return tuple(torch.ones_like(w) for w in weights)
    return tuple((w / mean + _FLOOR) / (1 + _FLOOR) for w in weights)
