"""What a network holds, as a digest."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch


class _WithState(Protocol):
    def state_dict(self) -> dict[str, torch.Tensor]: ...


def fingerprint(network: _WithState, *others: Sequence[torch.Tensor] | str) -> str:
    """A digest of names, shapes and values of a network's tensors, and of other tensors and texts."""
    digest = hashlib.sha256()
    named = list(network.state_dict().items())
    for part in others:
        named += [(part, torch.empty(0))] if isinstance(part, str) else [("", tensor) for tensor in part]
    for name, tensor in named:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
