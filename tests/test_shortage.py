"""Machines that run out of disk or memory, for real: one line, nothing lost, and the run goes on when there is more."""

import errno
import faulthandler
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import every
from test_bad_input import plain
from test_resume import same_weights
from ultralytics.models.yolo.segment import SegmentationTrainer

from depgraph_hsic_only import OutOfMemoryError, StorageError, load_model
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.resource_errors import out_of_memory

ROOT = Path(__file__).parents[1]
LIMITED = """
import resource, sys, psutil
from depgraph_hsic_only import DefaultYolov8SegPruner, compare  # the libraries themselves are not what is limited
from depgraph_hsic_only.cli import main
what, more = getattr(resource, sys.argv[1]), int(sys.argv[2])
limit = more + (psutil.Process().memory_info().vms if what == resource.RLIMIT_AS else 0)
resource.setrlimit(what, (limit, limit))
sys.exit(main(sys.argv[3:]))
"""


def refused_within(kind: str, limit: int, *arguments: str) -> str:
    """The one line that a run says which has only so much."""
    command = [sys.executable, "-c", LIMITED, kind, str(limit), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    said = [line for line in done.stderr.splitlines() if "warning" not in line.lower() and "error: " in line]
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(said) == 1, done.stderr
    return said[0]


def test_what_is_a_shortage_of_memory() -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried"), OSError(errno.ENOMEM, "")):
        assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("a mistake in the shapes")) and not out_of_memory(OSError(errno.EIO, ""))


class Killed(torch.utils.data.Dataset):
    """Images whose loading ends the process that loads them."""

    def __init__(self, by: signal.Signals) -> None:
        self.by = by

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> None:
        faulthandler.disable()  # a traceback of it would look like one of the tests
        os.kill(os.getpid(), self.by)


@pytest.mark.parametrize(
    ("by", "memory"),
    [
        (signal.SIGKILL, True),  # by the kernel, which needs memory
        (signal.SIGBUS, True),  # /dev/shm is full, as PyTorch says itself
        (signal.SIGSEGV, False),
        (signal.SIGABRT, False),
    ],
)
def test_which_death_of_a_loading_process_is_a_shortage_of_memory(by: signal.Signals, memory: bool) -> None:
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        list(torch.utils.data.DataLoader(Killed(by), num_workers=1))
    said, error = "", caught.value
    while error is not None:
        said, error = said + str(error), error.__cause__
    assert "is killed by signal: " in said
    assert out_of_memory(caught.value) == memory, said


