"""Centring of a Gram matrix: what is left of "similar" once every sample's average similarity is taken out.

Biased:    K̃ = H K H with H = I − 11ᵀ/m; ⟨K̃, L̃⟩/(m − 1)² is the HSIC of Gretton et al. (2005).
Unbiased:  U-centring (Székely & Rizzo 2014, Definition 2). For i ≠ j,
           K̃_ij = K_ij − r_i/(m − 2) − r_j/(m − 2) + s/((m − 1)(m − 2)), and K̃_ii = 0,
           with row sums r and total s taken without the diagonal; ⟨K̃, L̃⟩/(m(m − 3)) is the unbiased HSIC of
           Song et al. (2012, eq. 5), whose mean is 0 for independent samples at every m.

Both are linear and give rows that sum to 0.
"""

import torch
from torch import Tensor

CENTERINGS = ("biased", "unbiased")


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
