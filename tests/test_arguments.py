"""Every argument of Ultralytics: passed on, handled here, or refused with a reason; a new one has to be decided."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_bad_input import plain
from ultralytics.cfg import get_cfg
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import PoseModel
from ultralytics.utils import DEFAULT_CFG_DICT

from depgraph_hsic_only import ConfigError, load_model
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.support.refusals import refusal
from depgraph_hsic_only.training import settle
from depgraph_hsic_only.training.arguments import REFUSED, check_training
from depgraph_hsic_only.training.callbacks import Callbacks
from depgraph_hsic_only.training.recipe import Start, continued
from depgraph_hsic_only.training.settle import images_used, start_of
from depgraph_hsic_only.training.train import train_model
from depgraph_hsic_only.workflow.config import load_config
from depgraph_hsic_only.workflow.config_checks import _EXPORT_KEYS

HANDLED = {  # by what, beside being passed on
    "epochs": "0 leaves the training out; the recipe counts them",
    "batch": "AutoBatch is settled before the recipe",
    "time": "the recipe counts one epoch, the display hours",
    "fraction": "the recipe counts the images that are used",
    "classes": "checked against the data set, and said in the notes",
    "freeze": "refused where nothing is left to train",
    "amp": "bf16 is refused where the device can't do it",
    "device": "checked at the start",
    "val": "epochs that were not validated have no mAP",
    "distill_model": "a teacher of the user's own, loaded at the start",
    "optimizer": "its name is checked at the start",
    "copy_paste_mode": "checked at the start",
    "cache": "checked at the start",
    "workers": "checked at the start",
    "seed": "checked at the start",
    "imgsz": "the run's where it is not set",
    "quantize": "of the fine-tuning alone: a training of its own, for an int8 file",
    **dict.fromkeys(("pose", "kobj", "rle"), "refused where the model is for no poses"),
    "angle": "refused where the model is for no rotated boxes",
}
PASSED: dict[str, Any] = {  # to Ultralytics' trainer, with a value other than the default
    **{"patience": 7, "verbose": False, "deterministic": False, "single_cls": True, "rect": True, "cos_lr": True},
    **{"close_mosaic": 1, "profile": True, "multi_scale": 0.5, "compile": False, "channels_last": False},
    **{"overlap_mask": False, "mask_ratio": 2, "conf": 0.01, "iou": 0.6, "max_det": 50, "plots": False},
    **{"agnostic_nms": True, "save_txt": True, "save_conf": True, "save_json": True, "visualize": True},
    **{"show_labels": False, "show_conf": False, "save_period": 1, "cls_remap": False, "cls_pw": 0.5},
    **{"lr0": 0.002, "lrf": 0.1, "momentum": 0.9, "weight_decay": 0.001, "warmup_epochs": 1.0},
    **{"warmup_momentum": 0.7, "warmup_bias_lr": 0.05, "dis": 5.0, "box": 7.0, "cls": 0.6, "dfl": 1.4, "nbs": 8},
    **{"hsv_h": 0.02, "hsv_s": 0.6, "hsv_v": 0.3, "degrees": 5.0, "translate": 0.2, "scale": 0.4, "shear": 1.0},
    **{"perspective": 0.0005, "flipud": 0.1, "fliplr": 0.4, "bgr": 0.1, "mosaic": 0.5, "mixup": 0.1, "cutmix": 0.1},
    **{"copy_paste": 0.1},
}
BREAKING = {  # values that Ultralytics finds out late, or passes over in silence
    "batch": [0, -3, 1.5, 16.0, True],
    "time": [-1, 0],
    "optimizer": ["foo"],
    "copy_paste_mode": ["foo"],
    "cache": ["foo"],
    "freeze": [-1, "foo", 3.5],
    "classes": ["a", [0, "b"], 1.5, []],
    "workers": [-1],
    "seed": [2**33],
    "device": [1.5],
}


def test_every_argument_of_ultralytics_is_decided() -> None:
    verdicts = [set(PASSED), set(HANDLED), set(REFUSED)]
    assert set().union(*verdicts) == set(DEFAULT_CFG_DICT) and sum(map(len, verdicts)) == len(DEFAULT_CFG_DICT)
    assert set(DEFAULT_CFG_DICT) >= set(_EXPORT_KEYS)
    assert not [key for key, value in PASSED.items() if value == DEFAULT_CFG_DICT[key] and key not in ("compile",)]
    for key in REFUSED:
        with pytest.raises(ConfigError, match=f"fine_tune.{key}: not a setting here; .{{9}}"):
            load_config(None, {f"fine_tune.{key}": DEFAULT_CFG_DICT[key]})
    load_config(None, {f"fine_tune.{key}": value for key, value in PASSED.items()})


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BREAKING.items() for value in values])
def test_values_that_would_break_a_training_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"train.{key}: expected"):
        load_config(None, {f"train.{key}": value})


def test_what_is_passed_on_reaches_ultralytics(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    given = {**PASSED, "epochs": 1, "batch": 8, "imgsz": 64, "workers": 0, "device": "cpu", "data": str(shapes)}
    train_model(
        load_model(checkpoint),
        tmp_path / "run",
        given,
        Callbacks(),
        dataset=find_dataset(shapes),
        scratch=tmp_path / "scratch",
    )
    found = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    assert {key: found[key] for key in PASSED} == PASSED


def test_what_a_network_a_data_set_or_a_device_can_not_do_is_refused_at_the_start(checkpoint: Path) -> None:
    network = load_model(checkpoint).model
    for settings, said in (
        ({"freeze": 23}, "freeze: expected a layer that is left"),
        ({"freeze": list(range(23))}, "freeze: expected a layer that is left"),
        ({"classes": [0, 5]}, "classes: expected classes of the data set, 0 to 4, got 5"),
        ({"amp": "bf16", "device": "cpu"}, "amp: bfloat16"),
        ({"device": "foo"}, "device: expected one that this machine has"),
        ({"pose": 9.0}, "train.pose: only trainings of models for pose read it"),
        ({"angle": 2.0}, "train.angle: only trainings of models for oriented detection read it"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_training("train", {"epochs": 1, **settings}, network, 5, "cpu")
        check_training("train", {"epochs": 0, **settings}, network, 5, "cpu")
    check_training("train", {"epochs": 1, "freeze": 10, "classes": 4, "batch": -1}, network, 5, "cpu")
    poses = PoseModel("yolov8n-pose.yaml", verbose=False)
    check_training("train", {"epochs": 1, "pose": 9.0}, poses, 1, "cpu")
    with pytest.raises(ConfigError, match="mask_ratio: only trainings of models for segmentation read it"):
        check_training("train", {"epochs": 1, "mask_ratio": 2}, poses, 1, "cpu")


def test_the_recipe_goes_by_the_batch_that_is_used(checkpoint: Path, shapes: Path, monkeypatch: Any) -> None:
    """A stand-in finds 9 images for a GPU; on a CPU it is Ultralytics' default."""
    model, data, common = load_model(checkpoint), find_dataset(shapes), {"imgsz": 64, "device": "cpu", "batch": 16}
    settled, notes = settle.settle({"batch": -1}, common, model, data)
    assert settled["batch"] == 16 and notes == ["AutoBatch: batch=16 in place of batch=-1"]
    asked: dict[str, Any] = {}
    monkeypatch.setattr(settle, "check_train_batch_size", lambda network, **given: asked.update(given) or 9)
    settled, _ = settle.settle({"batch": 0.7, "multi_scale": 0.5, "epochs": 2}, common, model, data)
    assert settled["batch"] == 9 and asked["batch"] == 0.7 and asked["imgsz"] == 96 and asked["dataset_size"] == 16
    found = continued(start_of(settled, 16, data, None, classes=5))
    assert found["batch"] == found["nbs"] == 9 and found["lr0"] == 3e-5  # 2e-5 for batches of 4, by the square root
    assert continued(start_of({"epochs": 2}, 16, data, None, classes=5))["batch"] == 4


