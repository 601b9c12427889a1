"""HSIC-Lasso: which features matter to a target, and which only repeat others.

>>> import numpy as np
>>> from depgraph_hsic_only.hsic import hsic_system, nonnegative_lasso_path
>>> rng = np.random.default_rng(0)
>>> X = rng.standard_normal((512, 6))
>>> y = X[:, 0] ** 2 + 2 * np.sin(2 * X[:, 1])
>>> A, b = hsic_system(X, y)
>>> path = nonnegative_lasso_path(A, b)
>>> sorted(path.select(2))
[0, 1]
"""

from .kernels import CENTERINGS, KernelLike, center, kernel_names
from .lasso_path import LassoPath, nonnegative_lasso_path
from .system import hsic, hsic_system

__all__ = [
    "CENTERINGS",
    "KernelLike",
    "LassoPath",
    "center",
    "hsic",
    "hsic_system",
    "kernel_names",
    "nonnegative_lasso_path",
]
