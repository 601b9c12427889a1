"""How much two samples depend on each other."""

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .kernels import KernelLike
from .system import hsic_system


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
    _, b = hsic_system(
        X,
        y,
        kernel_x=kernel_x,
        kernel_y=kernel_y,
        centering=centering,
        block_size=block_size,
        permutations=permutations,
        seed=seed,
    )
    return float(b[0])