@pytest.mark.parametrize("limit", every([1_000_000], [1000]))
def test_a_full_disk_keeps_what_was_done(limit: int, checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    arguments = [*plain(checkpoint, shapes), "--project", str(tmp_path), "--name", "run"]
    said = refused_within("RLIMIT_FSIZE", limit, *arguments)
    assert "expected to write" in said and "make room" in said
    for path in (tmp_path / "run" / "weights").iterdir():
        load_model(path)
    assert not list(tmp_path.rglob("*.tmp"))
    if limit > 1000:
        assert f"--resume {tmp_path / 'run'}" in said


def test_too_little_memory_is_said(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    where = ("--project", str(tmp_path), "--name", "run", "--imgsz", "1024")
    said = refused_within("RLIMIT_AS", 2**28, *plain(checkpoint, shapes), *where)
    assert "expected more memory than there is" in said and f"--resume {tmp_path / 'run'}" in said


@pytest.mark.slow
def test_a_gpu_with_too_little_memory_trains_in_smaller_batches(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Ultralytics halves them in the first epoch; the error is one that PyTorch raises for a GPU."""
    preprocess = SegmentationTrainer.preprocess_batch

    def small(trainer: Any, batch: Any) -> Any:
        if len(batch["img"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return preprocess(trainer, batch)

    monkeypatch.setattr(SegmentationTrainer, "preprocess_batch", small)
    where = ["--project", str(tmp_path), "--name", "run"]
    assert main([*plain(checkpoint, shapes), *where, "train.epochs=1", "train.batch=4"]) == 0
    row = json.loads((tmp_path / "run" / "report.json").read_text())["stages"][1]
    assert "the memory was too small for batch=4: trained with batch=2" in row["notes"] and len(row["epochs"]) == 1


@pytest.mark.slow
def test_memory_that_ends_later_stops_the_run_and_smaller_batches_go_on(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    arguments = [*plain(checkpoint, shapes), "--project", str(tmp_path), "--name", "run"]
    with monkeypatch.context() as patched:
        patched.setattr("depgraph_hsic_only.workflow.stages.cuts.cut", gone)
        assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB); what was done before is safe" in said
    assert issubclass(OutOfMemoryError, MemoryError)
    assert main(["--resume", str(tmp_path / "run"), "--batch", "2"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["stages"][1]["notes"][0] == "batches of 2 images from here on instead of 4"


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def full(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="expected to write it, but No space left on device; make room"):
        write_atomically(file, full)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


TRAINED = ("train.epochs=1", "fine_tune.epochs=2", "prune.steps=2", "prune.recover=bn")


@pytest.mark.slow
def test_a_write_error_at_each_save(checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Whichever save fails, the resumed run ends at the weights of the one in which none did."""
    more = ("train.epochs=1", "fine_tune.epochs=1", "--project", str(tmp_path))
    arguments, sync, saves = [*plain(checkpoint, shapes), *more], os.fsync, [0]

    def counted(failing: int | None) -> Any:
        saves[0] = 0

        def fsync(descriptor: int) -> None:
            saves[0] += 1
            if saves[0] == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        return fsync

    monkeypatch.setattr("depgraph_hsic_only.support.files.os.fsync", counted(None))
    assert main([*arguments, "--name", "whole"]) == 0
    count = saves[0]
    assert count > 20
    for failing in range(1, count + 1):
        run = tmp_path / f"run-{failing}"
        monkeypatch.setattr("depgraph_hsic_only.support.files.os.fsync", counted(failing))
        assert main([*arguments, "--name", run.name]) == 2, failing
        monkeypatch.setattr("depgraph_hsic_only.support.files.os.fsync", sync)
        assert not list(run.rglob("*.tmp"))
        resumable = (run / "state.json").exists()
        assert main(["--resume", str(run)] if resumable else [*arguments, "--name", run.name, "--exist-ok"]) == 0
        assert same_weights(tmp_path / "whole" / "weights" / "best.pt", run / "weights" / "best.pt"), failing


@pytest.mark.slow
def test_a_disk_that_is_really_full(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    """A small disk in memory, a little larger each time: the run goes on from where the smaller one was full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nothing be mounted")
    run = disk / "run"
    try:
        command = [sys.executable, "-m", "depgraph_hsic_only", *plain(checkpoint, shapes), *TRAINED]
        command += ["--project", str(disk), "--name", "run"]
        for size in (1, 7, 20, 40, 60, 90, 130, 180, 240, 320, 500):
            subprocess.run(["mount", "-o", f"remount,size={size}m", str(disk)], check=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            if done.returncode == 0:
                break
            said = [line for line in done.stderr.splitlines() if "error: " in line]
            assert done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr, done.stderr
            assert "make room" in said[0]
            for path in (run / "weights").glob("*.pt"):
                load_model(path)
            if (run / "state.json").exists():
                command = [sys.executable, "-m", "depgraph_hsic_only", "--resume", str(run)]
            else:
                command = [*command, "--exist-ok"]
        assert done.returncode == 0 and size > 60
        whole = [*plain(checkpoint, shapes), *TRAINED, "--project", str(tmp_path), "--name", "whole"]
        assert main(whole) == 0
        assert same_weights(run / "weights" / "best.pt", tmp_path / "whole" / "weights" / "best.pt")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
