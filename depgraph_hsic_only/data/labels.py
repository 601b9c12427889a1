"""Labels, checked before anything is written: such as Ultralytics can use for a task, no cache that runs code."""

import io
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from ultralytics.data.utils import img2label_paths, verify_image_label

from depgraph_hsic_only.data.images import is_readable, is_taken
from depgraph_hsic_only.errors import DataError, one_line
from depgraph_hsic_only.yolo.tasks import Task

_ARRAYS = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
_NAMED = 3  # files that a message names
_BLANK = cv2.imencode(".png", np.zeros((10, 10), np.uint8))[1].tobytes()  # for Ultralytics to look at labels alone
_SAID = "ignoring corrupt image/label: "  # what Ultralytics says before a fault
_ROWS: Final = {  # of label files, by task
    "segment": "class x1 y1 x2 y2 x3 y3 ...",
    "detect": "class x y width height",
    "pose": "class x y width height x1 y1 ...",
    "obb": "class x1 y1 x2 y2 x3 y3 x4 y4",
}
_OUTLINED = ("segment", "obb")  # tasks whose objects have no plain boxes


def label_files(images: Sequence[Path]) -> list[Path]:
    """Where Ultralytics looks for the labels of each image."""
    return [Path(label) for label in img2label_paths([str(image) for image in images])]


def keypoint_shape(keys: Mapping[str, Any]) -> tuple[int, int] | None:
    """Number of keypoints of a data set's objects, and numbers of each: 2, or 3 with its visibility; None for none."""
    shape = keys.get("kpt_shape")
    return None if shape is None else (int(shape[0]), int(shape[1]))


def check_keypoints(keys: Mapping[str, Any], name: str, task: Task) -> None:
    """Refuse a data set whose `kpt_shape` or `flip_idx` Ultralytics can't use for a task, by a `DataError`."""
    shape, flip, poses = keys.get("kpt_shape"), keys.get("flip_idx"), task.name == "pose"
    if shape is None and not poses:
        return
    pair = isinstance(shape, list) and len(shape) == 2 and all(type(item) is int for item in shape)
    count, numbers = shape if pair and shape else (0, 0)
    if shape is None:
        raise DataError(
            f"{name}: expected keypoints, as the model is for poses, got a data set without kpt_shape; pass one with "
            "keypoints, or a model for what is labelled"
        )
    if count < 1 or numbers not in (2, 3):
        raise DataError(
            f"{name}: expected kpt_shape to be the number of keypoints, and 2 for x and y or 3 with the visibility, "
            f"such as [17, 3], got {shape!r}; set it in the data set's YAML"
        )
    if poses and flip and (len(flip) != count or not set(flip) <= set(range(count))):
        raise DataError(
            f"{name}: expected flip_idx to have one of 0 to {count - 1} for each of {count} keypoints (kpt_shape), "
            f"got {flip!r}; correct it, or leave it out to train without flips"
        )


def check_labels(
    images: Sequence[Path], classes: int, name: str, split: str, task: Task, keypoints: tuple[int, int] | None = None
) -> list[Path]:
    """Refuse a split that Ultralytics would not train on, and warn of images that it leaves out.

    All label files are read, by Ultralytics' own rules, and of the images no more than these ask for.

    Args:
        images: Image files of the split.
        classes: Number of classes.
        name: Of the data set, for messages.
        split: What the split is, for messages.
        task: What is to be trained.
        keypoints: Of the data set (see `keypoint_shape`).

    Returns:
        The images that it does not leave out.

    Raises:
        DataError: There is no usable label, some images have boxes only where the task's are other ones, or a label
            cache would run code.
    """
    expected = f"{name}: expected images with {task.label} in {split}"
    if not images:
        raise DataError(f"{expected}, got no images; check the path in the data set's YAML")
    labels = label_files(images)
    if not labels[0].parent.name:  # by which Ultralytics names its label cache
        raise DataError(f"{expected}, got {images[0]}, which is in no folder; put a folder before the names of images")
    for cache in {label.parent.with_suffix(".cache") for label in labels if label.parent.name}:
        if (code := code_in_cache(cache)) is not None:
            raise DataError(f"{cache}: expected a label cache of Ultralytics, got one that would run {code}; remove it")
    taken, labelled, boxed, faults = [], [], [], []
    for image, label in zip(images, labels, strict=True):
        found = _read(image, label, classes, task, keypoints)
        if found.fault is not None:
            faults.append(found.fault)
            continue
        taken.append(image)
        if found.boxes_only and task.name in _OUTLINED:
            boxed.append(label)
        elif found.usable:
            labelled.append(image)
    if boxed:
        named = ", ".join([*map(str, boxed[:_NAMED]), *["..."] * (len(boxed) > _NAMED)])
        remedy = f"label {task.label} there ({_ROWS[task.name]})"
        other = (
            "leave these images out"
            if labelled
            else "pass a model to detect, such as yolov8n.pt (in Python task='detect')"
        )
        raise DataError(
            f"{expected}, got boxes only in {len(boxed)} of {len(images)} label files ({named}); {remedy}, or {other}"
        )
    if not any(map(is_readable, labelled)):
        if faults or labelled:
            first = faults[0] if faults else f"{labelled[0]}: it is no readable image"
            raise DataError(f"{expected}, got none that can be used (first {first}); mend the labels or images")
        raise DataError(
            f"{expected}, got {len(images)} images without labels of any area; put {task.label} ({_ROWS[task.name]}) "
            "into a 'labels' folder beside 'images'"
        )
    if faults:
        warnings.warn(
            f"{name}: Ultralytics leaves out {len(faults)} of {len(images)} images in {split} (first {faults[0]}); "
            "mend these to train on them",
            UserWarning,
            stacklevel=3,
        )
    return taken


@dataclass(frozen=True)
class _Found:
    """What Ultralytics makes of an image's labels."""

    fault: str | None = None  # for which it leaves the image out
    boxes_only: bool = False  # which it does not take among polygons
    usable: bool = False  # whether there is an object of some width and height: others are no targets


def _read(image: Path, label: Path, classes: int, task: Task, keypoints: tuple[int, int] | None) -> _Found:
    if not image.is_file():
        return _Found(f"{image}: there is no such image")
    if not is_taken(image):
        return _Found(f"{image}: it is no readable image")
    _, rows, _, polygons, *_, corrupt, message = verify_image_label(
        (io.BytesIO(_BLANK), str(label), "", task.name == "pose", classes, *(keypoints or (0, 0)), False)
    )
    if corrupt:
        return _Found(f"{label}: {one_line(message.partition(_SAID)[2] or message, 120)}")
    return _Found(None, len(rows) > 0 and not polygons, bool((rows[:, 3:5] > 0).all(1).any()))


class _CodeError(pickle.UnpicklingError):
    """A pickle names something that is no plain data."""


class _Plain(pickle.Unpickler):
    """Reads arrays and Python's plain values."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise _CodeError(f"{module}.{name}")
        return super().find_class(module, name)


def code_in_cache(path: Path) -> str | None:
    """What a label cache would run in Ultralytics' reader, `numpy.load` with pickles: the first function of no array.

    None where there is none, or where the reader can't read the file either, and scans the labels anew.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                version = file.read(2)
                size = int.from_bytes(file.read(2 if version[0] == 1 else 4), "little")
                file.seek(size, os.SEEK_CUR)
            else:
                file.seek(0)  # it reads a bare pickle too
            _Plain(file).load()
    except _CodeError as error:
        return str(error)
    except Exception:  # a damaged pickle raises anything
        return None
    return None
