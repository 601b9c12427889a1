"""The data set of a run: found, checked before anything is written, and read as labelled batches."""

import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ultralytics.cfg import get_cfg
from ultralytics.data import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths

from depgraph_hsic_only.data.images import is_readable
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.errors import DataError, one_line
from depgraph_hsic_only.yolo.safe_load import code_in_cache

SHAPES = "shapes"


@dataclass(frozen=True)
class Dataset:
    """An instance-segmentation data set in Ultralytics' format.

    Attributes:
        source: What Ultralytics takes as `data`: a name or a path; None where the keys were given themselves.
        keys: The resolved data set: absolute `train` and `val`, `names`, `nc`.
    """

    source: str | None
    keys: Mapping[str, Any]

    @property
    def names(self) -> dict[int, str]:
        """Class names by index."""
        return dict(self.keys["names"])

    def images(self, split: str) -> list[Path]:
        """Image files of a split, "train" or "val", sorted."""
        return image_files(self.keys[split])

    def digest(self) -> str:
        """A digest of the class names, the names and sizes of all images, and the content of their labels.

        It is the same wherever the data set lies.
        """
        digest = hashlib.sha256(repr(sorted(self.names.items())).encode())
        for split in ("train", "val"):
            images = self.images(split)
            labels = [Path(label) for label in img2label_paths([str(image) for image in images])]
            for image, label in sorted(zip(images, labels, strict=True), key=lambda pair: pair[0].name):
                size = image.stat().st_size if image.is_file() else None
                digest.update(f"{split}/{image.name}/{size}".encode())
                digest.update(label.read_bytes() if label.is_file() else b"none")
        return digest.hexdigest()

    def file(self, folder: Path) -> str:
        """What Ultralytics takes as `data`; keys that were given themselves are written to `folder`/data.yaml."""
        if self.source is not None:
            return self.source
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in self.keys.items()}
        (folder / "data.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return str(folder / "data.yaml")


def same_classes(a: Mapping[int, str], b: Mapping[int, str]) -> bool:
    """Whether two sets of class names are the same, but for case."""
    return [str(name).strip().lower() for name in a.values()] == [str(name).strip().lower() for name in b.values()]


def find_dataset(data: Any) -> Dataset:
    """Find a data set and check that it can be trained on; a known name that is not here is downloaded by Ultralytics.

    Args:
        data: A name that Ultralytics knows, the path of a YAML, "shapes", or the keys themselves (`path`, `train`,
            `val`, `names`).

    Raises:
        DataError: It is missing or malformed, a split has no images, or its labels hold no polygons.
    """
    if isinstance(data, Mapping):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "data.yaml"
            base = {"path": str(Path(str(data.get("path") or ".")).expanduser().resolve())}
            file.write_text(yaml.safe_dump({**data, **base}, allow_unicode=True), encoding="utf-8")
            keys = {k: v for k, v in _resolved(file, "data").items() if k != "yaml_file"}
        dataset = Dataset(None, keys)
    else:
        source = shapes_dataset() if str(data) == SHAPES else Path(str(data)).expanduser()
        if source.is_file():
            source = source.resolve()  # stages run from wherever Ultralytics puts them
        dataset = Dataset(str(source), _resolved(source, str(data)))
    for split in ("train", "val"):
        _check_labels(dataset, split, "data" if isinstance(data, Mapping) else str(data))
    return dataset


def _resolved(source: Path, name: str) -> dict[str, Any]:
    try:
        # A file's own `download` may be a script, so only that of Ultralytics' own YAML files is followed.
        own = "://" in name or any(Path(f"{source}{ending}").exists() for ending in ("", ".yaml", ".yml"))
        keys: dict[str, Any] = check_det_dataset(str(source), autodownload=not own)
    except Exception as error:  # Ultralytics raises many kinds for malformed YAML, missing paths and failed downloads
        raise DataError(
            f"{name}: expected a data set in Ultralytics' format, but it can't be used ({one_line(error)}); pass "
            "the path of its data.yaml"
        ) from error
    missing = [split for split in ("train", "val") if not keys.get(split)]
    if missing:
        raise DataError(
            f"{name}: expected the splits train and val, got no {missing[0]}; add it to the data set's YAML"
        )
    return keys


def image_files(paths: str | list[str]) -> list[Path]:
    """The images of one split, as Ultralytics reads it: folders, text files that list images, or single images."""
    files: list[Path] = []
    for path in map(Path, paths if isinstance(paths, list) else [paths]):
        if path.is_dir():
            files += [p for p in path.rglob("*.*") if p.suffix.lower().lstrip(".") in IMG_FORMATS]
        elif path.suffix == ".txt" and path.is_file():
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            files += [path.parent / line if line.startswith("./") else Path(line) for line in lines if line.strip()]
        elif path.is_file():
            files.append(path)
    return sorted(files)


def _check_labels(dataset: Dataset, split: str, name: Any) -> None:
    """Refuse a split without images or without a polygon that can be used; reading stops at the first one."""
    files = dataset.images(split)
    expected = f"{name}: expected images with instance polygons in '{split}' ({dataset.keys[split]})"
    if not files:
        raise DataError(f"{expected}, got no images; check the path in the data set's YAML")
    labels = [Path(label) for label in img2label_paths([str(file) for file in files])]
    for cache in {label.parent.with_suffix(".cache") for label in labels}:
        if (code := code_in_cache(cache)) is not None:
            raise DataError(f"{cache}: expected a label cache of Ultralytics, got one that would run {code}; remove it")
    boxes, fault = 0, None
    for image, label in zip(files, labels, strict=True):
        for line in label.read_text(encoding="utf-8", errors="replace").splitlines() if label.is_file() else ():
            columns = line.split()
            boxes += 0 < len(columns) < 7
            if len(columns) >= 7:
                found = _label_fault(columns, len(dataset.names))
                if found is None and is_readable(image):
                    return
                fault = fault or (f"{label}: {found}" if found else f"{image}: it is no readable image")
    if fault is not None:
        raise DataError(f"{expected}, got none that can be used (first {fault}); mend the labels or images")
    if boxes:
        raise DataError(f"{expected}, got boxes only ({boxes} lines); label outlines: class x1 y1 x2 y2 x3 y3 ...")
    raise DataError(
        f"{expected}, got {len(files)} images without labels; put them into a 'labels' folder beside 'images'"
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


def labelled_batches(dataset: Dataset, *, images: int, imgsz: int, batch: int) -> Iterator[dict[str, Any]]:
    """Training images with their labels, letterboxed and not augmented, as Ultralytics' loaders give them.

    Args:
        dataset: The data set.
        images: At most this many, evenly spaced over the training images.
        imgsz: Side of the square, pixels.
        batch: Images per batch.
    """
    args = get_cfg(overrides={"task": "segment", "imgsz": imgsz, "cache": False})
    files = dataset.images("train")
    chosen = [str(files[k * len(files) // min(images, len(files))]) for k in range(min(images, len(files)))]
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "images.txt"
        listing.write_text("\n".join(chosen), encoding="utf-8")
        data = build_yolo_dataset(args, str(listing), batch, dict(dataset.keys), mode="val", rect=False)
    loader = build_dataloader(data, batch, workers=0, shuffle=False, device="cpu")
    yield from itertools.islice(loader, -(-len(data) // batch))
