"""Labels, checked before anything is written: at least one polygon that can be used, and no cache that runs code."""

from collections.abc import Sequence
from pathlib import Path

from ultralytics.data.utils import img2label_paths

from depgraph_hsic_only.data.images import is_readable
from depgraph_hsic_only.data.label_cache import code_in_cache
from depgraph_hsic_only.errors import DataError


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
