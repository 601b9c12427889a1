"""Least-squares reconstruction of a cut network from unlabelled images, layer by layer.

Every convolution that the cut has touched is fitted in turn to what it put out in the original model, from the inputs
that the already recovered model gives it, so that errors of earlier layers are corrected by later ones (He et al. 2017,
*Channel Pruning*, section 3.2, asymmetric):

    min over W, c   Σ_i s_i ‖y_i − x_i W − c‖² + r ‖W − W₀‖²_F

with x_i (c_in k²) the input patches at sampled (image, position) pairs, y_i (c_out) the original's outputs there
before BatchNorm, s_i the weight of the position (see `positions.py`), W₀ the weights as they are, and r a share of the
mean of the diagonal of Σ s_i x_i x_iᵀ, centred. The intercept c goes into BatchNorm's running mean, or into the bias
where there is one. A transposed convolution that doubles the size is a 1×1 convolution to four times the channels. A
grouped convolution is as many problems as it has groups, each with its own inputs, outputs and r: a depthwise one is
fitted channel by channel.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from depgraph_hsic_only.channels.cut import Kept
from depgraph_hsic_only.recovery.layerwise import LayerwisePass, tapped
from depgraph_hsic_only.recovery.positions import SampledPositions
from depgraph_hsic_only.recovery.samples import grid, matrix, taken_outputs, taken_patches
from depgraph_hsic_only.yolo.blocks import block_of

_PANEL = 128  # columns of a Gram matrix that are formed at once, at least
_NOISE = 1e-9  # of the mean of the squared inputs: what varies less says nothing, such as a channel that is constant


@dataclass(frozen=True)
class FittedLayer:
    """How well one convolution does what it did in the original model: the squared error on the samples of the fit."""

    name: str  # path of the convolution
    before: float  # the fit, relative to the variance of the original's outputs
    after: float


class _Reached(Exception):
    """Ends a layer's forward pass at the convolution at hand."""


class NormalEquations:
    """The least-squares problem of one convolution, summed up in float64 batch by batch.

    For each of its groups it has so many inputs x_i and outputs y_i. A batch is multiplied as it comes, in float32,
    less the means of the first one: the ridge is far above what is rounded then. Of Σ s_i x_i x_iᵀ only the upper
    triangle is formed, in panels of columns.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.count = 0.0
        self.shift: tuple[torch.Tensor, torch.Tensor] | None = None  # (groups, 1, inputs), (groups, 1, outputs)
        self.x, self.y, self.yy = zeros(inputs), zeros(outputs), zeros(outputs)
        self.xx, self.xy = zeros(inputs, inputs), zeros(inputs, outputs)

    def add(self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> None:
        """Take in samples: x (n, groups, inputs), y (n, groups, outputs), their weights (n,)."""
        x, y = x.transpose(0, 1), y.transpose(0, 1)
        if self.shift is None:
            self.shift = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
        x, y = x - self.shift[0], y - self.shift[1]
        weighted, inputs = weight[:, None] * x, x.shape[2]
        self.count += float(weight.double().sum())
        self.x += weighted.sum(1, dtype=torch.float64)
        self.y += (weight[:, None] * y).sum(1, dtype=torch.float64)
        self.yy += (weight[:, None] * y.square()).sum(1, dtype=torch.float64)
        self.xy += weighted.mT @ y
        panel = max(_PANEL, -(-inputs // 4))
        for start in range(0, inputs, panel):
            stop = min(start + panel, inputs)
            self.xx[:, :stop, start:stop] += weighted[..., :stop].mT @ x[..., start:stop]

    def solve(self, w: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """W (groups, inputs, outputs) and c (groups, outputs) of the minimum.

        From W₀ and r as a share of the mean of the diagonal.
        """
        xx, xy, _ = self._centred()
        mean_x, mean_y = self._means()
        squares = xx.diagonal(dim1=1, dim2=2) + self.count * mean_x.square()
        change = torch.cholesky_solve(xy - xx @ w, torch.linalg.cholesky(damped(xx, ridge, _NOISE * squares.mean(1))))
        w = w + change
        return w, mean_y - _applied(mean_x, w)

    @property
    def covariance(self) -> torch.Tensor:
        """Weighted covariance (groups, inputs, inputs) of x."""
        return self._centred()[0] / self.count

    def error(self, w: torch.Tensor, c: torch.Tensor) -> float:
        """Σ s_i ‖y_i − x_i W − c‖², relative to the weighted variance of y; 0 where y is constant."""
        xx, xy, yy = self._centred()
        mean_x, mean_y = self._means()
        scatter = yy.sum() - 2 * (w * xy).sum() + (w * (xx @ w)).sum()
        shift = self.count * (mean_y - _applied(mean_x, w) - c).square().sum()
        return float((scatter.clamp_min(0) + shift) / yy.sum()) if float(yy.sum()) > 0 else 0.0

    def _means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted means of x and y."""
        assert self.shift is not None
        return self.shift[0][:, 0] + self.x / self.count, self.shift[1][:, 0] + self.y / self.count

    def _centred(self) -> tuple[torch.Tensor, ...]:
        """The sums of products of x and y about their weighted means."""
        x, y = self.x / self.count, self.y / self.count
        xx = self.xx.triu() + self.xx.triu(1).mT - self.count * x[:, :, None] * x[:, None]
        xy = self.xy - self.count * x[:, :, None] * y[:, None]
        return xx, xy, self.yy - self.count * y.square()


