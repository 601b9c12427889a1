"""Reconstruction: which channels can the others stand in for, once the downstream layers are re-fitted?

Optimal Brain Surgeon for channels (Hassibi & Stork 1993; in blocks as Frantar & Alistarh 2022, arXiv:2208.11580). A
convolution with weights W that reads channels of covariance Σ reproduces its outputs, without channel c and with the
other weights re-fitted by least squares, up to the squared error

    e_c = ½ tr(F W_cᵀ [(Σ⁻¹)_cc]⁻¹ W_c)

with W_c (k², c_out) and (Σ⁻¹)_cc (k², k²) the channel's blocks, for an attention head those of all its channels, and F
the curvature of the predictions' divergence along each output (see `divergence.sampled_loss`). By backward elimination
the channel with the least e_c, summed over all consumers of the group, goes first, and W and Σ⁻¹ are updated exactly.
What is assumed is what `recover.py` then does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from depgraph_hsic_only.channels.budgets import is_number
from depgraph_hsic_only.channels.groups import ChannelGraph, ChannelGroup
from depgraph_hsic_only.criteria.registry import Batches, Criterion, register_criterion
from depgraph_hsic_only.data.images import spread
from depgraph_hsic_only.errors import ConfigError, DataError
from depgraph_hsic_only.recovery.layerwise import as_input, batch_size, evaluating, tapped
from depgraph_hsic_only.recovery.least_squares import NormalEquations, damped
from depgraph_hsic_only.recovery.positions import choose_positions
from depgraph_hsic_only.recovery.samples import grid, matrix, taken_patches
from depgraph_hsic_only.support.progress import track
from depgraph_hsic_only.support.threads import measuring
from depgraph_hsic_only.yolo.predictions import raw_predictions
from depgraph_hsic_only.yolo.types import Network

_IMAGES = 128  # that are read: twice as many rank the channels no better


@register_criterion("reconstruction")
class Reconstruction(Criterion):
    """The error that cutting a channel, and all that score below it, leaves after the consumers were re-fitted.

    Scores are sums of e_c in the order in which the channels go, estimates of the divergence of the predictions: of
    channels with a score of at most τ, a group loses all for about τ.

    At most 128 of the images are read, evenly spaced.

    Args:
        positions: Positions of each consumer's output sampled from each image.
        ridge: Added to the diagonal of Σ, as a share of its mean: inputs that have been too rare to tell count little.
        seed: Of positions.

    Raises:
        ConfigError: An option is out of range.
    """

    needs_batches = True
    needs_labels = False

    def __init__(self, *, positions: int = 200, ridge: float = 1e-2, seed: int = 0) -> None:
        if type(positions) is not int or positions < 1:
            raise ConfigError(f"positions: expected an integer of at least 1, got {positions!r}")
        if not is_number(ridge) or not 0 < ridge < float("inf"):
            raise ConfigError(f"ridge: expected a number above 0, got {ridge!r}")
        if type(seed) is not int or seed < 0:
            raise ConfigError(f"seed: expected an integer of at least 0, got {seed!r}")
        self.positions, self.ridge, self.seed = positions, ridge, seed

    @measuring()
    def score(self, graph: ChannelGraph, batches: Batches | None) -> dict[str, torch.Tensor]:
        """Eliminate the channels of every group, the dispensable first."""
        images = [batch["img"] for batch in batches or ()]
        if not images:
            raise DataError("criterion reconstruction: expected calibration images, got none; pass a data set")
        every = torch.cat(images)
        consumers = self._consumers(graph, every[spread(len(every), _IMAGES)])
        groups = track(graph.groups, "reconstruction by group", len(graph.groups))
        return {group.name: backward_elimination(_parts(group, consumers), group.channels) for group in groups}

    def _consumers(self, graph: ChannelGraph, images: torch.Tensor) -> dict[str, "_Consumer"]:
        """What each convolution that reads a group makes of its inputs."""
        network: Network = graph.model
        seen: dict[str, NormalEquations] = {}
        parts = torch.split(images, batch_size(images))

        def tap(name: str, conv: Any, x: torch.Tensor, output: torch.Tensor) -> None:
            index, weight = next(batches[name])
            x = taken_patches(x, conv, index, grid(conv, output).shape[3]).flatten(1)[:, None]
            seen.setdefault(name, NormalEquations(1, x.shape[2], 0, x.device)).add(x, x[..., :0], weight.flatten())

        with evaluating(network, auxiliary=True):
            sampled = choose_positions(network, graph.consumers, images, positions=self.positions, seed=self.seed)
            batches = {name: zip(at.index, at.weight, strict=True) for name, at in sampled.items()}
            with tapped(network, sampled, tap), torch.no_grad():
                for part in track(parts, "reading inputs", len(parts)):
                    raw_predictions(network, as_input(part, next(network.parameters()).device))
        consumers = {}
        for name, equations in seen.items():
            covariance = equations.covariance.cpu()
            if not bool(torch.isfinite(covariance).all()):
                raise DataError(f"{name}: expected finite activations, got NaN or infinity; check weights and images")
            inverse = torch.linalg.inv(damped(covariance, self.ridge)[0])
            root = (sampled[name].curvature.double().cpu() / 2).sqrt()
            conv = network.get_submodule(name)
            consumers[name] = _Consumer(inverse, matrix(conv).double().cpu().T * root, conv.in_channels)
        return consumers


@dataclass(frozen=True, eq=False)
class _Consumer:
    """A convolution as a linear map; squared errors of its outputs, so scaled, are what they add to the divergence."""

    inverse: torch.Tensor  # (c_in k², c_in k²) Σ⁻¹
    weight: torch.Tensor  # (c_in k², c_out) W of the outputs so scaled
    inputs: int  # c_in


def _parts(group: ChannelGroup, consumers: Mapping[str, _Consumer]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each consumer of a group, Σ⁻¹ (C, b, C, b) and W (C, b, c_out) of its channels.

    The rest of what a consumer reads stays and makes good too: nothing is lost by leaving its rows out of Σ⁻¹.
    """
    parts = []
    for member in group.members:
        if member.role == "input":
            consumer = consumers[member.name]
            patch = len(consumer.weight) // consumer.inputs
            # A shortcut puts a channel in several, and an attention head is several: each channel in as many.
            inputs = member.index[member.channel.argsort(stable=True)]
            rows = (inputs[:, None] * patch + torch.arange(patch)).flatten()
            shape = (group.channels, len(rows) // group.channels)
            inverse = consumer.inverse[rows][:, rows]
            parts.append((inverse.view(*shape, *shape), consumer.weight[rows].view(*shape, -1)))
    return parts


def backward_elimination(parts: list[tuple[torch.Tensor, torch.Tensor]], channels: int) -> torch.Tensor:
    """Scores (C,) of channels by backward elimination; `parts` are used up."""
    score, total = torch.zeros(channels, dtype=torch.float64), 0.0
    gone = torch.zeros(channels, dtype=torch.bool)
    for _ in range(channels):
        errors = torch.zeros(channels, dtype=torch.float64)
        for inverse, weight in parts:
            own = inverse.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (C, b, b)
            own = torch.where(gone[:, None, None], torch.eye(own.shape[1], dtype=own.dtype), own)
            errors += (weight * torch.linalg.solve(own, weight)).sum((1, 2)).clamp_min(0)
        c = int(errors.masked_fill(gone, torch.inf).argmin())
        total += float(errors[c])
        score[c], gone[c] = total, True
        for inverse, weight in parts:
            size, outputs = inverse.shape[1] * channels, weight.shape[2]
            across = inverse[:, :, c].reshape(size, -1).clone()
            solved = torch.linalg.solve(inverse[c, :, c], torch.cat([across.T, weight[c]], 1))
            weight.view(size, outputs).addmm_(across, solved[:, size:], alpha=-1)
            inverse.view(size, size).addmm_(across, solved[:, :size], alpha=-1)
            weight[c], inverse[c], inverse[:, :, c] = 0, 0, 0
    return score
