"""Gram matrices: kernels, which are what "similar" means between two samples of one feature, and their centring.

A kernel is applied to a block of m samples of c features at once, (c, m, p) → (c, m, m), where p is the number of
columns that make up one feature (1 for a scalar channel, kh·kw for its patch, q for a vector-valued target).

=================  ===================================================================================================
``gaussian``       exp(−‖x_i − x_j‖² / 2p) of the feature divided by its standard deviation: one deviation for all p
                   columns, over all n samples, ddof = 0, not centred. It is pyHSICLasso's Gaussian kernel.
``gaussian_median``  exp(−‖x_i − x_j‖² / 2σ²), σ the median of ‖x_i − x_j‖ over the pairs i < j of the block (where more
                   than half of the pairs coincide: the median of the distances that are not zero).
``linear``         ⟨x_i, x_j⟩ of the standardised feature (centring removes the mean, normalising the scale).
``delta``          1 / n_c where x_i = x_j and n_c samples of the block share that value, else 0: for classes.
a callable         ``kernel(x)`` with x (m, p), or ``kernel(x, x)`` where it requires two arguments, returns the Gram
                   matrix (m, m) of one feature in one block, symmetric.
=================  ===================================================================================================

Distances are taken directly, never as ‖a‖² + ‖b‖² − 2⟨a, b⟩: a nearly constant channel on a large offset keeps its
digits.

Centring of a Gram matrix: what is left of "similar" once every sample's average similarity is taken out.

Biased:    K̃ = H K H with H = I − 11ᵀ/m; ⟨K̃, L̃⟩/(m − 1)² is the HSIC of Gretton et al. (2005).
Unbiased:  U-centring (Székely & Rizzo 2014, Definition 2). For i ≠ j,
           K̃_ij = K_ij − r_i/(m − 2) − r_j/(m − 2) + s/((m − 1)(m − 2)), and K̃_ii = 0,
           with row sums r and total s taken without the diagonal; ⟨K̃, L̃⟩/(m(m − 3)) is the unbiased HSIC of
           Song et al. (2012, eq. 5), whose mean is 0 for independent samples at every m.

Both are linear and give rows that sum to 0.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KernelLike = str | Callable[..., Any]
CENTERINGS = ("biased", "unbiased")


@dataclass(frozen=True)
class Kernel:
    """``prepare`` (n, d, p) → (n, d, p) is applied once over all samples, ``gram`` (c, m, p) → (c, m, m) to a block."""

    prepare: Callable[[Tensor], Tensor]
    gram: Callable[[Tensor], Tensor]


def kernel_names() -> tuple[str, ...]:
    """The kernels that have a name."""
    return tuple(_BY_NAME)


def resolve_kernel(kernel: KernelLike) -> Kernel:
    """The kernel of that name, or a user's function from (m, p) samples to their (m, m) Gram matrix."""
    if isinstance(kernel, str) and kernel in _BY_NAME:
        return _BY_NAME[kernel]
    if not isinstance(kernel, str) and callable(kernel):
        return Kernel(_unchanged, _per_feature(kernel))
    raise ValueError(
        f"Expected a kernel among {', '.join(kernel_names())} or a callable from (m, p) samples to their "
        f"(m, m) Gram matrix, got {kernel!r}; pass one of those."
    )


def squared_distances(x: Tensor) -> Tensor:
    """‖x_i − x_j‖² of (c, m, p) samples, (c, m, m), from the differences themselves."""
    if x.shape[-1] == 1:
        column = x[..., 0]
        return (column[:, :, None] - column[:, None, :]).square_()
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square_()


def median_distances(squared: Tensor) -> Tensor:
    """The median of ‖x_i − x_j‖ over i < j, (c,), from (c, m, m) squared distances; of the positive ones where it is 0.

    1 where all samples coincide: their Gram matrix is constant whatever the bandwidth.
    """
    m = squared.shape[-1]
    if m < 2:
        return squared.new_ones(squared.shape[0])
    rows, columns = torch.triu_indices(m, m, offset=1, device=squared.device)
    distances = squared.flatten(1).index_select(1, rows * m + columns).sqrt_()
    medians = _median(distances)
    for k in torch.nonzero(medians == 0).flatten().tolist():
        positive = distances[k][distances[k] > 0]
        medians[k] = _median(positive[None])[0] if len(positive) else 1.0
    return medians


