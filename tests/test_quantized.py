"""Quantisation-aware training: the int8 file that comes of it, where it goes on, and what is refused at the start."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from test_bad_input import plain
from test_workflow import settings
from ultralytics import YOLO
from ultralytics.utils import torch_utils

from depgraph_hsic_only import ConfigError, DefaultYolov8SegPruner, ExportError, RunReport, compare, load_model
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.training import quantized
from depgraph_hsic_only.workflow.config import load_config


def with_modelopt(test: Any) -> Any:
    """Skip a test where the package is missing; it warns of what it imports."""
    skipped = pytest.mark.skipif(find_spec("modelopt") is None, reason="nvidia-modelopt is not installed")
    return skipped(pytest.mark.filterwarnings("ignore")(test))


@pytest.mark.slow
@with_modelopt
def test_a_training_for_int8_that_is_cut_off_goes_on_to_the_same_file(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    epochs = {"train.epochs": 0, "fine_tune.epochs": 2, "fine_tune.quantize": "int8", "export.quantize": 16}
    given = settings(tmp_path, shapes, **epochs, **{"prune.ratio": 0.25, "calibration.images": 8})
    whole = DefaultYolov8SegPruner(checkpoint, **given).run()

    def stop(trainer: Any) -> None:
        if trainer.save_dir.name == "qat" and trainer.epoch == 1:
            raise KeyboardInterrupt

    cut = DefaultYolov8SegPruner(checkpoint, **{**given, "name": "cut"})
    cut.add_callback("on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    resumed = DefaultYolov8SegPruner(checkpoint, **{**given, "name": "cut"}).run(resume=tmp_path / "cut")
    assert "going on after epoch 1 of 2" in (tmp_path / "cut" / "run.log").read_text()
    for report in (whole, resumed):
        half, int8 = report.files
        assert [half.precision, int8.precision, int8.path] == ["float16", "int8", "weights/best_qat.onnx"]
        assert int8.loss is not None and "best_qat.onnx in int8 loses" in str(report) and int8.latency_ms[0] > 0
        assert not (report.folder / "resume").exists()
        assert report.notes[0] == "training for int8" and any("trained with" in note for note in report.notes)
        assert RunReport.load(report.folder).notes == report.notes
        assert load_config(report.folder / "args.yaml").fine_tune["quantize"] == "int8"
        load_model(report.folder / "weights" / "best.pt")  # a stock one
    graphs = [onnx.load(report.folder / report.files[1].path).graph for report in (whole, resumed)]
    operators = Counter(node.op_type for node in graphs[0].node)
    assert operators["QuantizeLinear"] == operators["DequantizeLinear"] > operators["Conv"]
    assert graphs[0].SerializeToString() == graphs[1].SerializeToString()
    found = YOLO(whole.folder / int8.path, task="segment").val(
        data=str(shapes), imgsz=64, batch=1, rect=False, workers=0, plots=False, device="cpu"
    )
    assert (found.box.map, found.seg.map) == (int8.map50_95["box"], int8.map50_95["mask"])


@with_modelopt
def test_an_opset_without_ranges_by_channel_is_refused(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    given = {"train.epochs": 0, "fine_tune.quantize": 8, "export.opset": 12}
    with pytest.raises(ExportError, match="int8 takes an opset of 13 or later, got 12; change"):
        DefaultYolov8SegPruner(checkpoint, **settings(tmp_path, shapes, **given)).run()
    assert not (tmp_path / "run").exists()


def test_without_the_package_the_run_does_not_begin(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(quantized, "MODELOPT_REQUIREMENTS", ["nvidia-modelopt>=9999", "huggingface_hub"])
    monkeypatch.setattr(torch_utils, "prepare_qat", None)  # Ultralytics would install it
    project = tmp_path / "runs"
    words = [*plain(checkpoint, shapes), "fine_tune.epochs=1", "fine_tune.quantize=8", "--project", str(project)]
    assert main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and "fine_tune.quantize: expected the package nvidia-modelopt, which can't be used" in said[0]
    assert "pip install 'nvidia-modelopt>=" in said[0] and "or set export.quantize=8 instead" in said[0]
    assert not project.exists()


def test_what_can_not_be_quantised_is_refused(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    for key, value, said in (
        ("fine_tune.quantize", 16, "fine_tune.quantize: expected 8, .*got 16"),
        ("fine_tune.quantize", "w8a16", "fine_tune.quantize: expected 8, .*got 'w8a16'"),
        ("fine_tune.quantize", "foo", "fine_tune.quantize: expected 8, .*got 'foo'"),
        ("train.quantize", 8, "train.quantize: expected null, .*set fine_tune.quantize=8"),
        ("quantize", 8, "train.quantize: expected null, .*set fine_tune.quantize=8"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(None, {key: value})
    load_config(None, {"quantize": None})
    for key, value in (("epochs", 0), ("compile", True)):
        given = settings(tmp_path, shapes, **{"train.epochs": 0, "fine_tune.quantize": 8, f"fine_tune.{key}": value})
        with pytest.raises(ConfigError, match=f"fine_tune.{key}: expected .* with fine_tune.quantize"):
            DefaultYolov8SegPruner(checkpoint, **given).run()
    with pytest.raises(ConfigError, match=r"fine_tune\.quantize: not a setting of a comparison"):
        compare(checkpoint, shapes, targets="params=0.9", **{"fine_tune.quantize": 8})
