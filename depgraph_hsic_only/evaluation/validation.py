"""What a model is worth: mAP by Ultralytics' validator."""

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from depgraph_hsic_only.evaluation.bootstrap import Matches
from depgraph_hsic_only.support.progress import current
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.patches import patient_nms

_LABEL = "validating"


@dataclass(frozen=True)
class Validation:
    """The arguments that a mAP depends on: `YOLO(weights).val(data=..., **these)` gives the same figures.

    Attributes:
        imgsz: Side of the input image, pixels.
        batch: Images per batch; rectangular batches make mAP depend on it.
        rect: Whether batches are rectangular.
        split: Split of the data set.
    """

    imgsz: int
    batch: int
    rect: bool = True
    split: str = "val"


@dataclass(frozen=True)
class ClassMetrics:
    """Validation figures of one class.

    Attributes:
        name: Name of the class.
        instances: Number of its objects in the validation split, at least 1.
        map50_95_box: Box AP averaged over IoU 0.5 to 0.95, in [0, 1].
        map50_95_mask: Mask AP averaged over IoU 0.5 to 0.95, in [0, 1].
    """

    name: str
    instances: int
    map50_95_box: float
    map50_95_mask: float


@dataclass(frozen=True)
class Metrics:
    """Validation figures, each in [0, 1].

    Attributes:
        map50_box: Box mAP at IoU 0.5.
        map50_95_box: Box mAP averaged over IoU 0.5 to 0.95.
        map50_mask: Mask mAP at IoU 0.5.
        map50_95_mask: Mask mAP averaged over IoU 0.5 to 0.95.
        complete: Whether every image was counted: on a busy or slow machine Ultralytics' NMS runs out of time and
            leaves the rest of a batch without detections, so that the figures are too low.
        classes: The figures of each class that has objects in the split, in the order of the classes.
        resampled_mask: `map50_95_mask` on samples of the images (see `bootstrap.py`).
    """

    map50_box: float
    map50_95_box: float
    map50_mask: float
    map50_95_mask: float
    complete: bool = True
    classes: tuple[ClassMetrics, ...] = ()
    resampled_mask: tuple[float, ...] = ()


def validate_model(
    model: Any,
    data: str,
    validation: Validation,
    *,
    device: Any,
    workers: int,
    draws: int = 0,
) -> Metrics:
    """mAP of a live `YOLO`, from the file it saves, as a fresh `YOLO(weights).val()` measures it.

    Args:
        model: A segmentation model.
        data: Path or name of the data set.
        validation: What the figures depend on.
        device: As Ultralytics takes it.
        workers: Data loading processes.
        draws: On how many samples of the images the mask mAP is measured too (see `bootstrap.py`).
    """
    arguments = {"data": data, "device": device, "workers": workers, "plots": False, "verbose": False}
    matches = Matches()
    with tempfile.TemporaryDirectory() as folder, patient_nms(), _NmsTimeouts() as timeouts:
        weights = Path(folder) / "model.pt"
        model.save(weights)
        fresh = load_model(weights)
        for event, function in (*_PROGRESS, ("on_val_batch_end", matches)):
            fresh.add_callback(event, function)
        found = fresh.val(project=folder, **arguments, **asdict(validation))  # it makes a folder
    box, mask = found.box, found.seg
    return Metrics(
        float(box.map50),
        float(box.map),
        float(mask.map50),
        float(mask.map),
        complete=not timeouts.seen,
        classes=tuple(
            ClassMetrics(found.names[k], int(found.nt_per_class[k]), float(box.maps[k]), float(mask.maps[k]))
            for k in map(int, found.ap_class_index)
        ),
        resampled_mask=tuple(matches.bootstrap(draws)),
    )


class _NmsTimeouts(logging.Handler):
    """Listens for Ultralytics' warning that NMS ran out of time, which is all that it does about it."""

    seen = False

    def emit(self, record: logging.LogRecord) -> None:
        self.seen |= "NMS time limit" in record.getMessage()

    def __enter__(self) -> "_NmsTimeouts":
        LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self)


def _validation_begins(validator: Any) -> None:
    if (display := current()) is not None:
        display.begin(_LABEL, len(validator.dataloader))


def _images_done(_: Any) -> None:
    if (display := current()) is not None:
        display.step(_LABEL, 1)


def _validation_ends(_: Any) -> None:
    if (display := current()) is not None:
        display.end(_LABEL)


# Callbacks by event that show how far a validation is.
_PROGRESS = (
    ("on_val_start", _validation_begins),
    ("on_val_batch_end", _images_done),
    ("on_val_end", _validation_ends),
)
