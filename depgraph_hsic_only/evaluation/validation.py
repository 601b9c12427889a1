"""What a model is worth: mAP by Ultralytics' validator."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from ultralytics import YOLO

from depgraph_hsic_only.evaluation.bootstrap import Matches
from depgraph_hsic_only.support.progress import begin_work, end_work, work_done
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.load import as_loaded, bare_network
from depgraph_hsic_only.yolo.logs import heard
from depgraph_hsic_only.yolo.patches import any_prototypes, patient_nms
from depgraph_hsic_only.yolo.tasks import TASKS, Task, task_of
from depgraph_hsic_only.yolo.types import Yolo

_FIGURES: Final = {"box": "box", "mask": "seg", "pose": "pose"}  # Ultralytics' name by kind of prediction
_LABEL = "validating"


@dataclass(frozen=True)
class Validation:
    """The arguments that a mAP depends on: `YOLO(weights).val(data=..., **these)` gives the same figures.

    Attributes:
        imgsz: Side of the input image, pixels.
        batch: Images per batch; rectangular batches make mAP depend on it.
        rect: Whether batches are rectangular.
        split: Split of the data set.
        single_cls: Whether all objects count as one class.
        nms: Which branches of an end-to-end head, such as YOLO26's, are measured: None for the one-to-many ones with
            NMS, Ultralytics' own default, False for the one-to-one ones without; no other head has these.
    """

    imgsz: int
    batch: int
    rect: bool = True
    split: str = "val"
    single_cls: bool = False
    nms: bool | None = None

    def __str__(self) -> str:
        found = f"imgsz={self.imgsz}, batch={self.batch}, rect={self.rect}, {self.split}"
        return found + ", single_cls" * self.single_cls + ", nms=False" * (self.nms is False)


@dataclass(frozen=True)
class Accuracy:
    """Mean average precision of one kind of prediction, in [0, 1].

    Attributes:
        map50: At an IoU of 0.5.
        map50_95: Averaged over IoUs of 0.5 to 0.95.
    """

    map50: float
    map50_95: float


@dataclass(frozen=True)
class ClassMetrics:
    """Validation figures of one class."""

    name: str
    instances: int  # number of its objects in the validation split, at least 1
    map50_95: Mapping[str, float]  # AP averaged over IoUs of 0.5 to 0.95, by kind of prediction
    index: int | None = None  # number of the class, from 0; None where an older version measured it


@dataclass(frozen=True)
class Metrics:
    """Validation figures of a model, whose task says of which kinds of prediction (see `tasks.Task`).

    They are not `complete` where on a busy or slow machine Ultralytics' NMS ran out of time and left the rest of a
    batch without detections, so that the figures are too low.
    """

    metrics: Mapping[str, Accuracy]  # by kind, the primary one last; `found["mask"]` is `found.metrics["mask"]`
    complete: bool = True
    classes: tuple[ClassMetrics, ...] = ()  # of each class that has objects in the split, in the order of the classes
    resampled: tuple[float, ...] = ()  # mAP50-95 of the primary kind on samples of the images (see `bootstrap.py`)

    def __getitem__(self, kind: str) -> Accuracy:
        return self.metrics[kind]

    @property
    def primary(self) -> Accuracy:
        """That of the kind that counts most: its mAP50-95 chooses checkpoints, sizes and criteria."""
        return list(self.metrics.values())[-1]

    @property
    def map50_95(self) -> dict[str, float]:
        """mAP50-95 by kind of prediction."""
        return {kind: accuracy.map50_95 for kind, accuracy in self.metrics.items()}

    def __str__(self) -> str:
        return f"mAP50-95 {', '.join(f'{kind} {value:.4f}' for kind, value in self.map50_95.items())}"


def validate_model(
    model: Yolo, data: str, validation: Validation, *, device: Any, workers: int, draws: int = 0
) -> Metrics:
    """mAP of a live `YOLO`, as of the file that it saves a fresh `YOLO(weights).val()` measures it.

    The primary mAP50-95 is measured on so many `draws` of samples of the images, too (see `bootstrap.py`).
    """
    arguments = {"data": data, "device": device, "workers": workers, "plots": False, "verbose": False}
    task = task_of(bare_network(model))
    fresh, matches = as_loaded(model), Matches(task.primary)
    fresh.add_callback("on_val_batch_end", matches)
    found, metrics = _validated(fresh, task, **arguments, **asdict(validation))
    kinds = _by_kind(found, task)
    return replace(
        metrics,
        classes=tuple(
            ClassMetrics(
                found.names[k], int(found.nt_per_class[k]), {kind: float(of.maps[k]) for kind, of in kinds.items()}, k
            )
            for k in map(int, found.ap_class_index)
        ),
        resampled=tuple(matches.bootstrap(draws)),
    )


def validate_file(
    path: Path, data: str, shape: InputShape, task: str, *, single_cls: bool = False, draws: int = 0
) -> Metrics:
    """mAP of a file of any format that Ultralytics runs, as `YOLO(path).val()` measures it on the CPU.

    It is given batches of the `shape`, which an exported file takes; the `task` is what its model is for, by name. The
    primary mAP50-95 is measured on so many `draws` of samples of the images, too, the same ones as of a model in
    rectangular batches.
    """
    arguments = {"data": data, "device": "cpu", "workers": 0, "plots": False, "verbose": False}
    arguments |= {"rect": False, "single_cls": single_cls, "imgsz": max(shape.size), "batch": shape.batch}
    yolo, matches, order = YOLO(str(path), task=task), Matches(TASKS[task].primary), np.zeros(0, dtype=int)

    def see(validator: Any) -> None:
        nonlocal order
        order = rectangular_order(validator.dataloader.dataset.labels)

    yolo.add_callback("on_val_start", see)
    yolo.add_callback("on_val_batch_end", matches)
    metrics = _validated(yolo, TASKS[task], **arguments)[1]
    return replace(metrics, resampled=tuple(matches.taken(order).bootstrap(draws)))


def rectangular_order(labels: Sequence[Mapping[str, Any]]) -> NDArray[np.int_]:
    """The order in which Ultralytics takes images, by their labels, for rectangular batches."""
    height, width = np.array([label["shape"] for label in labels]).T
    return np.argsort(height / width)


def _validated(yolo: Any, task: Task, **arguments: Any) -> tuple[Any, Metrics]:
    """What Ultralytics' validator finds, and the mAPs in it."""
    warned: list[str] = []
    for event, function in _PROGRESS:
        yolo.add_callback(event, function)
    with (
        tempfile.TemporaryDirectory() as folder,  # for the one that it makes
        patient_nms(),
        any_prototypes(),
        heard(warned.append, logging.WARNING),
    ):
        found = yolo.val(project=folder, **arguments)
    complete = not any("NMS time limit" in line for line in warned)  # all that Ultralytics does about it
    return found, Metrics(_accuracies(found, task), complete)


def _accuracies(found: Any, task: Task) -> dict[str, Accuracy]:
    return {kind: Accuracy(float(of.map50), float(of.map)) for kind, of in _by_kind(found, task).items()}


def _by_kind(found: Any, task: Task) -> dict[str, Any]:
    """Ultralytics' figures by kind of prediction."""
    return {kind: getattr(found, _FIGURES[kind]) for kind in task.kinds}


_PROGRESS = (  # callbacks by event that show how far a validation is
    ("on_val_start", lambda validator: begin_work(_LABEL, len(validator.dataloader))),
    ("on_val_batch_end", lambda _: work_done(_LABEL, 1)),
    ("on_val_end", lambda _: end_work(_LABEL)),
)
