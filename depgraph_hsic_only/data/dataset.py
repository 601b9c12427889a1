"""The data set of a run: found, checked before anything is written, and read as labelled batches."""

import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from ultralytics.cfg import get_cfg
from ultralytics.data import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import check_det_dataset, convert_ndjson_to_yolo_if_needed

from depgraph_hsic_only.data.images import image_files, read_image, spread
from depgraph_hsic_only.data.labels import check_keypoints, check_labels, keypoint_shape, label_files
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.errors import ConfigError, DataError, one_line
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.yolo.tasks import TASKS

SHAPES = "shapes"
_SPLITS = ("train", "val")
_CONVERTED = (1, 3)  # numbers of channels that any image is read with


@dataclass(frozen=True)
class Dataset:
    """A data set in Ultralytics' format, for a task.

    Attributes:
        source: What Ultralytics takes as `data`: a name or a path; None where the keys were given themselves.
        keys: The resolved data set: absolute `train` and `val`, `names`, `nc`.
        files: The image files of each split, "train" and "val", that Ultralytics takes, sorted by their paths as text.
        task: What its labels were checked for and are read for, such as "segment" (see `tasks.TASKS`).
    """

    source: str | None
    keys: Mapping[str, Any]
    files: Mapping[str, tuple[Path, ...]]
    task: str = "segment"

    @property
    def names(self) -> dict[int, str]:
        """Class names by index."""
        return dict(self.keys["names"])

    @property
    def channels(self) -> int:
        """Number of channels of its images."""
        return int(self.keys.get("channels", 3))

    @property
    def keypoints(self) -> tuple[int, int] | None:
        """Number of keypoints of its objects, and numbers of each: 2, or 3 with its visibility; None for none."""
        return keypoint_shape(self.keys)

    def classes(self, single: bool) -> dict[int, str]:
        """Class names by index as Ultralytics trains on them, where `single_cls` makes one class of all."""
        return {0: "item"} if single else self.names

    def images(self, split: str, most: int | None = None) -> list[Path]:
        """Image files of a split, "train" or "val", in Ultralytics' order: at most so many, evenly spaced over all."""
        files = self.files[split]
        return [files[k] for k in spread(len(files), most)]

    def digest(self) -> str:
        """A digest of the class names, the names and sizes of all images, and the content of their labels.

        It is the same wherever the data set lies.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(repr(sorted(self.names.items())).encode())
        for split in _SPLITS:
            images = self.files[split]
            for image, label in sorted(zip(images, label_files(images), strict=True), key=lambda pair: pair[0].name):
                size = image.stat().st_size if image.is_file() else None
                digest.update(f"{split}/{image.name}/{size}".encode())
                digest.update(label.read_bytes() if label.is_file() else b"none")
        return digest.hexdigest()

    def with_training_images(self, files: Iterable[Path]) -> "Dataset":
        """The same data set to measure on other training images; what Ultralytics trains on is not changed by it."""
        return replace(self, files={**self.files, "train": tuple(sorted(files, key=str))})

    def parted(self, fewest: int, most: int) -> tuple["Dataset", list[Path]]:
        """The data set with half of its training images, at most `fewest`, and at most `most` of the others.

        Both are evenly spaced over all.
        """
        files = self.files["train"]
        first = spread(len(files), min(fewest, -(-len(files) // 2)))
        rest = sorted(set(range(len(files))) - set(first)) or first
        held = [files[rest[k]] for k in spread(len(rest), most)]
        return self.with_training_images(files[k] for k in first), held

    def write_keys_of(self, files: Sequence[Path], folder: Path) -> str:
        """What Ultralytics takes as `data` to validate on some images with labels: a YAML file in a folder."""
        (folder / "images.txt").write_text("\n".join(map(str, files)) + "\n", encoding="utf-8")
        return self._dump(folder, path=str(folder), train="images.txt", val="images.txt")

    def write_keys(self, folder: Path) -> str:
        """What Ultralytics takes as `data`; keys that were given themselves are written to `folder`/data.yaml."""
        if self.source is not None:
            return self.source
        return self._dump(folder)

    def _dump(self, folder: Path, **others: str) -> str:
        """Write the keys, with some others in their place, to `folder`/data.yaml, and return its path."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in self.keys.items()} | others
        path = folder / "data.yaml"
        path.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return str(path)


def same_classes(a: Mapping[int, str], b: Mapping[int, str]) -> bool:
    """Whether two lists of classes are the same by index: as many, and no name of one elsewhere in the other.

    Names alone may differ: a class may have been renamed, and with `single_cls` it is always an "item".
    """
    first, second = ([str(name).strip().lower() for name in names.values()] for names in (a, b))
    renamed = [(old, new) for old, new in zip(first, second, strict=False) if old != new]
    return len(first) == len(second) and not {old for old, _ in renamed} & {new for _, new in renamed}


