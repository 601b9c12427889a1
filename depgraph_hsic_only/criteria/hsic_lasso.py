"""HSIC-Lasso: which channels does what reads them depend on, and which only repeat others?

At every convolution that reads a channel, the non-negative HSIC-Lasso between the convolution's input channels and its
output (Yamada et al. 2014, arXiv:1202.0515) is followed along its whole path. A channel's score there is λ_enter over
λ_max, the point where it first becomes active, and its score is the largest over all places where it is read: so a
threshold τ leaves out exactly the channels that the lasso at λ = τ λ_max has let in nowhere.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depgraph_hsic_only.channels.budgets import is_number
from depgraph_hsic_only.channels.groups import ChannelGraph, ChannelGroup
from depgraph_hsic_only.criteria.registry import Batches, Criterion, Measured, register_criterion
from depgraph_hsic_only.errors import ConfigError, DataError, one_line
from depgraph_hsic_only.hsic import CENTERINGS, KernelLike, LassoPath, hsic_system, kernel_names, nonnegative_lasso_path
from depgraph_hsic_only.recovery.samples import Samples, gather_samples
from depgraph_hsic_only.support.progress import track
from depgraph_hsic_only.support.threads import measuring
from depgraph_hsic_only.yolo.input_shape import input_channels

_DEAD = 1e-6  # standard deviation, of the layer's largest, below which a channel says nothing
_SAME = 1 - 1e-6  # cosine of two centred Gram matrices above which one channel repeats the other
_FLOOR = 1e-6  # λ / λ_max where the path ends; below it are the channels that never enter
_FEWEST = 8  # samples


@register_criterion("hsic_lasso")
class HsicLasso(Criterion):
    """HSIC-Lasso scores in [0, 1] between input and output feature maps.

    A channel that never enters scores below all that do, at most 1e-6: in the order of how near it came. Dead channels,
    and those that repeat another one at every place, score 0.

    Args:
        gamma: γ ≥ 0 of the amplitude weighting c_k = (e_k / max e)^γ with e_k = var(x_k) ‖W_:k‖²: the penalty of
            channel k is λ α_k / c_k. 0 is the textbook's lasso, blind to amplitude.
        positions: Positions sampled from each image.
        block_size: Samples in a block; Gram matrices are of this size.
        centering: "unbiased" (U-centring), or "biased" (as pyHSICLasso).
        kernel: Kernel of scalar channels: one of `hsic.kernel_names`, or a function of (m, 1) samples.
        patch_kernel: Kernel of k×k patches.
        target_kernel: Kernel of the outputs.
        seed: Of positions and blocks.

    Raises:
        ConfigError: An option is unknown or out of range.
    """

    needs_batches = True
    needs_labels = False

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        positions: int = 16,
        block_size: int = 256,
        centering: str = "unbiased",
        kernel: KernelLike = "gaussian",
        patch_kernel: KernelLike = "gaussian_median",
        target_kernel: KernelLike = "gaussian_median",
        seed: int = 0,
    ) -> None:
        _check_options(locals())
        self.gamma, self.positions, self.block_size, self.centering = gamma, positions, block_size, centering
        self.kernel, self.patch_kernel, self.target_kernel, self.seed = kernel, patch_kernel, target_kernel, seed

    def score(self, graph: ChannelGraph, batches: Batches | None) -> dict[str, torch.Tensor]:
        """Score every channel at every convolution that reads it; the largest counts."""
        return self.measure(graph, batches).scores

    def measure(self, graph: ChannelGraph, batches: Batches | None) -> Measured:
        """As `score`, with the scores by each half of the images where both halves fill a block."""
        samples = gather_samples(graph.model, graph.consumers, batches or (), positions=self.positions, seed=self.seed)
        at: dict[str, torch.Tensor] = {}
        with measuring():
            for s in track(samples, "HSIC-Lasso by layer", len(samples)):
                at |= dict.fromkeys(s.convolutions, self.score_inputs(s))
        rows = min((len(scores) for scores in at.values()), default=1)  # 3 where all were scored by both halves too
        whole, *halves = ({g.name: _largest(g, at, row) for g in graph.groups} for row in range(rows))
        return Measured(whole, (halves[0], halves[1]) if halves else None)

    def check_images(self, trace: Callable[[], ChannelGraph], images: int, imgsz: int) -> None:
        """Refuse images that give too few samples of the smallest map that channels are read from."""
        if images >= _FEWEST:
            return
        graph = trace()
        blank = {"img": torch.zeros(1, input_channels(graph.model), imgsz, imgsz)}
        samples = gather_samples(graph.model, graph.consumers, [blank], positions=self.positions, seed=self.seed)
        per_image = min(len(s.inputs) for s in samples)
        if images * per_image < _FEWEST:
            raise DataError(
                f"hsic_lasso: expected at least {-(-_FEWEST // per_image)} calibration images of {imgsz} px, for "
                f"{_FEWEST} samples of each layer, got {images}; set calibration.images higher, or pass larger images"
            )

    def score_inputs(self, samples: Samples) -> torch.Tensor:
        """Scores in [0, 1] of all input channels of one convolution, float64.

        (1, c_in) by all samples, or (3, c_in) by all, by the first half and by the second half, where these fill a
        block each. The blocks of the halves together are those of the whole, so its system is the mean of theirs.
        """
        n, d, _ = samples.inputs.shape
        if n < _FEWEST:
            raise DataError(f"expected at least {_FEWEST} samples, got {n}; pass more calibration images")
        alive, e = _energies(samples)
        scores = torch.zeros(1 if n // 2 < self.block_size else 3, d, dtype=torch.float64)
        if len(alive):
            for row, (A, b) in enumerate(self._systems(samples, alive)):
                scores[row, alive] = torch.from_numpy(_entries(A, b, e, self.gamma))
        return scores

    def path(self, samples: Samples) -> LassoPath:
        """The whole path of the lasso at one convolution, over its input channels that live and repeat no other."""
        alive, e = _energies(samples)
        if not len(alive):
            raise DataError(f"{samples.convolutions[0]}: expected inputs that vary, got constants; pass other images")
        A, b = next(self._systems(samples, alive))
        return _path(*_weighted(A, b, e, self.gamma)[1:])

    def _systems(self, samples: Samples, alive: torch.Tensor) -> Iterator[tuple[NDArray[np.float64], ...]]:
        """(A, b) of the live channels: by all samples, then by each half where the halves fill a block each."""
        n, _, p = samples.inputs.shape
        parts = [slice(0, n // 2), slice(n // 2, n)] if n // 2 >= self.block_size else [slice(0, n)]
        systems = []
        for part in parts:
            system = hsic_system(
                samples.inputs[part, alive.to(samples.inputs.device)],
                samples.outputs[part],
                kernel_x=self.kernel if p == 1 else self.patch_kernel,
                kernel_y=self.target_kernel,
                centering=self.centering,
                block_size=self.block_size,
                seed=self.seed,
            )
            systems.append(tuple(t.cpu().numpy() for t in system))
        counts = [max(1, (part.stop - part.start) // self.block_size) for part in parts]
        yield tuple(np.average(np.stack(each), axis=0, weights=counts) for each in zip(*systems, strict=True))
        if len(parts) > 1:
            yield from systems


def _energies(samples: Samples) -> tuple[torch.Tensor, NDArray[np.float64]]:
    """Indices of the input channels that vary, and their energies var(x_k) ‖W_:k‖²."""
    deviation = samples.inputs.double().std((0, 2), correction=0)
    alive = (deviation > _DEAD * deviation.max()).nonzero().flatten()
    e = (deviation.square() * samples.weight.double().square().sum((0, 2)))[alive]
    return alive.cpu(), e.cpu().numpy()


def _weighted(
    A: NDArray[np.float64], b: NDArray[np.float64], e: NDArray[np.float64], gamma: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The channels that repeat no other, and the weighted system of these."""
    kept = _distinct(A, e)
    c = (e[kept] / e.max()) ** gamma if e.max() > 0 else np.ones(len(kept))
    return kept, A[np.ix_(kept, kept)] * np.outer(c, c), b[kept] * c


