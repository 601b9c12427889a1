"""Where in the images a layer's reconstruction matters: sampled positions, weighted by what later layers need.

An error at one position of a layer's output costs as much of the predictions as the loss is curved there. That is
measured by one backward pass of the original: the squared gradients of `divergence.sampled_loss` with respect to the
layer's output, summed over channels. Their square root, plus a tenth of its mean, is the weight of the position: the
square itself, from one draw, is too noisy (measured: it loses against equal weights, the root wins).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from depgraph_hsic_only.recovery.divergence import sampled_loss
from depgraph_hsic_only.recovery.layerwise import as_input, batch_size, tapped
from depgraph_hsic_only.recovery.samples import grid, sample_positions, taken_outputs
from depgraph_hsic_only.support.progress import track
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
    curvature: torch.Tensor  # (c_out,), or (4 c_out,) of a transposed convolution


def choose_positions(
    original: Network, convolutions: Sequence[str], images: torch.Tensor, *, positions: int, seed: int
) -> dict[str, SampledPositions]:
    """Positions and weights for each named convolution of the original, from one backward pass of the images.

    The original has raw outputs (see `raw_outputs`) and is left as it is; the images are (n, c, h, w), float in [0, 1]
    or uint8. So many positions are sampled from each, without repetition where the map is large enough.
    """
    chosen: dict[str, list[torch.Tensor]] = {name: [] for name in convolutions}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in convolutions}
    curvature: dict[str, torch.Tensor] = {}
    generators = {name: torch.Generator().manual_seed(seed) for name in convolutions}
    draws = torch.Generator().manual_seed(seed)
    objects = 0.0  # about their number, by which the divergence is divided

    def tap(name: str, conv: Any, _: torch.Tensor, output: torch.Tensor) -> None:
        def weigh(gradient: torch.Tensor) -> None:
            squared = grid(conv, gradient.square())
            needed = squared.sum(1, keepdim=True).sqrt()
            curvature[name] = curvature.get(name, 0) + squared.double().sum((0, 2, 3))
            sampled = sample_positions(needed, positions, generators[name])
            chosen[name].append(sampled)
            found[name].append(taken_outputs(needed, sampled).view(sampled.shape))

        cast(Any, output).register_hook(weigh)

    device, parts = next(original.parameters()).device, torch.split(images, batch_size(images))
    with tapped(original, convolutions, tap):
        for part in track(parts, "weighing positions", len(parts)):
            with torch.enable_grad():
                x = as_input(part, device).requires_grad_(True)  # so that gradients flow through frozen weights
                outputs = original(x)
                torch.autograd.grad(sampled_loss(outputs, draws), x)
                objects += float(outputs["scores"].detach().sigmoid().amax(1).sum())
    return {
        name: SampledPositions(tuple(chosen[name]), _normalised(found[name]), curvature[name] / max(objects, 1.0))
        for name in convolutions
    }


def _normalised(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    mean = float(torch.cat([w.flatten() for w in weights]).double().mean())
    if not mean > 0:
        return tuple(torch.ones_like(w) for w in weights)
    return tuple((w / mean + _FLOOR) / (1 + _FLOOR) for w in weights)
