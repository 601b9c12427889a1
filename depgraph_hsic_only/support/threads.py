"""Processor cores, and how exactly a GPU reckons."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_every_core() -> None:
    """Every core for torch.

    Ultralytics leaves it all but one, for data loading: of two, one half. Where OMP_NUM_THREADS is set, it says how
    many: somebody shares the machine out among processes.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # one number for each level of nesting
    torch.set_num_threads(int(given) if given.isdecimal() else os.cpu_count() or torch.get_num_threads())


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
