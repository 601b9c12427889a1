"""The synthetic data set: its bytes, its labels against its pixels, and the life of its folder."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from ultralytics.cfg import get_cfg
from ultralytics.data.augment import RandomFlip
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.ops import xyxyxyxy2xywhr

from depgraph_hsic_only.data import shapes
from depgraph_hsic_only.data.shape_labels import LABELLINGS
from depgraph_hsic_only.data.shapes import SHAPES_RECIPE, shapes_dataset, shapes_recipe
from depgraph_hsic_only.errors import ConfigError, DataError

SIZE = {"train": 48, "val": 16}
SMALL = {"train": 3, "val": 1}
DRAWN = 16  # training images for each task
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


@pytest.fixture(scope="module")
def by_task(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first of the training images, drawn for each task; for segmentation there are more of them."""
    folder = tmp_path_factory.mktemp("tasks")
    others = (task for task in LABELLINGS if task != "segment")
    return {"segment": data} | {task: shapes_dataset(folder / task, train=DRAWN, val=1, task=task) for task in others}


def rows(data: Path, index: int) -> NDArray[np.float64]:
    """The labels of a training image, a line each; all lines are equally long."""
    text = (data.parent / "labels" / "train" / f"{index:05d}.txt").read_text()
    return np.array([line.split() for line in text.splitlines()], float)


def read(data: Path, task: str) -> Any:
    """The training images and labels, as Ultralytics reads them for a task."""
    folder = data.parent / "images" / "train"
    described = yaml.safe_load(data.read_text())
    dataset = YOLODataset(str(folder), imgsz=160, augment=False, task=task, data=described)
    found = np.load(data.parent / "labels" / "train.cache", allow_pickle=True).item()
    assert found["results"][3] == 0 and found["results"][4] >= DRAWN and not found["msgs"]  # none corrupt
    return dataset


def test_polygons_boxes_and_keypoints_are_of_the_same_drawings(by_task: dict[str, Path]) -> None:
    """As Ultralytics reads each; a keypoint is where the polygon ends, so that it lies on a side of the box."""
    drawn = {task: sorted((by_task[task].parent / "images" / "train").iterdir())[:DRAWN] for task in by_task}
    for task in ("detect", "pose"):
        assert [a.read_bytes() for a in drawn[task]] == [b.read_bytes() for b in drawn["segment"]]
    polygons, boxes, poses = (read(by_task[task], task).labels[:DRAWN] for task in ("segment", "detect", "pose"))
    assert sum(len(label["cls"]) for label in polygons) > 30
    for outlined, boxed, posed in zip(polygons, boxes, poses, strict=True):
        for label in (boxed, posed):
            assert np.array_equal(label["cls"], outlined["cls"])
            assert np.allclose(label["bboxes"], outlined["bboxes"], atol=2e-5)
        for (x, y, w, h), polygon, points in zip(
            outlined["bboxes"], outlined["segments"], posed["keypoints"], strict=True
        ):
            sides = (points[0, 1], points[1, 0], points[2, 1], points[3, 0])  # top, right, bottom, left
            assert np.allclose(sides, (y - h / 2, x + w / 2, y + h / 2, x - w / 2), atol=1 / 160)
            near = [cv2.pointPolygonTest(polygon[:, None].astype(np.float32), point, True) for point in points[:, :2]]
            assert np.abs(near).max() < 1.5 / 160 and (points[:, 2] == 2).all()


def test_keypoints_are_right_in_a_mirror(by_task: dict[str, Path]) -> None:
    """After Ultralytics' own flip to the right, the one called top is the highest still, and so on."""
    described = yaml.safe_load(by_task["pose"].read_text())
    dataset = read(by_task["pose"], "pose")
    flip = RandomFlip(p=1.0, direction="horizontal", flip_idx=described["flip_idx"])
    for label in (flip(dataset.get_image_and_label(k)) for k in range(DRAWN)):
        (height, width), instances = label["img"].shape[:2], label["instances"]
        instances.convert_bbox("xyxy")
        for box, points in zip(instances.bboxes, instances.keypoints, strict=True):
            left, top, right, bottom = box * (width, height, width, height) if instances.normalized else box
            points = points[:, :2] * ((width, height) if instances.normalized else 1)
            assert np.allclose(
                (points[0, 1], points[1, 0], points[2, 1], points[3, 0]), (top, right, bottom, left), atol=1
            )


def test_rotated_boxes_are_as_long_and_wide_as_what_they_hold(by_task: dict[str, Path]) -> None:
    """Of objects that nothing hides, whose pixels a threshold finds; and all pixels are in boxes."""
    boxes = {Path(label["im_file"]).stem: label for label in read(by_task["obb"], "obb").labels}
    inside = anywhere = alone = 0
    for image in sorted((by_task["obb"].parent / "images" / "train").iterdir()):
        _, saturation = hue_and_saturation(image)
        pixels = np.argwhere(saturation > 0.5)[:, ::-1] + 0.5
        corners = (
            160 * rows(by_task["obb"], int(image.stem))[:, 1:].reshape(-1, 4, 2)
            if len(boxes[image.stem]["cls"])
            else []
        )
        held = np.zeros(len(pixels), bool)
        for box in corners:
            sides = np.roll(box, -1, 0) - box
            along, across = (side / np.linalg.norm(side) for side in sides[:2])
            lengths = np.linalg.norm(sides[:2], axis=1)
            assert abs(along @ across) < 0.02 and np.allclose(box[0] + box[2], box[1] + box[3], atol=0.01)
            own = np.stack([(pixels - box[0]) @ along, (pixels - box[0]) @ across], 1)
            held |= ((own > -1) & (own < lengths + 1)).all(1)
            if len(corners) == 1:
                alone += 1
                assert np.allclose(own.min(0), 0, atol=6) and np.allclose(own.max(0), lengths, atol=6)  # tips are thin
        inside, anywhere = inside + held.sum(), anywhere + len(pixels)
    assert inside > 0.99 * anywhere and alone >= 3
    turned = xyxyxyxy2xywhr(
        np.concatenate([label["segments"] for label in boxes.values() if len(label["segments"])]) * 160
    )
    assert (turned[:, 2] > 1.5 * turned[:, 3]).all()  # with a direction
    assert np.histogram(turned[:, 4], 4, (-np.pi / 4, 3 * np.pi / 4))[0].min() > 4  # and every one of them


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
    with pytest.raises(ConfigError, match="did you mean 'detect'"):
        shapes_dataset(tmp_path / "none", task="detection")


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {shapes_dataset(**SMALL, seed=seed) for seed in (0, 0, 1)} | {shapes_dataset(**SMALL, task="pose")}
    assert len(paths) == 3 and sum("shapes-pose-" in str(path) for path in paths) == 1
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
    assert shapes_recipe() == SHAPES_RECIPE == {
        **shapes_recipe("pose"),
        "flipud": 0.5,
    } and "flipud" not in shapes_recipe("pose")
    assert not [name for name, value in SHAPES_RECIPE.items() if DEFAULT_CFG_DICT[name] == value]
