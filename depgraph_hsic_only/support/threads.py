"""Processor cores, and how exactly a GPU reckons."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from depgraph_hsic_only.support.cores import cores


def use_every_core() -> None:
    """Every core for torch (see `cores.py`); Ultralytics leaves it all but one, for data loading: of two, one half."""
    torch.set_num_threads(cores())


@contextmanager
def measuring() -> Iterator[None]:
    """Every core for torch, and convolutions on a GPU in float32, not TF32, which is PyTorch's default there.

    Rounded to TF32's ten bits, scores of channels differ from those on a CPU by up to half.
    """
    threads, convolutions = torch.get_num_threads(), torch.backends.cudnn
    use_every_core()
    before, convolutions.allow_tf32 = convolutions.allow_tf32, False
    try:
        yield
    finally:
        convolutions.allow_tf32 = before
        torch.set_num_threads(threads)


@contextmanager
def some_cores(threads: int | None) -> Iterator[None]:
    """So many threads for torch; None for as many as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
