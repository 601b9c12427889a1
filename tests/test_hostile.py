"""No code in a file is run: a checkpoint that would write a file doesn't, whichever way it comes in, but by --trust."""

import copy
import pickle
import runpy
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import build
from ultralytics import YOLO

from depgraph_hsic_only import DefaultYolov8SegPruner, HsicLassoPruner, PruningError, compare, load_model
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.data.dataset import find_dataset, labelled_batches
from depgraph_hsic_only.data.labels import code_in_cache
from depgraph_hsic_only.evaluation.validation import ClassMetrics
from depgraph_hsic_only.report.stages import StageReport, class_table
from depgraph_hsic_only.support.progress import show
from depgraph_hsic_only.yolo.patches import safe_load

ROOT = Path(__file__).parents[1]


class Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def hostile(path: Path, marker: Path) -> Path:
    """A checkpoint that works, with something else in it."""
    model = build(nc=5)
    model.task, model.args = "segment", {"imgsz": 64, "task": "segment"}
    model.names = dict(enumerate(["circle", "square", "triangle", "star", "cross"]))
    extra = {"epoch": -1, "train_args": {"imgsz": 64, "task": "segment"}, "extra": Hostile(marker)}
    torch.save({"model": copy.deepcopy(model).half(), **extra}, path)
    return path


def common(data: Path, project: Path) -> list[str]:
    given = ["--data", str(data), "--imgsz", "64", "--batch", "8", "--workers", "0", "--device", "cpu"]
    epochs = ["train.epochs=0", "fine_tune.epochs=0", "prune.recover=none", "export.images=2"]
    return [*given, "--project", str(project), "--name", "run", *epochs]


def script(module: Callable[[], Any], *arguments: str) -> int:
    """The exit code of a program that is started in this process."""
    before = sys.argv
    sys.argv = ["program", *arguments]
    try:
        module()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        sys.argv = before
    return 0