def _median(values: Tensor) -> Tensor:
    """The median along dim 1, the mean of the two middle values where their number is even (as ``numpy.median``)."""
    count = values.shape[1]
    upper = values.kthvalue(count // 2 + 1, dim=1).values
    if count % 2:
        return upper
    below = values < upper[:, None]
    lower = torch.where(below, values, values.new_tensor(-torch.inf)).amax(1)
    lower = torch.where(below.sum(1) < count // 2, upper, lower)  # the upper middle value occurs on both sides
    return (lower + upper) / 2


def _unchanged(x: Tensor) -> Tensor:
    return x


def _unit_deviation(x: Tensor) -> Tensor:
    """Every feature of (n, d, p) less its mean and divided by its standard deviation, both over samples and columns.

    Distances do not see the mean; taken off first, it does not cost them digits. Constants become 0.
    """
    x = x - x.mean(dim=(0, 2), keepdim=True)
    deviation = x.std(dim=(0, 2), correction=0, keepdim=True)
    return x / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _standardised(x: Tensor) -> Tensor:
    """Every column of (n, d, p) less its mean, then every feature divided by its standard deviation."""
    return _unit_deviation(x - x.mean(dim=0, keepdim=True))


def _gaussian(x: Tensor) -> Tensor:
    return squared_distances(x).mul_(-0.5 / x.shape[-1]).exp_()


def _gaussian_median(x: Tensor) -> Tensor:
    squared = squared_distances(x)
    sigma = median_distances(squared)
    return squared.mul_(-0.5 / sigma.square()[:, None, None]).exp_()


def _linear(x: Tensor) -> Tensor:
    return x @ x.mT


def _delta(x: Tensor) -> Tensor:
    same = torch.ones((), dtype=torch.bool, device=x.device)
    for column in x.unbind(-1):
        same = same & (column[:, :, None] == column[:, None, :])
    return same.to(x.dtype) / same.sum(-1, keepdim=True)  # n_i = n_j wherever the samples are the same


def _per_feature(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # compiled functions may have no signature
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
    arguments = 2 if required == 2 else 1

    def gram(x: Tensor) -> Tensor:
        grams = [torch.as_tensor(function(*[feature] * arguments)).to(x) for feature in x]
        m = x.shape[1]
        for K in grams:
            fault = _fault(K, m)
            if fault:
                raise ValueError(
                    f"Expected the kernel to return a symmetric ({m}, {m}) Gram matrix of {m} samples, got {fault}; "
                    "return k(x_i, x_j) for every pair of rows."
                )
        return torch.stack(grams)

    return gram


def _fault(K: Tensor, m: int) -> str:
    if K.shape != (m, m):
        return f"shape {tuple(K.shape)}"
    if not bool(torch.isfinite(K).all()):
        return "NaN or infinite values"
    return "" if torch.allclose(K, K.mT, rtol=0, atol=1e-4 * float(K.abs().max())) else "an asymmetric one"


def center(K: Tensor, centering: str = "unbiased") -> Tensor:
    """The centred copy of a symmetric floating-point Gram matrix (..., m, m).

    Raises:
        ValueError: unknown centring, not square, or fewer samples than the centring is defined for.
    """
    if K.ndim < 2 or K.shape[-1] != K.shape[-2] or not K.is_floating_point():
        raise ValueError(f"Expected a floating-point Gram matrix (..., m, m), got {K.dtype} of shape {tuple(K.shape)}.")
    if K.shape[-1] < fewest_samples(centering):
        raise ValueError(
            f"Expected at least {fewest_samples(centering)} samples for {centering} centring, got {K.shape[-1]}; "
            "add samples."
        )
    return center_(K.clone(), centering)


def fewest_samples(centering: str) -> int:
    """The smallest m for which the centred product is a dependence: 2 biased, 4 unbiased (it divides by m(m − 3))."""
    if centering not in CENTERINGS:
        raise ValueError(
            f"Expected centering to be one of {', '.join(CENTERINGS)}, got {centering!r}; pass one of those."
        )
    return 2 if centering == "biased" else 4


def center_(K: Tensor, centering: str) -> Tensor:
    """Centre (..., m, m) in place."""
    m = K.shape[-1]
    if centering == "biased":
        r = K.mean(-1)
        half = 0.5 * r.mean(-1, keepdim=True)
        shift = r - half  # K_ij − r_i − r_j + s
        return K.sub_(shift[..., :, None]).sub_(shift[..., None, :])
    diagonal = torch.diagonal(K, dim1=-2, dim2=-1)
    diagonal.zero_()
    r = K.sum(-1)
    half = 0.5 * r.sum(-1, keepdim=True) / ((m - 1) * (m - 2))
    shift = r / (m - 2) - half
    K.sub_(shift[..., :, None]).sub_(shift[..., None, :])
    diagonal.zero_()
    return K


_BY_NAME = {
    "gaussian": Kernel(_unit_deviation, _gaussian),
    "gaussian_median": Kernel(_unit_deviation, _gaussian_median),
    "linear": Kernel(_standardised, _linear),
    "delta": Kernel(_unchanged, _delta),
}