def _applied(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x (groups, inputs) times w (groups, inputs, outputs): (groups, outputs)."""
    return (x[:, None] @ w)[:, 0]


def damped(gram: torch.Tensor, ridge: float, least: torch.Tensor | None = None) -> torch.Tensor:
    """Gram or covariance matrices (groups, n, n) with a share `ridge` of the mean of its diagonal added to each one's.

    No less than `least` (groups,) is added.
    """
    strength = (ridge * gram.diagonal(dim1=1, dim2=2).mean(1)).clamp_min(torch.finfo(torch.float32).tiny)
    strength = strength if least is None else torch.maximum(strength, least)
    return gram + strength[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def fit_layer(
    student: LayerwisePass,
    targets: Mapping[str, Sequence[torch.Tensor]],
    sampled: Mapping[str, SampledPositions],
    kept: Kept,
    ridge: float,
) -> Iterator[FittedLayer]:
    """As `refit.refit`, of the layer that the pass stands at, to the outputs of the original's (see `recorded`)."""
    for name, wanted in targets.items():
        conv = student.network.get_submodule(name)
        w = matrix(conv).double()
        w = w.view(conv.groups, -1, w.shape[1]).mT  # (groups, inputs, outputs)
        equations = NormalEquations(conv.groups, w.shape[1], w.shape[2], w.device)
        for x, y, weight in zip(_patches(student, name, sampled[name]), wanted, sampled[name].weight, strict=True):
            y = y if name not in kept else y[:, list(kept[name])]
            x, y = (t.reshape(len(t), conv.groups, -1) for t in (x, y))
            equations.add(x, y, weight.flatten())
        norm = None if conv.bias is not None else student.network.get_submodule(f"{name.rpartition('.')[0]}.bn")
        yield FittedLayer(name, *_solved(conv, norm, w, equations, ridge))


def _solved(conv: Any, norm: Any, w: torch.Tensor, equations: NormalEquations, ridge: float) -> tuple[float, float]:
    """Solve from the present weights w, and write the solution into the convolution; the errors before and after.

    The intercept goes into the bias, or into the BatchNorm `norm` of a convolution without one.
    """
    # 4 of a transposed convolution, whose four positions share a bias
    repeats = conv.groups * w.shape[2] // conv.out_channels
    bias = w.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
    before = equations.error(w, bias.repeat_interleave(repeats).view(conv.groups, -1))
    w, c = equations.solve(w, ridge)
    c = c.view(conv.out_channels, repeats).mean(1)
    after = equations.error(w, c.repeat_interleave(repeats).view(conv.groups, -1))
    weight = w if isinstance(conv, nn.ConvTranspose2d) else w.mT
    conv.weight.data = weight.reshape(conv.weight.shape).to(conv.weight).contiguous()
    if norm is None:
        conv.bias.data = c.to(conv.bias)
    else:
        norm.running_mean -= c.to(norm.running_mean)
    return before, after


def recorded(forward: LayerwisePass, sampled: Mapping[str, SampledPositions]) -> dict[str, list[torch.Tensor]]:
    """Outputs of convolutions of the layer that a pass stands at, where they are sampled, batch by batch.

    They are by path, in the order in which the convolutions run, each (n, c_out), or (n, c_out, 4) of a transposed one
    that doubles the size. The pass goes on to the next layer, where there is one.
    """
    found: dict[str, list[torch.Tensor]] = {}

    def tap(name: str, conv: Any, _: torch.Tensor, output: torch.Tensor) -> None:
        batches = found.setdefault(name, [])
        taken = taken_outputs(grid(conv, output), sampled[name].index[len(batches)])
        batches.append(taken.view(len(taken), -1, 4) if isinstance(conv, nn.ConvTranspose2d) else taken)

    with tapped(forward.network, sampled, tap), torch.no_grad():
        if forward.index < forward.last:
            forward.step(every=True)
        else:
            for x in forward.inputs():
                forward.layer(x)
    return found


def _patches(forward: LayerwisePass, name: str, sampled: SampledPositions) -> Iterator[torch.Tensor]:
    """What one convolution reads there, (n, c_in, k²) for each batch; the pass stops at it."""
    index, found = iter(sampled.index), []

    def tap(_: str, conv: Any, x: torch.Tensor, output: torch.Tensor) -> None:
        found.append(taken_patches(x, conv, next(index), grid(conv, output).shape[3]))
        raise _Reached

    part = block_of(forward.layer).part(forward.layer, name.split(".", 2)[2])
    with tapped(forward.network, [name], tap):
        for x in forward.inputs():
            with suppress(_Reached), torch.no_grad():
                part(x)
            yield found.pop()