ENTRANCES: dict[str, Callable[[Path, Path, Path, Path], int]] = {
    "python -m": lambda bad, good, data, to: script(
        lambda: runpy.run_module("depgraph_hsic_only", run_name="__main__"),
        *("--pretrained", str(bad), *common(data, to)),
    ),
    "dry run": lambda bad, good, data, to: main(["--pretrained", str(bad), "--dry-run"]),
    "prune.py": lambda bad, good, data, to: script(
        lambda: runpy.run_path(str(ROOT / "prune.py"), run_name="__main__"),
        *("--pretrained", str(bad), *common(data, to)),
    ),
    "info": lambda bad, good, data, to: main(["info", str(bad)]),
    "compare": lambda bad, good, data, to: main(
        ["compare", "--pretrained", str(bad), "--data", str(data), "--ratios", "0.5", "--project", str(to)]
    ),
    "train.distill_model": lambda bad, good, data, to: main(
        ["--pretrained", str(good), *common(data, to), f"train.distill_model={bad}"]
    ),
    "fine_tune.distill_model": lambda bad, good, data, to: main(
        ["--pretrained", str(good), *common(data, to), f"fine_tune.distill_model={bad}", "--trust"]  # of the other file
    ),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.filterwarnings("ignore:.*it is trusted")
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_no_entrance_runs_code_of_a_checkpoint(
    entrance: str, checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    marker, to = tmp_path / "marker", tmp_path / "runs"
    bad = hostile(tmp_path / "bad.pt", marker)
    assert ENTRANCES[entrance](bad, checkpoint, shapes, to) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(bad) in error and "could not be loaded" in error and "Traceback" not in error
    assert not marker.exists() and not to.exists()


def test_no_call_runs_code_of_a_checkpoint(shapes: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bad = hostile(tmp_path / "bad.pt", marker)
    calls: list[Callable[[], Any]] = [
        lambda: load_model(bad),
        lambda: DefaultYolov8SegPruner(bad, cfg=None, data=str(shapes), project=str(tmp_path / "runs")).run(),
        lambda: HsicLassoPruner(ratio=0.5).prune(str(bad)),
        lambda: HsicLassoPruner(ratio=0.5, images=bad).prune(load_model("yolov8n-seg.yaml")),
        lambda: compare(bad, str(shapes), ratios=0.5, project=str(tmp_path / "runs")),
    ]
    for call in calls:
        with pytest.raises(PruningError):
            call()
    assert not marker.exists() and not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("ignore:.*it is trusted")
def test_trust_runs_it_and_the_run_goes_through(shapes: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    bad = hostile(tmp_path / "bad.pt", marker)
    with pytest.warns(UserWarning, match="bad.pt: it is trusted, so whatever code is in it may run"):
        load_model(bad, trust=True)
    assert marker.exists()
    marker.unlink()
    assert main(["--pretrained", str(bad), *common(shapes, tmp_path / "runs"), "--trust", "rivals=null"]) == 0
    assert marker.exists()
    marker.unlink()
    for name in ("trained", "pruned", "best"):  # what it leaves is plain
        load_model(tmp_path / "runs" / "run" / "weights" / f"{name}.pt")
    assert main(["--resume", str(tmp_path / "runs" / "run")]) == 2  # the folder can't say that it is trusted
    assert not marker.exists() and "could not be loaded" in capsys.readouterr().err
    assert main(["--resume", str(tmp_path / "runs" / "run"), "--trust"]) == 0


@pytest.mark.filterwarnings("ignore:.*it is trusted")
def test_a_trusted_file_is_loaded_beside_a_training_that_stays_safe(tmp_path: Path) -> None:
    marker, training, trusted = tmp_path / "marker", threading.Event(), threading.Event()
    bad = hostile(tmp_path / "bad.pt", marker)

    def train() -> bool:
        """Loads as Ultralytics' trainer does, in the middle of it."""
        with safe_load():
            training.set()
            assert trusted.wait(60)
            with pytest.raises(TypeError, match="outside the supported Ultralytics checkpoint format"):
                YOLO(str(bad))
        return marker.exists()

    with ThreadPoolExecutor() as pool:
        found = pool.submit(train)
        assert training.wait(60)
        load_model(bad, trust=True)
        assert marker.exists()
        marker.unlink()
        trusted.set()
        assert not found.result(60)


@pytest.fixture(scope="module")
def interrupted(checkpoint: Path, shapes: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """Run folders that were cut off in the first training, and in the second of two steps of a cut."""
    folders = {}
    settings: dict[str, Any] = {"data": str(shapes), "imgsz": 64, "batch": 8, "workers": 0, "device": "cpu"}
    settings |= {"plots": False, "name": "run", "prune.recover": "none", "fine_tune.epochs": 3}
    for name, before, more in (
        ("training", "args.yaml", {"train.epochs": 2}),
        ("step", "finetune-2", {"train.epochs": 0, "prune.steps": 2, "prune.max_map_drop": 1.0}),
    ):
        folder = tmp_path_factory.mktemp(name) / "run"

        def stop(trainer: Any, wanted: Path = folder / before) -> None:
            if wanted.exists():
                raise KeyboardInterrupt

        pruner = DefaultYolov8SegPruner(checkpoint, cfg=None, **settings, **more, project=str(folder.parent))
        pruner.add_callback("on_fit_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            pruner.run()
        folders[name] = folder
    return folders


NEEDED = {"training": {"snapshot.pt"}, "step": {"1.pt", "snapshot.pt"}}  # without which a run can't go on


@pytest.mark.parametrize("name", NEEDED)
def test_a_run_folder_with_a_hostile_file_runs_no_code(
    name: str, interrupted: Any, tmp_path: Path, capsys: Any
) -> None:
    files = sorted(path.relative_to(interrupted[name]) for path in interrupted[name].rglob("*.pt"))
    assert {path.name for path in files if path.parts[0] == "resume"} >= NEEDED[name], files
    run, marker = tmp_path / "run", tmp_path / "marker"
    for replaced in [*([path] for path in files if path.name in NEEDED[name]), files]:
        shutil.copytree(interrupted[name], run)
        for path in replaced:
            hostile(run / path, marker)
        assert main(["--resume", str(run)]) == 2, replaced
        assert "Traceback" not in capsys.readouterr().err
        assert not marker.exists(), replaced
        shutil.rmtree(run)


def test_text_in_a_checkpoint_or_yaml_is_not_evaluated(tmp_path: Path, capsys: Any) -> None:
    """Ultralytics evaluates what a model's YAML calls its activation, and a checkpoint has such a YAML."""
    marker = tmp_path / "marker"
    model = build(nc=5)
    model.task, model.args = "segment", {"imgsz": 64, "task": "segment"}
    model.yaml = {**model.yaml, "activation": f"__import__('pathlib').Path({str(marker)!r}).touch()"}
    torch.save({"model": copy.deepcopy(model).half(), "train_args": {}}, tmp_path / "bad.pt")
    plain = {key: value for key, value in model.yaml.items() if key != "yaml_file"}
    (tmp_path / "yolov8n-bad.yaml").write_text(yaml.safe_dump(plain))
    for name in ("bad.pt", "yolov8n-bad.yaml"):
        assert main(["info", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert "activation" in error and error.count("\n") == 1, error
    assert not marker.exists()


def test_names_of_classes_are_no_commands_of_a_terminal(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    yolo = load_model(checkpoint)
    name, written = "\x1b]0;owned\x07\x9b2J[/red]", "\\x1b]0;owned\\x07\\x9b2J[/red]"
    yolo.model.names = {**yolo.model.names, 0: "square", 1: name}
    yolo.save(tmp_path / "bad.pt")
    assert main(["info", str(tmp_path / "bad.pt")]) == 0
    assert main(["--pretrained", str(tmp_path / "bad.pt"), *common(shapes, tmp_path / "runs")]) == 2
    rows = [ClassMetrics(name, 3, {"box": 0.5, "mask": 0.5})]
    stage = StageReport("baseline", 0.0, 1, 1.0, classes=tuple(rows))
    show(class_table(stage, stage))
    out, err = capsys.readouterr()
    assert out.count(written) == 2 and err.count(written) == 1
    assert not {"\x1b", "\x07", "\x9b"} & set(out + err)


def test_a_data_set_runs_no_script(checkpoint: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Ultralytics runs what a data set's YAML calls its download, where images are missing."""
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    names = ["circle", "square", "triangle", "star", "cross"]
    for download in (f"from pathlib import Path; Path({str(marker)!r}).touch()", f"bash -c touch {marker}"):
        keys = {"path": str(tmp_path / "gone"), "train": "a", "val": "b", "names": names, "download": download}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(keys))
        assert main(["--pretrained", str(checkpoint), *common(tmp_path / "data.yaml", tmp_path / "runs")]) == 2
        with pytest.raises(PruningError):
            DefaultYolov8SegPruner(checkpoint, cfg=None, data=keys, project=str(tmp_path / "runs")).run()
    assert not marker.exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["array", "pickle"])
def test_a_hostile_label_cache_is_refused(
    kind: str, checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any
) -> None:
    marker, copied = tmp_path / "marker", tmp_path / "set"
    shutil.copytree(shapes.parent, copied)
    data = copied / shapes.name
    data.write_text(yaml.safe_dump({**yaml.safe_load(shapes.read_text()), "path": str(copied)}))
    cache = copied / "labels" / "train.cache"
    with cache.open("wb") as file:
        if kind == "array":
            np.save(file, {"labels": Hostile(marker)}, allow_pickle=True)
        else:
            pickle.dump({"labels": Hostile(marker)}, file)
    assert main(["--pretrained", str(checkpoint), *common(data, tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{cache}: expected a label cache of Ultralytics, got one that would run pathlib" in said
    assert not marker.exists() and not (tmp_path / "run").exists()
    np.load(cache, allow_pickle=True)
    assert marker.exists()  # so it would have run


def test_ultralytics_own_label_caches_are_taken(shapes: Path) -> None:
    list(labelled_batches(find_dataset(str(shapes)), images=4, imgsz=64, batch=4))
    find_dataset(str(shapes))  # with the caches that are there now
    caches = list((shapes.parent / "labels").glob("*.cache"))
    assert caches and all(code_in_cache(cache) is None for cache in caches)
    whole = caches[0].read_bytes()
    with caches[0].open("rb") as file:
        assert np.load(file, allow_pickle=True).item()["labels"] and whole.startswith(b"\x93NUMPY")
