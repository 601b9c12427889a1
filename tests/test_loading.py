"""Every bad checkpoint is refused with one line that says what was expected, what came and what to do."""

import copy
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from conftest import build, outputs
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.modules import C2f, Conv, Detect, DWConv
from ultralytics.utils import IterableSimpleNamespace

from depgraph_hsic_only import (
    CheckpointError,
    ConfigError,
    PlanError,
    PruningError,
    UnsupportedModelError,
    apply_plan,
    describe,
    load_model,
    prune,
)
from depgraph_hsic_only.utils.conversion import export_onnx


def saved(model: Any, path: Path) -> Path:
    model.task = "segment"  # as a YOLO sets it
    torch.save({"model": copy.deepcopy(model).half(), "ema": None, "epoch": -1, "train_args": {"imgsz": 64}}, path)
    return path


class ForeignC2f(C2f):
    """What other pruning scripts leave in a checkpoint."""


def foreign_class(folder: Path) -> Path:
    model = build()
    model.model[2].__class__ = ForeignC2f
    return saved(model, folder / "foreign.pt")


def other_widths(folder: Path) -> Path:
    model = build()
    layer, reader = model.model[0], model.model[1]
    layer.conv, layer.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
    reader.conv = nn.Conv2d(8, 32, 3, 2, 1, bias=False)
    return saved(model, folder / "unlike_yaml.pt")


def light_class_branch(folder: Path) -> Path:
    """What Ultralytics 8.3.0 built from YOLOv8's YAML."""
    model = build()
    widths = [scale[0].conv.in_channels for scale in model.model[-1].cv3]
    model.model[-1].cv3 = nn.ModuleList(
        nn.Sequential(
            nn.Sequential(DWConv(width, width, 3), Conv(width, 80, 1)),
            nn.Sequential(DWConv(80, 80, 3), Conv(80, 80, 1)),
            nn.Conv2d(80, 80, 1),
        )
        for width in widths
    )
    return saved(model, folder / "light.pt")


def other_activations(folder: Path) -> Path:
    """What Ultralytics would undo when it trains."""
    model = build()
    for module in model.modules():
        if isinstance(module, Conv) and isinstance(module.act, nn.SiLU):
            module.act = nn.ReLU()
    return saved(model, folder / "relu.pt")


def test_an_sppf_without_activation_stays_one(tmp_path: Path) -> None:
    """As Ultralytics 8.4.0 to 8.4.140 built it, from a row that means another one today."""
    model = build()
    model.model[9].cv1.act = nn.Identity()
    with pytest.raises(UnsupportedModelError, match=r"9\.cv1\.act: Identity where the YAML builds SiLU"):
        prune(model, 0.5)
    loaded = load_model(saved(model, tmp_path / "january.pt"))
    prune(loaded, 0.5)
    rebuilt = type(loaded.model)(copy.deepcopy(loaded.model.yaml), verbose=False).eval()
    rebuilt.load(copy.deepcopy(loaded.model), verbose=False)
    image = torch.rand(1, 3, 64, 64)
    for a, b in zip(outputs(rebuilt, image), outputs(loaded.model, image), strict=True):
        assert torch.equal(a, b)


def fused(folder: Path) -> Path:
    return saved(build().fuse(verbose=False), folder / "fused.pt")


def other_family(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        YOLO(name).save(folder / "other.pt")
        return folder / "other.pt"

    return make


def state_dict(folder: Path) -> Path:
    torch.save(build().state_dict(), folder / "state.pt")
    return folder / "state.pt"


def a_list(folder: Path) -> Path:
    torch.save([1, 2], folder / "list.pt")
    return folder / "list.pt"


def truncated(folder: Path) -> Path:
    whole = saved(build(), folder / "whole.pt").read_bytes()
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 3])
    return folder / "cut.pt"


def contents(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: folder / "missing.pt", CheckpointError, "no such file"),
        (lambda folder: folder, CheckpointError, "got a folder"),
        (contents("empty.pt", b""), CheckpointError, "could not be loaded"),
        (contents("text.pt", b"hello, this is text\n"), CheckpointError, "could not be loaded"),
        (contents("image.png", b"\x89PNG\r\n\x1a\n" + bytes(99)), CheckpointError, "does not end in .pt"),
        (contents("image.pt", b"\xff\xd8\xff\xe0" + bytes(99)), CheckpointError, "could not be loaded"),
        (truncated, CheckpointError, "could not be loaded"),
        (state_dict, CheckpointError, "could not be loaded"),
        (a_list, CheckpointError, "could not be loaded"),
        (foreign_class, CheckpointError, "could not be loaded"),
        (other_widths, UnsupportedModelError, "differ from its own YAML"),
        (light_class_branch, UnsupportedModelError, "light one .* Ultralytics 8.3.0"),
        (other_activations, UnsupportedModelError, "model.0.act: ReLU where the YAML builds SiLU"),
        (fused, UnsupportedModelError, "fused for inference"),
        (other_family("yolov8n-ghost.yaml"), UnsupportedModelError, "layer 1 is .*GhostConv"),
        (other_family("yolov8n-cls.yaml"), UnsupportedModelError, "got ClassificationModel"),
        (other_family("yolov5n.yaml"), UnsupportedModelError, "layer 2 is .*C3 "),
    ],
)
def test_bad_checkpoints(make: Any, error: type[PruningError], message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(error, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value) and "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_could_be_downloaded_says_what_to_pass_instead(monkeypatch: Any, tmp_path: Path) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ultralytics.utils.downloads.safe_download", offline)
    with pytest.raises(CheckpointError, match=r"could not be downloaded .*no network.*pass the path"):
        load_model("yolov8l-seg.pt")
    assert list(tmp_path.iterdir()) == []


class Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.target, "owned")


@pytest.mark.parametrize("form", ["archive", "bare pickle"])
def test_a_hostile_checkpoint_runs_no_code(form: str, tmp_path: Path) -> None:
    checkpoint, target = {"model": Hostile(tmp_path / "owned"), "train_args": {}}, tmp_path / "owned"
    if form == "archive":
        torch.save(checkpoint, tmp_path / "hostile.pt")
    else:
        (tmp_path / "hostile.pt").write_bytes(pickle.dumps(checkpoint))
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load_model(tmp_path / "hostile.pt")
    assert not target.exists()
    torch.load(tmp_path / "hostile.pt", weights_only=False) if form == "archive" else pickle.loads(
        (tmp_path / "hostile.pt").read_bytes()
    )
    assert target.exists()  # the file would have done it


@pytest.mark.parametrize("change", ["foreign", "fused", "widths"])
def test_a_model_changed_by_others_is_refused_and_left_alone(change: str) -> None:
    model = build()
    if change == "foreign":
        model.model[2].__class__ = ForeignC2f
    elif change == "fused":
        model.fuse(verbose=False)
    else:
        model.model[3].bn = nn.BatchNorm2d(32)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModelError, match="expected a YOLO model"):
        prune(model, 0.5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(UnsupportedModelError, match="got Linear"):
        prune(nn.Linear(2, 2), 0.5)


def test_what_is_no_model_no_plan_or_within_inference_mode_is_refused(tmp_path: Path) -> None:
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"outside torch.inference_mode\(\)"):
        prune(build(), 0.5)
    with pytest.raises(PlanError, match=r"expected a PruningPlan, got str; PruningPlan.load\(path\)"):
        apply_plan(build(), "plan.json")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="expected the path of a YOLO checkpoint, got NoneType"):
        load_model(None)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match=r"expected a YOLO model .*, got str"):
        export_onnx("best.pt", tmp_path / "best.onnx", imgsz=64)  # type: ignore[arg-type]


def test_spaces_and_unicode_in_the_path_and_a_model_pruned_by_us(tmp_path: Path) -> None:
    folder = tmp_path / "mes modèles 模型"
    folder.mkdir()
    model = build(nc=3)
    parameters = prune(model, 0.5).after.parameters
    yolo = load_model(saved(model, folder / "best of.pt"))
    assert sum(p.numel() for p in yolo.model.parameters()) == parameters
    assert load_model("yolov8s-seg.yaml").task == "segment"
    assert load_model("yolov8n.yaml", task=None).task == "detect"


def test_of_a_taught_training_that_was_cut_off_the_student_is_taken(tmp_path: Path) -> None:
    student = build(nc=3)
    student.args = get_cfg(overrides={"imgsz": 64, "task": "segment"})
    taught = DistillationModel(build(nc=3), copy.deepcopy(student))
    taught.teacher_model = None  # as Ultralytics' trainer saves it
    taught.args, taught.task, taught.names, taught.yaml = student.args, "segment", student.names, student.yaml
    torch.save(
        {"model": None, "ema": taught.half(), "epoch": 0, "train_args": vars(student.args)}, tmp_path / "last.pt"
    )
    yolo = load_model(tmp_path / "last.pt")
    wanted = student.half().float().state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in yolo.model.state_dict().items())
    report = prune(yolo, 0.5)
    yolo.save(tmp_path / "cut.pt")
    assert prune(load_model(tmp_path / "cut.pt"), 0.3).after.parameters < report.after.parameters  # pruned twice


def test_a_checkpoint_of_2023(tmp_path: Path, monkeypatch: Any) -> None:
    """One class, as FastSAM's; what Ultralytics 8.0 wrote has classes and YAML keys where they are no more."""
    model = build(nc=1)
    model.names, model.args = {0: "object"}, IterableSimpleNamespace(imgsz=64, task="segment")
    scale = model.yaml.pop("scales")[model.yaml.pop("scale")]
    model.yaml |= {"depth_multiple": scale[0], "width_multiple": scale[1]}
    model.model[-1].detect = Detect.forward
    image = torch.rand(1, 3, 64, 96)
    wanted = outputs(copy.deepcopy(model).half().float(), image)
    with monkeypatch.context() as then:
        for kind in {type(m) for m in model.modules() if type(m).__module__.startswith("ultralytics.nn.modules")}:
            then.setattr(kind, "__module__", "ultralytics.nn.modules")
        then.setattr(Detect, "__module__", "ultralytics.nn.modules")
        then.setattr(IterableSimpleNamespace, "__module__", "ultralytics.yolo.utils")
        then.setitem(sys.modules, "ultralytics.yolo", types.ModuleType("ultralytics.yolo"))
        then.setitem(sys.modules, "ultralytics.yolo.utils", ultralytics.utils)
        saved(model, tmp_path / "old.pt")
    assert b"ultralytics.yolo.utils" in (tmp_path / "old.pt").read_bytes()
    yolo = load_model(tmp_path / "old.pt")
    assert all(map(torch.equal, outputs(yolo.model, image), wanted))
    report = prune(yolo, 0.25)
    assert report.after.parameters < report.before.parameters
    yolo.save(tmp_path / "cut.pt")
    assert describe(load_model(tmp_path / "cut.pt")).verdict.startswith("yes, from yolov8n-seg: ")
