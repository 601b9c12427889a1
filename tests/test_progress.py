"""What a run shows: bars in a terminal, plain lines elsewhere, Ultralytics' words in the log, Ctrl-C in between."""

import json
import logging
import os
import pickle
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ultralytics
from conftest import every
from ultralytics.utils import LOGGER, TQDM

from depgraph_hsic_only.support import progress
from depgraph_hsic_only.utils.hooks import TRAINING_PROGRESS
from depgraph_hsic_only.yolo.logs import run_display

_BANNER = f"Ultralytics {ultralytics.__version__}"  # how its trainings and validations begin


def test_plain_lines_tell_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 10_000, 6))  # every look at the clock is 6 s later
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert list(progress.track("abcd", "reading", 4)) == list("abcd")
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith("pruning » reading: ") and line.endswith(" left") for line in lines)
    assert not any("4 of 4" in line for line in lines)  # what is done needs no line


def test_the_longer_something_takes_the_rarer_are_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert len(list(progress.track(range(1000), "reading", 1000))) == 1000
    said = [int(line.split()[3]) for line in capsys.readouterr().out.splitlines()]
    assert said == [10, 30, 70, 150, 310, 630, 950]
    with progress.Display() as display:
        display.begin("epochs", 1)
        for _ in range(10):
            display.step("epochs", 0.1, "loss 1.234")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "pruning » epochs: 0.9 of 1, loss 1.234, about 1 s left",
        "pruning » epochs: 1 of 1, loss 1.234",  # though the sum is a little less
    ]


def test_nested_work_ends_with_its_display_and_a_figure_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Display(2) as display:
        progress.begin_stage("training")
        display.begin("epochs", 2)
        display.step("epochs", 1, "mask mAP50-95 0.1850")
        for _ in progress.track(range(3), "reading", 3):
            assert progress.current() is display
        display.step("reading", 1)  # it has ended: passed over
    assert progress.current() is None
    out = capsys.readouterr().out
    assert "training (stage 1 of 2)" in out
    assert "epochs: 1 of 2, mask mAP50-95 0.1850, about 0 s left" in out


def test_the_log_has_what_ultralytics_says_and_the_terminal_only_its_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(LOGGER.handlers), TQDM.__init__
    with run_display(1, tmp_path / "run.log", verbose=False):
        LOGGER.info("\033[34mdetails\033[0m")
        LOGGER.warning("[a broken label]")
        assert list(TQDM(range(3), desc="scanning")) == [0, 1, 2]
        progress.say("our own line")
    assert (list(LOGGER.handlers), TQDM.__init__) == before
    out, log = capsys.readouterr().out, (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "[a broken label]" in out and "our own line" in out
    assert "details" not in out and "scanning" not in out
    assert "\033" not in log and all(
        text in log for text in ("details", "[a broken label]", "scanning", "our own line")
    )
    speaker = next(h for h in LOGGER.handlers if type(h) is logging.StreamHandler)
    for verbose in (True, False):
        with run_display(1, tmp_path / "run.log", verbose=verbose):
            record = logging.LogRecord("ultralytics", logging.INFO, "", 0, "details", (), None)
            assert bool(speaker.filter(record)) is verbose
    assert speaker.filter(record)


def test_what_shows_a_training_can_be_sent_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(TRAINING_PROGRESS)) == TRAINING_PROGRESS


def _arguments(folder: Path, checkpoint: Path, shapes: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "depgraph_hsic_only", "--pretrained", str(checkpoint), "--data", str(shapes)),
        *("--imgsz", "64", "--batch", "8", "--workers", "0", "--project", str(folder), "--name", "run", *more),
    ]


@pytest.mark.parametrize(("sent", "code"), every([(signal.SIGINT, 130)], [(signal.SIGTERM, 143)]))
def test_an_interrupted_run_leaves_what_was_finished(
    sent: signal.Signals, code: int, checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    arguments = _arguments(tmp_path, checkpoint, shapes, "train.epochs=500", "train.val=false")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        seen, interrupted = [], False
        for line in process.stdout:
            seen.append(line)
            if not interrupted and "epochs: 1 of 500, loss " in line:  # without validation there is no mAP
                process.send_signal(sent)  # once: where a machine is slow, the line comes twice
                interrupted = True
        errors = process.stderr.read()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "interrupted" in seen[-1]
    assert not any(_BANNER in line for line in seen)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in report["stages"]] == ["baseline"]
    assert _BANNER in (tmp_path / "run" / "run.log").read_text(encoding="utf-8")
    assert f"--resume {tmp_path / 'run'}" in seen[-1]
    assert [path.name for path in (tmp_path / "run").rglob(".*")] == [".lock"]  # nothing half-written


@pytest.mark.slow
def test_a_terminal_gets_one_live_line(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    more = ("train.epochs=0", "fine_tune.epochs=0", "calibration.images=8", "prune.ratio=0.25")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        _arguments(tmp_path, checkpoint, shapes, *more), stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen, end = b"", time.monotonic() + 240
    while time.monotonic() < end and select.select([ours], [], [], 240)[0]:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        seen += part
    assert process.wait(10) == 0
    text = seen.decode()
    assert "2/6 pruning" in text and "re-fitting" in text and "━" in text
    assert _BANNER not in text
    assert "\033[?25h" in text.rsplit("\033[?25l", 1)[-1]  # the cursor is back