def _path(A: NDArray[np.float64], b: NDArray[np.float64]) -> LassoPath:
    try:
        return nonnegative_lasso_path(A, b, min_lambda=_FLOOR * max(float(b.max()), 0.0))
    except (ArithmeticError, ValueError) as error:  # from a few tiny images, whose channels can't be told apart
        raise DataError(
            f"expected images that tell the channels of a layer apart, but {one_line(error)}; pass more or larger ones"
        ) from error


def _entries(
    A: NDArray[np.float64], b: NDArray[np.float64], e: NDArray[np.float64], gamma: float
) -> NDArray[np.float64]:
    """Scores (d,) of channels with energies e (d,) from their system A (d, d), b (d,)."""
    scores = np.zeros(len(b))
    kept, A, b = _weighted(A, b, e, gamma)
    if b.max() > 0:
        path = _path(A, b)
        scores[kept] = np.where(path.entry > 0, path.score, _FLOOR * path.runner_up)
    return scores


def _check_options(options: Mapping[str, Any]) -> None:
    ranges = {"positions": 1, "block_size": 4, "seed": 0}
    faults = [
        f"{name}: expected one of {', '.join(kernel_names())}, got {options[name]!r}"
        for name in ("kernel", "patch_kernel", "target_kernel")
        if not callable(options[name]) and options[name] not in kernel_names()
    ]
    faults += [
        f"{name}: expected an integer of at least {least}, got {options[name]!r}"
        for name, least in ranges.items()
        if type(options[name]) is not int or options[name] < least
    ]
    gamma = options["gamma"]
    if not is_number(gamma) or not 0 <= gamma < float("inf"):
        faults.append(f"gamma: expected a number of at least 0, got {gamma!r}")
    if options["centering"] not in CENTERINGS:
        faults.append(f"centering: expected one of {', '.join(CENTERINGS)}, got {options['centering']!r}")
    if faults:
        raise ConfigError("; ".join(faults))


def _distinct(A: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the channels that repeat none of more energy, ascending."""
    kept: list[int] = []
    for k in np.argsort(-energy, kind="stable"):
        if not kept or A[k, kept].max() <= _SAME:
            kept.append(int(k))
    return np.array(sorted(kept), dtype=np.int64)


def _largest(group: ChannelGroup, at: Mapping[str, torch.Tensor], row: int) -> torch.Tensor:
    scores = torch.zeros(group.channels, dtype=torch.float64)
    for member in group.members:
        if member.role == "input":
            scores.scatter_reduce_(0, member.channel, at[member.name][row, member.index], "amax")
    return scores
