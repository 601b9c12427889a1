"""Arguments: NumPy arrays or tensors in, checked tensors of one layout out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def features(X: Any) -> Tensor:
    """X as floating-point (n, d, p): a matrix (n, d) has p = 1; a ValueError says what is wrong with it."""
    x = _numeric(X, "X", "(n, d) or (n, d, p)", (2, 3))
    return x[:, :, None] if x.ndim == 2 else x


def targets(y: Any, n: int, device: torch.device) -> Tensor:
    """y as floating-point (n, 1, q), one feature of q columns; a ValueError says what is wrong with it."""
    t = _numeric(y, "y", "(n,) or (n, q)", (1, 2)).to(device)
    if len(t) != n:
        raise ValueError(f"Expected one target a sample, got {n} samples in X and {len(t)} in y; pair them up.")
    return t.reshape(n, 1, -1)


def check_count(name: str, value: Any, least: int) -> int:
    """The integer ``value``, which must be at least ``least``; else a ValueError says so."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"Expected {name} to be an integer of at least {least}, got {value!r}.")
    return int(value)


def _numeric(array: Any, name: str, shape: str, ranks: tuple[int, ...]) -> Tensor:
    try:
        t = array.detach() if isinstance(array, Tensor) else torch.as_tensor(np.array(array))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {name} to be a numeric array {shape}, got {type(array).__name__}: {error}"
        ) from error
    if t.ndim not in ranks or 0 in t.shape or t.is_complex():
        raise ValueError(
            f"Expected {name} to be a real array of shape {shape}, not empty, got {t.dtype} {tuple(t.shape)}."
        )
    if t.dtype in (torch.float16, torch.bfloat16):
        t = t.float()
    elif not t.is_floating_point():
        t = t.double()
    if not bool(torch.isfinite(t).all()):
        raise ValueError(
            f"Expected finite values in {name}, got {int((~torch.isfinite(t)).sum())} that are NaN or infinite; "
            "leave out those samples or features."
        )
    return t