def find_dataset(data: Any, task: str = "segment") -> Dataset:
    """Find a data set and check that it can be trained on; a known name that is not here is downloaded by Ultralytics.

    Args:
        data: A name that Ultralytics knows, the path of a YAML or NDJSON file, "shapes", or the keys themselves
            (`path`, `train`, `val`, `names`).
        task: What it is for: "segment", "detect", "pose" or "obb". The shapes are drawn for it.

    Raises:
        ConfigError: There is no such task.
        DataError: It is missing or malformed, a split has no images, or its labels are not those of the task.
    """
    if task not in TASKS:
        raise ConfigError(f"task: expected one of {', '.join(TASKS)}, got {task!r}{nearest(task, TASKS)}")
    name = "data" if isinstance(data, Mapping) else str(data)
    if isinstance(data, Mapping):
        source = None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "data.yaml"
            base = {"path": str(Path(str(data.get("path") or ".")).expanduser().resolve())}
            file.write_text(yaml.safe_dump({**data, **base}, allow_unicode=True), encoding="utf-8")
            keys = {k: v for k, v in _resolved(str(file), name).items() if k != "yaml_file"}
    else:
        found = shapes_dataset(task=task) if name == SHAPES else Path(_converted(name)).expanduser()
        source = str(found.resolve() if found.exists() else found)  # stages run from wherever Ultralytics puts them
        source = name if "://" in name else source  # of which a path would make another address
        keys = _resolved(source, name)
    files, channels = {}, keys.get("channels", 3)
    if type(channels) is not int or channels < 1:
        raise DataError(f"{name}: expected channels to be a number of at least 1, such as 1, 3 or 10, got {channels!r}")
    check_keypoints(keys, name, TASKS[task])
    for split in _SPLITS:
        try:
            listed = image_files(keys[split])
        except DataError as error:
            raise DataError(f"{name}: the split '{split}' can't be used: {error}") from error
        given = TASKS[task], keypoint_shape(keys)
        files[split] = tuple(check_labels(listed, len(keys["names"]), name, f"'{split}' ({keys[split]})", *given))
        if channels not in _CONVERTED:
            for file in files[split]:
                read_image(file, channels)  # refuses one with others, which Ultralytics would meet in a training
    return Dataset(source, keys, files, task)


def training_images(data: str | Path) -> list[Path]:
    """Training images of a data set's YAML on this machine, or a `DataError`; nothing is downloaded or unpacked."""
    try:
        if "://" in str(data) or Path(data).suffix not in {".yaml", ".yml"}:
            raise FileNotFoundError("it is no YAML file on this machine")
        return image_files(check_det_dataset(str(data), autodownload=False)["train"])
    except Exception as error:  # Ultralytics raises many kinds
        raise DataError(
            f"{data}: expected a data set's YAML, but it can't be used ({one_line(error)}); pass a folder"
        ) from error


def _converted(name: str) -> str:
    """The YAML that Ultralytics makes of an NDJSON file, in its own folder of data sets; any other name as it is."""
    try:
        return str(convert_ndjson_to_yolo_if_needed(name, split="val"))
    except Exception as error:  # Ultralytics raises many kinds, as for a package or an image that is missing
        raise DataError(
            f"{name}: expected an NDJSON data set that Ultralytics can convert, but it can't ({one_line(error)}); "
            "pip install aiohttp if that is missing, or convert it by ultralytics.data.converter and pass its data.yaml"
        ) from error


def _resolved(source: str, name: str) -> dict[str, Any]:
    try:
        # A file's own `download` may be a script, so only that of Ultralytics' own YAML files is followed.
        own = "://" in name or any(Path(f"{source}{ending}").exists() for ending in ("", ".yaml", ".yml"))
        keys: dict[str, Any] = check_det_dataset(source, autodownload=not own)
    except Exception as error:  # Ultralytics raises many kinds for malformed YAML, missing paths and failed downloads
        remedy = "correct its path, train, val or names" if Path(source).is_file() else "pass the path of its data.yaml"
        raise DataError(
            f"{name}: expected a data set in Ultralytics' format, but it can't be used ({one_line(error)}); {remedy}"
        ) from error
    missing = [split for split in _SPLITS if not keys.get(split)]
    if missing:
        raise DataError(
            f"{name}: expected the splits train and val, got no {missing[0]}; add it to the data set's YAML"
        )
    return keys


def labelled_batches(
    dataset: Dataset, *, images: int, imgsz: int, batch: int, single_cls: bool = False
) -> Iterator[dict[str, Any]]:
    """Training images with their labels, letterboxed and not augmented, as Ultralytics' loaders give them.

    At most so many `images`, evenly spaced over all, as squares of `imgsz` pixels, so many to a `batch`; with
    `single_cls` all objects are of class 0.
    """
    args = get_cfg(overrides={"task": dataset.task, "imgsz": imgsz, "cache": False, "single_cls": single_cls})
    chosen = list(map(str, dataset.images("train", images)))
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "images.txt"
        listing.write_text("\n".join(chosen), encoding="utf-8")
        data = build_yolo_dataset(args, str(listing), batch, dict(dataset.keys), mode="val", rect=False)
    loader = build_dataloader(data, batch, workers=0, shuffle=False, device="cpu")
    yield from itertools.islice(loader, -(-len(data) // batch))
