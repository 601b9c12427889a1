"""The Gram matrix of Gram matrices: all that HSIC-Lasso needs to know about the samples.

    A_kl = ⟨K̄_k, K̄_l⟩,   b_k = ⟨K̄_k, L̄⟩,   K̄ = K̃ / ‖K̃‖_F                       (Yamada et al. 2014, eq. 4)

averaged over blocks of B samples. One block costs about d²B²/4 multiply-adds: the Gram matrices are symmetric, so each
is kept as its half i ≤ j with √2 off the diagonal, and A is, so little but its upper triangle is formed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from typing_extensions import Unpack

from .arrays import check_count, features, targets
from .kernels import Kernel, KernelLike, center_, fewest_samples, resolve_kernel

# Gram matrices in work at a time: few enough for the cache, enough to keep the threads busy.
_WORKING_BYTES = {"cpu": 2**24, "cuda": 2**28}


class _Options(TypedDict, total=False):
    kernel_x: KernelLike
    kernel_y: KernelLike
    centering: str
    block_size: int
    permutations: int
    seed: int
    weights: Tensor | ArrayLike | None
    max_bytes: int


@overload
def hsic_system(X: Tensor, y: Tensor | ArrayLike, **options: Unpack[_Options]) -> tuple[Tensor, Tensor]: ...
@overload
def hsic_system(
    X: ArrayLike, y: Tensor | ArrayLike, **options: Unpack[_Options]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def hsic_system(
    X: Tensor | ArrayLike,
    y: Tensor | ArrayLike,
    *,
    kernel_x: KernelLike = "gaussian",
    kernel_y: KernelLike = "gaussian",
    centering: str = "unbiased",
    block_size: int = 256,
    permutations: int = 1,
    seed: int = 0,
    weights: Tensor | ArrayLike | None = None,
    max_bytes: int = 2**29,
) -> tuple[Any, Any]:
    """The system (A, b) of HSIC-Lasso: redundancy between d features, relevance of each to the target.

    A feature (or the target) that is constant within a block has K̄ = 0 there; constant everywhere, its row of A and
    its b are 0. A is positive semidefinite with A_kk the share of blocks in which feature k varies: 1 for all but
    nearly constant features.

    With ``centering="biased"`` and the default seed this is pyHSICLasso's problem for every block size, save
    that it rounds to float32 and adds 1e-9 to every norm, and that its delta kernel knows no target of several columns.

    Args:
        X: (n, d), or (n, d, p) with p columns a feature; NumPy array or tensor on any device. float32 and float64 are
            computed as such, half precision in float32, other types in float64.
        y: (n,) or (n, q), moved to the device of X.
        kernel_x: of the features: a name of `kernel_names`, or a callable (see `hsic/kernels.py`).
        kernel_y: of the target, likewise.
        centering: "unbiased" (mean 0 under independence) or "biased" (pyHSICLasso's).
        block_size: B, samples a block; 0 or more than n: all n in one block. n mod B samples of a permutation are left
            out.
        permutations: M, how often the samples are permuted and cut into blocks (1 where there is only one block).
        seed: of the permutations (at least 0); the m-th is drawn with ``seed + m``.
        weights: (d,), c_k ≥ 0 of the weighted lasso with penalty λ Σ α_k / c_k; gives A∘ccᵀ and b∘c.
        max_bytes: the Gram matrices of a block that are held at a time take no more than this (but always two of
            them); where d do not fit, those past the ones held are computed again.

    Returns:
        A (d, d) and b (d,) in float64: tensors on the device of X where X is a tensor, else NumPy arrays.

    Raises:
        ValueError: wrong shapes, NaN or infinite values, too few samples a block (2 biased, 4 unbiased), an unknown
            name, or a callable kernel that returns no symmetric finite Gram matrix.
    """
    x = features(X)
    n, d, _ = x.shape
    t = targets(y, n, x.device)
    B = min(check_count("block_size", block_size, 0) or n, n)
    if fewest_samples(centering) > B:
        raise ValueError(
            f"Expected at least {fewest_samples(centering)} samples a block for {centering} centring, got {B} "
            f"(n = {n}, block_size = {block_size}); add samples or enlarge the block."
        )
    kx, ky = resolve_kernel(kernel_x), resolve_kernel(kernel_y)
    c = _checked_weights(weights, d, x.device)
    M, seed = check_count("permutations", permutations, 1), check_count("seed", seed, 0)
    max_bytes = check_count("max_bytes", max_bytes, 1)

    x, t = kx.prepare(x), ky.prepare(t)
    G = torch.zeros(d + 1, d + 1, dtype=torch.float64, device=x.device)
    blocks = 0
    for index in _sample_blocks(n, B, M, seed):
        i = torch.from_numpy(index).to(x.device)
        xi, ti = (samples[i].transpose(0, 1).contiguous() for samples in (x, t))
        _add_cosines(G, _Block(xi, ti, kx, ky, centering), max_bytes)
        blocks += 1
    if not bool(torch.isfinite(G).all()):
        raise ValueError(
            "Expected finite Gram matrices, got NaN or infinite ones; check the kernel, or scale the data."
        )
    G = G.triu() + G.triu(1).mT
    squares = G.diagonal()  # ‖K̄_k‖² summed over blocks is the count of these but for rounding; duplicates stay such
    scale = torch.where(squares > 0.5, (squares.round() / squares).sqrt(), 0.0)
    G = G * (scale[:, None] * scale) / blocks
    A, b = G[:d, :d] * (c[:, None] * c), G[:d, d] * c
    return (A, b) if isinstance(X, Tensor) else (A.numpy(), b.numpy())


def hsic(
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike,
    *,
    kernel_x: KernelLike = "gaussian",
    kernel_y: KernelLike = "gaussian",
    centering: str = "unbiased",
    block_size: int = 0,
    permutations: int = 1,
    seed: int = 0,
) -> float:
    """The normalised Hilbert–Schmidt independence criterion ⟨K̃, L̃⟩ / (‖K̃‖ ‖L̃‖).

    At most 1, 1 for a sample and itself. Unbiased: mean about 0 under independence, so it may be negative. Biased: in
    [0, 1], with a floor under independence that rises with the number of columns (centred kernel alignment). With the
    kernel −‖x_i − x_j‖ it is the squared distance correlation of Székely & Rizzo. 0 where a sample is constant.

    Args:
        x: (n,) or (n, p), one variable of p columns.
        y: (n,) or (n, q).
        kernel_x: this and the others as in `hsic_system`.
        kernel_y: of y.
        centering: "unbiased" or "biased".
        block_size: samples a block; 0 for one block of all n.
        permutations: how often the samples are permuted and cut into blocks.
        seed: of the permutations.

    Raises:
        ValueError: as `hsic_system`.
    """
    x = x if isinstance(x, Tensor) else np.asarray(x)
    if x.ndim not in (1, 2):
        raise ValueError(
            f"Expected x of shape (n,) or (n, p), got {tuple(x.shape)}; use hsic_system for many features at once."
        )
    X = x.reshape(x.shape[0], 1, -1) if x.shape[0] else x.reshape(0, 1)
    options: _Options = {"kernel_x": kernel_x, "kernel_y": kernel_y, "centering": centering}
    options |= {"block_size": block_size, "permutations": permutations, "seed": seed}
    _, b = hsic_system(X, y, **options)
    return float(b[0])


def _sample_blocks(n: int, B: int, permutations: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The indices (B,) of every block of every permutation: an average over small blocks stands for the n×n problem.

    Block HSIC-Lasso (Climente-González et al. 2019) permutes the samples M times, cuts every permutation into ⌊n/B⌋
    blocks of B samples and averages over all of them. Rules as in pyHSICLasso 1.4.2: the permutations are cumulative
    (each permutes the order the one before left), the m-th is drawn from NumPy's legacy generator seeded with
    ``seed + m``, the last n mod B samples of a permutation are left out of it, and where there is only one block there
    is only one permutation.
    """
    blocks, order = n // B, np.arange(n)
    for m in range(permutations if blocks > 1 else 1):
        order = np.random.RandomState(seed + m).permutation(order)
        yield from order[: blocks * B].reshape(blocks, B)


@dataclass(frozen=True)
class _Block:
    """m samples of d features x (d, m, p) and of the target y (1, m, q), which is row d of what follows."""

    x: Tensor
    y: Tensor
    kernel_x: Kernel
    kernel_y: Kernel
    centering: str

    def grams(self, first: int, last: int) -> Iterator[Tensor]:
        """The Gram matrices of rows first … last − 1, some (c, m, m) at a time."""
        d, m, _ = self.x.shape
        step = max(1, _WORKING_BYTES.get(self.x.device.type, 2**24) // (m * m * self.x.element_size()))
        for start in range(first, min(last, d), step):
            yield self.kernel_x.gram(self.x[start : min(start + step, last, d)])
        if last > d:
            yield self.kernel_y.gram(self.y).to(self.x.dtype)

    def halves(self, first: int, last: int) -> Tensor:
        """V (last − first, m(m + 1)/2) with ⟨V_k, V_l⟩ = ⟨K̄_k, K̄_l⟩; 0 where K̃_k is no more than rounding noise."""
        m, dtype, device = self.x.shape[1], self.x.dtype, self.x.device
        row, column = torch.triu_indices(m, m, device=device)
        root = torch.ones(len(row), dtype=dtype, device=device).masked_fill_(row < column, 2.0**0.5)
        V = torch.empty(last - first, len(row), dtype=dtype, device=device)
        done = 0
        for K in self.grams(first, last):
            noise = 8 * torch.finfo(dtype).eps * torch.linalg.vector_norm(K, dim=(1, 2))
            center_(K, self.centering)
            norm = torch.linalg.vector_norm(K, dim=(1, 2))
            K *= torch.where(norm > noise, 1 / norm, torch.where(norm.isfinite(), 0.0, norm))[:, None, None]
            half = V[done : done + len(K)]
            torch.index_select(K.flatten(1), 1, row * m + column, out=half)
            half *= root
            done += len(K)
        return V


def _add_cosines(G: Tensor, block: _Block, max_bytes: int) -> None:
    """Add ⟨K̄_k, K̄_l⟩ of the d features and the target to the upper triangle of G (d + 1, d + 1).

    Tile by tile, so that little below the diagonal is computed; V holds some of the rows where not all fit the memory.
    """
    m, rows = block.x.shape[1], len(G)
    fit = max_bytes // (m * (m + 1) // 2 * block.x.element_size())
    held = rows if fit >= rows else max(1, fit - fit // 8 - 1)
    streamed = max(1, fit - held)
    for i in range(0, rows, held):
        V = block.halves(i, min(i + held, rows))
        step = max(16, -(-len(V) // 8))
        for j in range(0, len(V), step):
            G[i + j : i + min(j + step, held), i + j : i + held] += _product(V[j : j + step], V[j:])
        for j in range(i + held, rows, streamed):
            G[i : i + held, j : j + streamed] += _product(V, block.halves(j, min(j + streamed, rows)))


def _product(V: Tensor, W: Tensor) -> Tensor:
    """V Wᵀ, never in TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return V @ W.mT
    finally:
        torch.set_float32_matmul_precision(precision)


def _checked_weights(weights: Tensor | ArrayLike | None, d: int, device: torch.device) -> Tensor:
    c = torch.ones(d) if weights is None else torch.as_tensor(weights)
    c = c.detach().to(device, torch.float64)
    if c.shape != (d,) or not bool((torch.isfinite(c) & (c >= 0)).all()):
        raise ValueError(f"Expected weights to be {d} finite numbers ≥ 0, one a feature, got {weights!r}.")
    return c
