"""Samples of what convolutions read and put out, gathered in one pass of the calibration images.

A sample is an (image, position) pair: for a convolution, the k×k patch of each input channel at one position of its
output, and the output there before BatchNorm, which is linear in the patches. A transposed convolution that doubles the
size is a 1×1 convolution to four times the channels, sampled on the grid of its input.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.recovery.layerwise import as_input, evaluating, tapped
from depgraph_hsic_only.yolo.blocks import split_of
from depgraph_hsic_only.yolo.predictions import raw_predictions
from depgraph_hsic_only.yolo.types import Network


@dataclass(frozen=True, eq=False)
class Samples:
    """What one convolution, or several that read the same tensor, saw at n (image, position) pairs.

    Outputs and weights of several convolutions are side by side. A transposed one has k = 1 and 4 c_out outputs.
    """

    convolutions: tuple[str, ...]  # paths in the model
    inputs: torch.Tensor  # (n, c_in, k²) patches of each input channel, float32
    outputs: torch.Tensor  # (n, c_out) before BatchNorm, float32
    weight: torch.Tensor  # (c_out, c_in, k²)


def gather_samples(
    model: Network, convolutions: Sequence[str], batches: Iterable[Mapping[str, Any]], *, positions: int, seed: int
) -> list[Samples]:
    """Sample the named convolutions of a model in evaluation mode, in one pass of the images; hooks are always removed.

    Convolutions that are parts of one in the stock network read the same tensor and share their samples. The batches
    have images under "img", (B, 3, H, W), uint8 or float in [0, 1]; so many positions are sampled from each, without
    repetition where the map is large enough. Memory: n · c_in · k² floats for each distinct input.

    Raises:
        DataError: There are no images, or an activation is not finite.
    """
    by_stock: dict[str, list[str]] = {}  # path
    for name in convolutions:
        by_stock.setdefault(split_of(model, name), []).append(name)
    joint = [tuple(sorted(names)) for names in by_stock.values()]
    inputs: dict[str, list[torch.Tensor]] = {names[0]: [] for names in joint}
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in convolutions}
    generators = {name: torch.Generator().manual_seed(seed) for name in convolutions}

    def tap(name: str, conv: nn.Module, x: torch.Tensor, output: torch.Tensor) -> None:
        output = grid(conv, output)
        sampled = sample_positions(output, positions, generators[name])
        if name in inputs:
            inputs[name].append(taken_patches(x, conv, sampled, output.shape[3]))
        outputs[name].append(taken_outputs(output, sampled))

    parameter, seen = next(model.parameters()), 0
    with evaluating(model, auxiliary=True), tapped(model, convolutions, tap), torch.no_grad():
        for batch in batches:
            raw_predictions(model, as_input(batch["img"], parameter.device).to(parameter.dtype))
            seen += len(batch["img"])
    if not seen:
        raise DataError("expected calibration images, got none; pass images= or a data set")
    samples = []
    for names in joint:
        x, y = torch.cat(inputs[names[0]]), torch.cat([torch.cat(outputs[name]) for name in names], 1)
        if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
            raise DataError(f"{names[0]}: expected finite activations, got NaN or infinity; check weights and images")
        weight = torch.cat([matrix(model.get_submodule(name)).float() for name in names])
        samples.append(Samples(names, x, y, weight.view(len(weight), *x.shape[1:])))
    return samples


def sample_positions(output: torch.Tensor, positions: int, generator: torch.Generator) -> torch.Tensor:
    """Random positions of each image's output map (b, c, h, w): (b, min(positions, h·w)) indices into h·w."""
    b, _, h, w = output.shape
    sampled = [torch.randperm(h * w, generator=generator)[:positions] for _ in range(b)]
    return torch.stack(sampled).to(output.device)


def taken_outputs(output: torch.Tensor, sampled: torch.Tensor) -> torch.Tensor:
    """The values of output (b, c, h, w) at `sampled` (b, count): (b·count, c), float32."""
    at = sampled[:, None].expand(-1, output.shape[1], -1)
    return output.flatten(2).gather(2, at).transpose(1, 2).flatten(0, 1).float()


def grid(conv: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """A convolution's output on the grid of its samples: of one that doubles the size, four channels for each."""
    return F.pixel_unshuffle(output, 2) if isinstance(conv, nn.ConvTranspose2d) else output


def matrix(conv: Any) -> torch.Tensor:
    """The weights by which outputs are linear in patches: (c_out, c_in k²), (4 c_out, c_in) of a transposed one.

    Of a grouped one they are (c_out, c_in k² / groups), for the patches of the group.
    """
    weight: torch.Tensor = conv.weight.detach()
    return weight.flatten(1).T if isinstance(conv, nn.ConvTranspose2d) else weight.flatten(1)


def taken_patches(x: torch.Tensor, conv: Any, sampled: torch.Tensor, width: int) -> torch.Tensor:
    """The k×k patches (b·count, c, k²) of x (b, c, H, W) that a convolution reads at `sampled` (b, count), float32.

    The indices are into the grid of its samples (see `grid`), which has that width.
    """
    if isinstance(conv, nn.ConvTranspose2d):
        return taken_outputs(x, sampled)[:, :, None]
    row, column = sampled // width, sampled % width
    (kh, kw), (sh, sw), (ph, pw) = conv.kernel_size, conv.stride, conv.padding
    padded = F.pad(x, (pw, pw, ph, ph))
    stride = padded.shape[3]
    offsets = (torch.arange(kh)[:, None] * stride + torch.arange(kw)).flatten().to(x.device)  # (k²,)
    corner = row * sh * stride + column * sw  # (b, count)
    index = (corner[:, :, None] + offsets).flatten(1)  # (b, count·k²)
    c = x.shape[1]
    taken = padded.flatten(2).gather(2, index[:, None].expand(-1, c, -1))  # (b, c, count·k²)
    return taken.view(len(x), c, -1, len(offsets)).transpose(1, 2).flatten(0, 1).float()
