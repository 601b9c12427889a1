"""Fixtures: small true models, the real checkpoint and images where they are at hand."""

import copy
import functools
import os

os.environ["YOLO_AUTOINSTALL"] = "false"  # before ultralytics is imported: what is missing must fail, not be fetched
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is: two processes run the tests
import depgraph_hsic_only  # noqa: F401  # reads that before Ultralytics sets it

# isort: split

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import SegmentationModel

from depgraph_hsic_only import load_model
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.yolo.tasks import TASKS

SHARED = Path(__file__).parents[1].parent / "shared"
WEIGHTS = SHARED / "weights" / "yolov8n-seg.pt"
COCO_MINI = SHARED / "data" / "coco-mini" / "data.yaml"


@pytest.fixture
def real_weights() -> Path:
    """The COCO-pretrained YOLOv8n-seg."""
    if not WEIGHTS.exists():
        pytest.skip(f"no pretrained checkpoint at {WEIGHTS}")
    return WEIGHTS


@pytest.fixture
def real_yolo(real_weights: Path) -> Any:
    """The COCO-pretrained YOLOv8n-seg, loaded afresh."""
    return load_model(real_weights)


def every(few: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
    """Arguments of a test for `parametrize`: the `few` are in the default tests, the rest in the slow ones."""
    return [*few, *(pytest.param(*(a if isinstance(a, tuple) else (a,)), marks=pytest.mark.slow) for a in rest)]


def build(scale: str = "n", nc: int = 80, *, transferred: bool = False) -> Any:
    """A SegmentationModel with random weights whose signals neither vanish nor explode with depth."""
    return copy.deepcopy(_built(scale, nc, transferred))


@functools.lru_cache(maxsize=8)
def _built(scale: str, nc: int, transferred: bool) -> Any:
    torch.manual_seed(0)
    model = enliven(SegmentationModel(f"yolov8{scale}-seg.yaml", nc=80 if transferred else nc, verbose=False))
    if transferred:
        source, model = model, SegmentationModel(f"yolov8{scale}-seg.yaml", nc=nc, verbose=False)
        model.load(source, verbose=False)
    return model.eval()


def enliven(model: Any) -> Any:
    """Random weights of BatchNorm and residual scales, and the statistics of a batch: signals that reach the end."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.2, 0.2)
            m.momentum = 1.0  # take the statistics of the next batch
        if isinstance(getattr(m, "gamma", None), nn.Parameter):
            nn.init.uniform_(m.gamma, 0.5, 1.5)
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 128, 128))
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.03
    return model


def outputs(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Predictions and prototypes in evaluation mode."""
    with torch.no_grad():
        return list(model.eval()(image)[0])


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: Any) -> Path:
    return shapes_dataset(tmp_path_factory.mktemp("shapes") / "set", train=16, val=6, imgsz=64)


def save_untrained(task: str, path: Path, kpt_shape: tuple[int, int] = (4, 3), name: str = "") -> Path:
    """A checkpoint of a model for a task, YOLOv8n's or that of a `name`, with the shapes' classes and keypoints."""
    name = f"{name or 'yolov8n' + TASKS[task].suffix}.yaml"
    yolo = YOLO(name)
    own: dict[str, Any] = {"data_kpt_shape": kpt_shape} if task == "pose" else {}
    yolo.model = type(yolo.model)(name, nc=5, verbose=False, **own)
    yolo.model.args, yolo.model.task = {"imgsz": 64, "task": task}, task
    yolo.model.names = dict(enumerate(["circle", "square", "triangle", "star", "cross"]))
    yolo.ckpt = {"train_args": {"imgsz": 64, "task": task}}
    yolo.save(path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: Any) -> Path:
    """A 5-class checkpoint whose names are those of the shapes."""
    return save_untrained("segment", tmp_path_factory.mktemp("checkpoint") / "five.pt")
