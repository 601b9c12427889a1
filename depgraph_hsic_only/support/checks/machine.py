"""Processors, memory and folders: what a run finds on a machine."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from depgraph_hsic_only.errors import one_line
from depgraph_hsic_only.support.checks.check import FAIL, OK, WARN, Check

_GIB = 2**30
_LEAST_MEMORY = 4 * _GIB  # available; a nano model trains on 640 px in about that
_LEAST_SHARED = _GIB // 2
_LEAST_DISK = 2 * _GIB


@dataclass(frozen=True)
class Accelerators:
    """What torch has to compute with beside the CPU.

    Attributes:
        build: What torch is built for: "CUDA 13.0", "ROCm 6.4", or "" for the CPU alone.
        gpus: Names of the GPUs that torch finds.
        mps: Whether it finds an Apple GPU.
        driver: Whether the machine has a driver of NVIDIA.
        fault: Why the first GPU doesn't compute, or none is found with such a build; None where nothing is wrong.
    """

    build: str
    gpus: Sequence[str] = ()
    mps: bool = False
    driver: bool = False
    fault: str | None = None


def find_accelerators() -> Accelerators:
    """Ask torch, and let the first GPU compute."""
    import torch

    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"ROCm {hip}" if hip else f"CUDA {cuda}" if cuda else ""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if build else []
    fault = None
    if build:
        try:
            torch.ones(2, device="cuda").sum().item()
        except Exception as error:  # no GPU, no driver, no code for such a GPU, or nothing of its memory left
            fault = one_line(error)
    driver = shutil.which("nvidia-smi") is not None
    return Accelerators(build, gpus, torch.backends.mps.is_available(), driver, fault)


def check_accelerators(found: Accelerators) -> Check:
    """Whether torch makes use of the GPU that the machine has."""
    if found.gpus and found.fault is not None:
        return Check("device", FAIL, f"{found.gpus[0]} doesn't compute ({found.fault})", "pass --device cpu")
    if found.gpus:
        return Check("device", OK, f"{', '.join(found.gpus)} ({found.build})")
    if found.mps:
        return Check("device", OK, "an Apple GPU, with --device mps")
    if found.build:
        advice = "where there is a GPU, update its driver, or start the container with it"
        return Check("device", WARN, f"cpu: torch is built for {found.build}, but {found.fault}", advice)
    if found.driver:
        advice = "install a CUDA build of torch and torchvision"
        return Check("device", WARN, "cpu: the machine has NVIDIA's driver, but torch is built for CPUs", advice)
    return Check("device", OK, "cpu")


def check_memory(cores: int, total: int, available: int) -> Check:
    """Cores, and memory in bytes."""
    found = f"{cores} core{'s'[: cores - 1]}, {total / _GIB:.1f} GiB of memory, {available / _GIB:.1f} GiB of it free"
    if available >= _LEAST_MEMORY:
        return Check("machine", OK, found)
    return Check("machine", WARN, found, "close other programs, or pass a smaller --batch and --imgsz")


def check_shared_memory(free: int) -> Check:
    """Bytes in which processes that load data hand over images."""
    found = f"{free / _GIB:.2f} GiB free"
    if free >= _LEAST_SHARED:
        return Check("shared memory", OK, found)
    return Check("shared memory", WARN, found, "pass --workers 0, or give a container more: docker run --shm-size=2g")


def check_folder(name: str, folder: Path, advice: str) -> Check:
    """Whether files can be made in a folder, or in the one that it would be made in, and how many bytes are free."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Check(name, FAIL, f"{folder} can't be written ({error.strerror or one_line(error)})", advice)
    found = f"{folder}, {free / _GIB:.1f} GiB free"
    return (
        Check(name, OK, found) if free >= _LEAST_DISK else Check(name, WARN, found, "make room, or take another disk")
    )


def look_at_machine() -> Iterator[Check]:
    """Cores, memory, and the shared memory of systems that have it as a folder."""
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory, shared = psutil.virtual_memory(), Path("/dev/shm")
    yield check_memory(every, memory.total, memory.available)
    if shared.is_dir():
        yield check_shared_memory(shutil.disk_usage(shared).free)
