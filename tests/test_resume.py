"""Runs that are cut off by a real SIGKILL and go on: same plan, same weights or all epochs, and nothing lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ultralytics import YOLO

from depgraph_hsic_only import CheckpointError, ConfigError, DefaultYolov8SegPruner, load_model
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.data.shapes import SHAPES_RECIPE, shapes_dataset
from depgraph_hsic_only.training.snapshot import Snapshot
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.workflow.state import RunState
from depgraph_hsic_only.yolo.patches import ensure_nms, patient_nms


def command(project: Path, checkpoint: Path, data: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "depgraph_hsic_only", "--pretrained", str(checkpoint), "--data", str(data)),
        *("--imgsz", "64", "--batch", "8", "--workers", "0", "--device", "cpu", "--project", str(project)),
        *("--name", "run", "plots=false", "calibration.images=8", "prune.ratio=0.25", "export.images=2"),
        *("rivals=null", *more),
    ]


def killed_at(arguments: list[str], line: str) -> str:
    """Run a command, kill it when it prints a line, and return what it had printed."""
    seen = ""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            seen += text
            if line in text:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL, seen
    return seen


MORE = ("train.epochs=0", "fine_tune.epochs=3")


def resumed(folder: Path, *more: str) -> str:
    arguments = [sys.executable, "-m", "depgraph_hsic_only", "--resume", str(folder), *more]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same_weights(one: Path, two: Path) -> bool:
    states = [load_model(path).model.state_dict() for path in (one, two)]
    return list(states[0]) == list(states[1]) and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_killed_between_stages_moved_and_killed_in_a_training_it_ends_at_the_same_weights(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any
) -> None:
    whole = tmp_path / "whole" / "run"  # nothing cuts it off
    uninterrupted = command(whole.parent, checkpoint, shapes, *MORE)
    assert subprocess.run(uninterrupted, capture_output=True, check=False).returncode == 0
    killed_at(command(tmp_path / "cut", checkpoint, shapes, *MORE), "fine-tuning (stage 3 of 6)")
    (tmp_path / "cut" / "run" / "weights" / ".best.pt.1.tmp").write_bytes(b"begun")  # as a kill while it is written
    run = tmp_path / "elsewhere"
    (tmp_path / "cut" / "run").rename(run)

    said = killed_at([sys.executable, "-m", "depgraph_hsic_only", "--resume", str(run)], "epochs: 2 of 3")
    assert said.count("done before") == 2
    last = run / "finetune" / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])  # as a kill while it is written leaves it
    with (run / "finetune" / "results.csv").open("a") as file:
        file.write("3,1.0,")  # and a row that was begun

    said = resumed(run)
    assert "going on after epoch 2 of 3" in said and "epochs: 3 of 3, mask mAP50-95 0.0000" in said
    assert [epoch["epoch"] for epoch in report(run)["stages"][-1]["epochs"]] == [1, 2, 3]
    for name in ("finetune/weights/last.pt", "weights/best.pt"):
        assert same_weights(whole / name, run / name)
    for name in ("plan.json", "weights/pruned.yaml"):
        assert (run / name).read_text() == (whole / name).read_text()
    stages = [[stage["name"] for stage in report(folder)["stages"]] for folder in (whole, run)]
    assert stages[0] == stages[1]
    assert not (run / "resume").exists() and not list(run.rglob("*.tmp"))
    assert main(["--resume", str(run)]) == 0 and "this run is complete" in capsys.readouterr().out


def test_another_configuration_or_data_set_is_refused_by_name(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any
) -> None:
    more = ("train.epochs=0", "fine_tune.epochs=0")
    killed_at(command(tmp_path, checkpoint, shapes, *more), "pruning (stage 2 of 6)")
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for arguments, named in {
        ("prune.ratio=0.5",): "prune.ratio=0.5 instead of 0.25",
        ("--seed", "3"): "seed=3 instead of 0",
    }.items():
        assert main(["--resume", str(run), *arguments]) == 2
        error = capsys.readouterr().err
        assert named in error and error.count("\n") == 1 + error.count("warning")
    other = tmp_path / "other"
    shutil.copytree(shapes.parent, other)
    label = next((other / "labels" / "train").glob("*.txt"))
    label.write_text(label.read_text() + label.read_text())
    keys = yaml.safe_load(shapes.read_text())
    (other / shapes.name).write_text(yaml.safe_dump({**keys, "path": str(other)}))
    state = json.loads((run / "state.json").read_text())
    pruner = DefaultYolov8SegPruner(cfg=None, **{**state["settings"], "data": str(other / shapes.name)})
    with pytest.raises(ConfigError, match="got another data; pass that again"):
        pruner.run(resume=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }
    with pytest.raises(ConfigError, match=r"expected the folder of a run.*state\.json"):
        pruner.run(resume=tmp_path)


def test_two_runs_never_write_one_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    refused = pytest.raises(ConfigError, match="another one does at this moment")
    with folder.locked(), refused, RunFolder(folder.path).locked():
        raise AssertionError("locked twice")
    with folder.locked():
        assert RunFolder.create(tmp_path, "run").path != folder.path


def test_what_may_differ_after_a_resume_is_where_it_runs(tmp_path: Path) -> None:
    state = RunState({"device": "0", "prune": {"ratio": 0.5}}, {"data": "a"})
    state.check_same({"device": "cpu", "name": "x", "prune": {"ratio": 0.5}}, {"data": "a"}, Path("run"))
    with pytest.raises(ConfigError, match=r"prune\.ratio=0\.4 instead of 0\.5; another data"):
        state.check_same({"prune": {"ratio": 0.4}}, {"data": "b"}, Path("run"))
    (tmp_path / "args.yaml").write_text("prune: {ratio: 0.5}\nfine_tune: {lr0: 0.1}")  # with what a training has used
    used = {"prune": {"ratio": 0.5}, "fine_tune": {"lr0": 0.1}}
    state.check_same(used, {"data": "a"}, tmp_path)
    with pytest.raises(ConfigError, match=r"fine_tune\.lr0=0\.1 instead of None"):
        state.check_same(used, {"data": "a"}, tmp_path / "elsewhere")


def test_a_damaged_or_hostile_snapshot_is_refused(tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "snapshot.pt"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    torch.save({"epoch": Hostile()}, file)
    with pytest.raises(CheckpointError, match="could not be read"):
        Snapshot.read(file)
    assert not marker.exists()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="remove the file to train anew"):
        Snapshot.read(file)
    assert Snapshot.read(tmp_path / "none.pt") is None


@pytest.mark.slow
def test_a_run_in_steps_survives_twenty_kills(tmp_path: Path) -> None:
    """At random moments of whole runs of a model that works; every run ends at the weights of the uninterrupted one."""
    data = shapes_dataset(tmp_path / "set", train=120, val=40, imgsz=96)
    given = {**SHAPES_RECIPE, "data": str(data), "imgsz": 96, "epochs": 25, "workers": 0, "device": "cpu"}
    ensure_nms()
    with patient_nms():
        YOLO("yolov8n-seg.yaml").train(**given | {"plots": False, "project": str(tmp_path), "name": "taught"})
    taught = tmp_path / "taught" / "weights" / "best.pt"
    more = ("--imgsz", "96", "train.epochs=3", "fine_tune.epochs=6", "prune.steps=2", "calibration.images=40")
    start = time.monotonic()
    done = subprocess.run(command(tmp_path / "whole", taught, data, *more), capture_output=True, check=False)
    assert done.returncode == 0
    length, rng, whole = time.monotonic() - start, random.Random(0), tmp_path / "whole" / "run"
    assert min(stage["map50_95_mask"] for stage in report(whole)["stages"]) > 0.1  # else all would be alike
    kills = rounds = 0
    while kills < 20:
        rounds += 1
        run = tmp_path / f"cut-{rounds}" / "run"
        arguments = command(run.parent, taught, data, *more)
        while True:
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                try:
                    output, _ = process.communicate(timeout=rng.uniform(2, 0.6 * length))
                    assert process.returncode == 0, output
                    break
                except subprocess.TimeoutExpired:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                output, _ = process.communicate()
                print(f"kill {kills} in run {rounds}: {(output.splitlines() or ['importing'])[-1]}")
            if (run / "state.json").exists():
                arguments = [sys.executable, "-m", "depgraph_hsic_only", "--resume", str(run)]
        expected, found = report(whole), report(run)
        assert found["widths"] == expected["widths"]
        assert [stage["name"] for stage in found["stages"]] == [stage["name"] for stage in expected["stages"]]
        for one, two in zip(found["stages"], expected["stages"], strict=True):
            assert len(one["epochs"]) == len(two["epochs"])
            assert one["map50_95_mask"] == two["map50_95_mask"]
        for file in (whole / "weights").glob("*.pt"):
            assert same_weights(file, run / "weights" / file.name)
        assert not (run / "resume").exists()
        print(f"run {rounds}: the same weights, mask mAP50-95 {found['stages'][-1]['map50_95_mask']:.4f}")
