"""The synthetic data set: its bytes, its labels against its pixels, and the life of its folder."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from subprocess import PIPE

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from ultralytics.cfg import get_cfg
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import DEFAULT_CFG_DICT

from depgraph_hsic_only.data import shapes
from depgraph_hsic_only.data.shapes import SHAPES_RECIPE, shapes_dataset
from depgraph_hsic_only.errors import ConfigError, DataError

SIZE = {"train": 48, "val": 16}
SMALL = {"train": 3, "val": 1}
FINER = 4  # polygons are rasterised on a grid this much finer than the picture


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes_dataset(tmp_path_factory.mktemp("shapes") / "first", **SIZE)


def contents(folder: Path) -> dict[Path, bytes]:
    """The pictures and labels of a data set; `data.yaml` differs between places."""
    files = itertools.chain(folder.rglob("*.png"), folder.rglob("*.txt"))
    return {file.relative_to(folder): file.read_bytes() for file in files}


def instances(image: Path) -> list[tuple[int, NDArray[np.bool_]]]:
    """Class and polygon, as a mask of the picture's size, of each object."""
    height, width = cv2.imread(str(image)).shape[:2]
    found = []
    for line in Path(str(image).replace("images", "labels")).with_suffix(".txt").read_text().splitlines():
        label, *values = line.split()
        points = np.array(values, float).reshape(-1, 2)
        assert len(points) >= 3
        assert 0 <= points.min() <= points.max() <= 1
        mask = np.zeros((FINER * height, FINER * width), np.uint8)
        cv2.fillPoly(mask, [np.rint(points * mask.shape[::-1] - 0.5).astype(np.int32)], 255)
        found.append((int(label), cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 127))
    return found


def hue_and_saturation(image: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each pixel of an image, (H, W) in [0, 1], without the noise. Neither shading nor shadows change them."""
    hue, saturation, _ = cv2.split(cv2.cvtColor(cv2.medianBlur(cv2.imread(str(image)), 3), cv2.COLOR_BGR2HSV))
    return hue / 180, saturation / 255


def test_equal_arguments_give_equal_bytes(data: Path, tmp_path: Path) -> None:
    expected = contents(data.parent)
    assert len(expected) == 2 * sum(SIZE.values())
    assert contents(shapes_dataset(tmp_path / "again", **SIZE).parent) == expected
    other = contents(shapes_dataset(tmp_path / "other", **SMALL, seed=1).parent)
    pictures = [content for name, content in [*expected.items(), *other.items()] if name.suffix == ".png"]
    assert len(set(pictures)) == len(pictures)  # no two alike, over splits and seeds


def test_polygons_are_what_the_pixels_show(data: Path) -> None:
    """Only objects are of a strong colour, and of one each: a threshold finds their pixels without the labels."""
    both = either = 0
    for image in sorted(data.parent.glob("images/*/*.png")):
        objects = instances(image)
        hue, saturation = hue_and_saturation(image)
        shown = saturation > 0.5
        labelled = np.any([mask for _, mask in objects], axis=0) if objects else np.zeros_like(shown)
        both, either = both + (shown & labelled).sum(), either + (shown | labelled).sum()
        for _, mask in objects:
            inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
            resultant = np.exp(2j * np.pi * hue[inner]).mean()
            assert mask.sum() > 100
            assert abs(resultant) > 0.99, "more than one colour in a polygon"
        for (_, one), (_, two) in itertools.combinations(objects, 2):
            assert (one & two).sum() < 0.05 * min(one.sum(), two.sum())
    assert both / either > 0.96


def test_colour_is_a_hint_and_no_more(data: Path) -> None:
    hues, labels = [], []
    for image in data.parent.glob("images/*/*.png"):
        hue, _ = hue_and_saturation(image)
        for label, mask in instances(image):
            hues.append(np.angle(np.exp(2j * np.pi * hue[mask]).mean()) / (2 * np.pi))
            labels.append(label)
    classes = max(labels) + 1
    nearest = np.rint(np.array(hues) * classes) % classes
    assert set(labels) == set(range(classes))
    assert 0.5 < np.mean(nearest == labels) < 0.85


def test_ultralytics_reads_every_file(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data.parent, tmp_path / "copy"))  # Ultralytics leaves its own cache beside the labels
    described = yaml.safe_load(data.read_text())
    for split, count in SIZE.items():
        dataset = YOLODataset(folder / described[split], imgsz=160, augment=False, task="segment", data=described)
        found, missing, empty, corrupt, total = np.load(folder / f"labels/{split}.cache", allow_pickle=True).item()[
            "results"
        ]
        assert (missing, corrupt, total) == (0, 0, count)
        assert found == count
        blank = [not label.read_bytes() for label in (folder / "labels" / split).glob("*.txt")]
        assert empty == sum(blank) < count
        assert dataset[0]["img"].shape == (3, 160, 160)


def test_a_folder_is_drawn_once_and_may_move(tmp_path: Path) -> None:
    data = shapes_dataset(tmp_path / "here", **SMALL)
    before = {file: file.stat().st_mtime_ns for file in data.parent.rglob("*")}
    assert shapes_dataset(tmp_path / "here", **SMALL) == data
    assert {file: file.stat().st_mtime_ns for file in data.parent.rglob("*")} == before

    moved = data.parent.rename(tmp_path / "there")
    again = shapes_dataset(moved, **SMALL)
    assert yaml.safe_load(again.read_text())["path"] == str(moved)
    assert {moved / file.relative_to(data.parent) for file in before} == set(moved.rglob("*"))

    with pytest.raises(DataError, match="choose a new or empty folder"):
        shapes_dataset(moved, **SMALL, seed=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(OSError, match="notes"):
        shapes_dataset(tmp_path / "notes", **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "there"]  # nothing temporary is left
    with pytest.raises(ConfigError, match="val=0"):
        shapes_dataset(tmp_path / "none", val=0)


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {shapes_dataset(**SMALL, seed=seed) for seed in (0, 0, 1)}
    assert len(paths) == 2
    assert {path.parents[1] for path in paths} == {tmp_path / "depgraph_hsic_only"}


def test_two_processes_at_once_both_get_it(tmp_path: Path) -> None:
    # A package without its __init__, which imports torch: seconds, for what takes a tenth of one here.
    program = f"""
import sys, types
from pathlib import Path
package = sys.modules["depgraph_hsic_only"] = types.ModuleType("depgraph_hsic_only")
package.__path__ = [{str(Path(shapes.__file__).parents[1])!r}]
from depgraph_hsic_only.data.shapes import shapes_dataset
print("ready", flush=True)
input()
print(shapes_dataset(Path({str(tmp_path / "both")!r}), train=40, val=8))"""
    start = partial(subprocess.Popen, [sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, text=True)
    with start() as one, start() as two:
        assert [process.stdout.readline() for process in (one, two)] == ["ready\n"] * 2
        for process in (one, two):
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in (one, two)]
    assert outputs == [f"{tmp_path / 'both' / 'data.yaml'}\n"] * 2
    assert len(contents(tmp_path / "both")) == 96
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def test_the_recipe_is_stock_arguments_that_differ_from_the_defaults() -> None:
    get_cfg(overrides=dict(SHAPES_RECIPE))  # raises for a name or a type that Ultralytics does not know
    assert not [name for name, value in SHAPES_RECIPE.items() if DEFAULT_CFG_DICT[name] == value]
