"""Many cuts in one process leave nothing behind: a server or a notebook may prune all day."""

import gc
import threading
from pathlib import Path

import pytest
import torch
from conftest import build
from torch import nn

from depgraph_hsic_only import HsicLassoPruner


def _resident() -> int:
    """Memory of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:4 calibration images are few")
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory and files are read from /proc")
def test_two_hundred_cycles_leave_nothing_behind() -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    original, seen = build(nc=5), []
    for cycle in range(1, 201):
        model = build(nc=5)
        report = HsicLassoPruner(ratio=0.25, images=images, layers=[4], positions=4).prune(model)
        assert report.after.parameters < report.before.parameters and _hooks(model) == 0
        del model, report
        if cycle in (20, 110, 200):
            gc.collect()
            files = len(list(Path("/proc/self/fd").iterdir()))
            tensors = sum(
                issubclass(type(o), torch.Tensor) for o in gc.get_objects()
            )  # isinstance would ask the objects
            seen.append({"bytes": _resident(), "files": files, "threads": threading.active_count(), "tensors": tensors})
    first, middle, last = seen
    print(seen)
    assert _hooks(original) == 0
    for what in ("files", "threads", "tensors"):
        assert last[what] == middle[what] == first[what], seen
    assert last["bytes"] - middle["bytes"] < 20e6, seen
