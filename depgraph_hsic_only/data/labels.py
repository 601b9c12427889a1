"""Labels, checked before anything is written: at least one polygon that can be used, and no cache that runs code."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultralytics.data.utils import img2label_paths

from depgraph_hsic_only.data.images import is_readable
from depgraph_hsic_only.errors import DataError

_ARRAYS = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


def label_files(images: Sequence[Path]) -> list[Path]:
    """Where Ultralytics looks for the labels of each image."""
    return [Path(label) for label in img2label_paths([str(image) for image in images])]


def check_labels(images: Sequence[Path], classes: int, expected: str) -> None:
    """Refuse a split without images or without a polygon that can be used; reading stops at the first one.

    What was `expected` of which split begins the error.

    Raises:
        DataError: There is no usable polygon, or a label cache that would run code.
    """
    if not images:
        raise DataError(f"{expected}, got no images; check the path in the data set's YAML")
    labels = label_files(images)
    for cache in {label.parent.with_suffix(".cache") for label in labels}:
        if (code := code_in_cache(cache)) is not None:
            raise DataError(f"{cache}: expected a label cache of Ultralytics, got one that would run {code}; remove it")
    boxes, fault = 0, None
    for image, label in zip(images, labels, strict=True):
        for line in label.read_text(encoding="utf-8", errors="replace").splitlines() if label.is_file() else ():
            columns = line.split()
            boxes += 0 < len(columns) < 7
            if len(columns) >= 7:
                found = _label_fault(columns, classes)
                if found is None and is_readable(image):
                    return
                fault = fault or (f"{label}: {found}" if found else f"{image}: it is no readable image")
    if fault is not None:
        raise DataError(f"{expected}, got none that can be used (first {fault}); mend the labels or images")
    if boxes:
        raise DataError(f"{expected}, got boxes only ({boxes} lines); label outlines: class x1 y1 x2 y2 x3 y3 ...")
    raise DataError(
        f"{expected}, got {len(images)} images without labels; put them into a 'labels' folder beside 'images'"
    )


def _label_fault(columns: Sequence[str], classes: int) -> str | None:
    """What is wrong with a polygon's line, if anything."""
    try:
        cls, *points = map(float, columns)
    except ValueError:
        return f"expected numbers, got {' '.join(columns)[:40]!r}"
    if cls not in range(classes):
        return f"expected a class from 0 to {classes - 1}, got {columns[0]}"
    if len(points) % 2 or not all(0 <= point <= 1 for point in points):
        return "expected pairs of coordinates in [0, 1]"
    return None


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