def test_images_and_epochs_are_counted_as_they_are_used(shapes: Path) -> None:
    data = find_dataset(shapes)
    shares = {0.5: 8, 1.0: 16, 3: 3, 99: 16, 0.001: 1}
    assert {share: images_used({"fraction": share}, data) for share in shares} == shares
    assert images_used({"fraction": [0.25, 0.5]}, data) == 4
    assert start_of({"epochs": 100, "time": 0.01}, 16, data, None, classes=5) == Start(16, 16, 1, classes=5)


def raised(call: Any) -> BaseException:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def test_what_ultralytics_refuses_is_told_from_our_faults(checkpoint: Path) -> None:
    import torch

    trainer = BaseTrainer.__new__(BaseTrainer)
    trainer.callbacks = {"on_train_start": [lambda _: [].pop()]}
    network = load_model(checkpoint).model
    assert "lr0=7" in (refusal(raised(lambda: get_cfg(overrides={"lr0": 7}))) or "")
    assert refusal(raised(lambda: network(torch.rand(1, 5, 64, 64)))) is None  # in torch, called by Ultralytics
    assert refusal(raised(lambda: trainer.run_callbacks("on_train_start"))) is None  # the callback's own
    assert refusal(raised(lambda: load_config(None, {"seed": -1}))) is None


def test_a_refusal_in_a_run_is_one_line_with_the_stage(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("an argument that is found out late")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DetectionTrainer, "set_model_attributes", refuse)
    words = [*plain(checkpoint, shapes), "train.epochs=1", "--project", str(tmp_path)]
    assert main([*words, "--name", "run"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and "error: training: Ultralytics says ValueError: an argument that is" in said[0]
    assert "Traceback" in (tmp_path / "run" / "run.log").read_text()
