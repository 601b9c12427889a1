"""A data set is looked up once, says what it is without writing, and can be measured on other images of it."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

from depgraph_hsic_only.data.dataset import find_dataset, labelled_batches, same_classes, training_images
from depgraph_hsic_only.data.images import image_files, list_images
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.errors import ConfigError, DataError
from depgraph_hsic_only.yolo.tasks import TASKS


def files_of(folder: Path) -> set[Path]:
    """All files, Ultralytics' label caches aside."""
    return {path for path in folder.rglob("*") if path.suffix != ".cache"}


def test_images_are_those_that_were_found_and_are_listed_once(shapes: Path, monkeypatch: Any) -> None:
    listed: list[Any] = []

    def counted(paths: Any) -> list[Path]:
        listed.append(paths)
        return image_files(paths)

    monkeypatch.setattr("depgraph_hsic_only.data.dataset.image_files", counted)
    data = find_dataset(shapes)
    for split, count in (("train", 16), ("val", 6)):
        expected = sorted((shapes.parent / "images" / split).iterdir())
        assert data.images(split) == data.images(split) == expected and len(expected) == count
    assert data.digest() == data.digest() == find_dataset(str(shapes)).digest()
    assert len(listed) == 4  # both splits, found twice


def test_other_training_images_write_no_file(shapes: Path) -> None:
    data, before = find_dataset(shapes), files_of(shapes.parent)
    chosen = data.images("train")[9:2:-2]
    drawn = data.with_training_images(chosen)
    assert drawn.images("train") == sorted(chosen) and drawn.images("val") == data.images("val")
    assert drawn.digest() != data.digest() and len(data.images("train")) == 16
    read = [file for batch in labelled_batches(drawn, images=9, imgsz=64, batch=3) for file in batch["im_file"]]
    assert read == [str(file) for file in sorted(chosen)]
    few = [file for batch in labelled_batches(drawn, images=2, imgsz=64, batch=3) for file in batch["im_file"]]
    assert few == read[::2]
    assert files_of(shapes.parent) == before


@pytest.mark.parametrize("given", ["file", "keys"])
def test_only_keys_that_were_given_themselves_are_written(given: str, shapes: Path, tmp_path: Path) -> None:
    keys = yaml.safe_load(shapes.read_text())
    data = find_dataset(shapes if given == "file" else keys)
    named = data.write_keys(tmp_path)
    assert list(tmp_path.iterdir()) == ([] if given == "file" else [tmp_path / "data.yaml"])
    assert find_dataset(named).digest() == data.digest()


def test_images_are_those_that_ultralytics_trains_on(shapes: Path, tmp_path: Path) -> None:
    """Linked folders, hidden files, names that are patterns, and text files in every form, against its own data set."""
    keys, outside, split = yaml.safe_load(shapes.read_text()), tmp_path / "outside", tmp_path / "a [1] #%" / "images"
    shutil.copytree(shapes.parent / "images" / "train", outside)
    shutil.copytree(shapes.parent / "images" / "val", split / "val")
    shutil.copytree(shapes.parent / "images" / "val", split / "train")
    for folder in (split, split.parent / "labels"):
        (folder / "train").mkdir(parents=True, exist_ok=True)
    (split / "train" / "part").symlink_to(outside)
    shutil.copytree(shapes.parent / "labels" / "train", split.parent / "labels" / "train" / "part")
    for hidden in ("._1.jpg", ".kept/2.jpg", "note.md"):
        (split / "train" / hidden).parent.mkdir(exist_ok=True)
        (split / "train" / hidden).write_bytes(b"x")
    linked = sorted(map(str, (split / "train" / "part").iterdir()))
    (split.parent / "list.txt").write_bytes(b"\xef\xbb\xbf./images/train/part/00001.png\r\n\r\n" + linked[0].encode())
    for train in ("images/train", ["images/train/part", "images/val"], "list.txt"):
        data = split.parent / "data.yaml"
        data.write_text(yaml.safe_dump({**keys, "path": str(split.parent), "train": train, "val": str(shapes.parent)}))
        found = training_images(data)
        named = check_det_dataset(str(data))["train"]
        names = {"names": keys["names"], "channels": 3}
        theirs = YOLODataset(named, data=names, task="segment", imgsz=64, augment=False)
        assert list(map(str, found)) == theirs.im_files and len(found) in (22, 2)
        assert image_files(named, 0.5) == found[: len(found) // 2]
    assert list_images(split / "train") == image_files(split / "train") and len(list_images(split / "train")) == 22
    for wrong in (split / "gone", split / "val" / "00000.png", split / "*", split.parent / "labels"):
        with pytest.raises(DataError, match="expected a folder of images, or a text file"):
            image_files(wrong)


def test_an_ndjson_data_set_is_converted_by_ultralytics(shapes: Path, tmp_path: Path, monkeypatch: Any) -> None:
    keys, records = yaml.safe_load(shapes.read_text()), []
    for split in ("train", "val"):
        for image in sorted((shapes.parent / "images" / split).iterdir()):
            lines = (shapes.parent / "labels" / split / f"{image.stem}.txt").read_text().splitlines()
            rows = [[int(row[0]), *map(float, row[1:])] for row in map(str.split, lines)]
            records.append({"file": image.name, "split": split, "annotations": {"segments": rows}})
    head = {"task": "segment", "path": str(shapes.parent), "class_names": keys["names"]}
    (tmp_path / "set.ndjson").write_text("\n".join(map(json.dumps, [head, *records])))
    monkeypatch.setattr("ultralytics.data.converter.DATASETS_DIR", tmp_path / "converted")
    if importlib.util.find_spec("aiohttp") is None:
        with pytest.raises(DataError, match="pip install aiohttp"):
            find_dataset(tmp_path / "set.ndjson")
        pytest.skip("Ultralytics needs aiohttp to convert it")
    data = find_dataset(tmp_path / "set.ndjson")
    assert len(data.images("train")) == 16 and len(data.images("val")) == 6
    assert list(data.names.values()) == list(find_dataset(shapes).names.values())
    assert data.source is not None and Path(data.source).is_relative_to(tmp_path / "converted")


@pytest.mark.parametrize("given", ["data.yaml", "export/data.yaml", "export", "keys"])
def test_an_export_of_roboflow_is_read_as_ultralytics_reads_it(
    given: str, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    export = tmp_path / "export"
    for theirs, ours in {"train": "train", "valid": "val"}.items():
        for kind in ("images", "labels"):
            shutil.copytree(shapes.parent / kind / ours, export / theirs / kind)
    keys: dict[str, Any] = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}  # not above
    keys |= {"nc": 5, "names": ["circle", "square", "triangle", "star", "cross"], "roboflow": {"version": 1}}
    (export / "data.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
    monkeypatch.chdir(export if given in {"data.yaml", "keys"} else tmp_path)
    dataset = find_dataset(keys if given == "keys" else given)
    assert set(dataset.images("train")) == files_of(export / "train" / "images")
    assert set(dataset.images("val")) == files_of(export / "valid" / "images")
    monkeypatch.chdir(shapes.parent)  # trainings may run anywhere
    taken = check_det_dataset(dataset.write_keys(tmp_path), autodownload=False)
    assert all(taken[key] == dataset.keys[key] for key in ("train", "val", "names"))


def test_classes_are_the_same_by_index_unless_a_name_stands_elsewhere() -> None:
    def same(a: str, b: str) -> bool:
        return same_classes(dict(enumerate(a.split())), dict(enumerate(b.split())))

    assert same("cat dog", "Cat DOG") and same("cat dog", "cat hound") and same("item", "pothole")
    assert not same("cat dog", "dog cat") and not same("cat dog", "cat") and not same("cat dog owl", "dog owl crow")


def test_an_address_reaches_ultralytics_as_it_is(shapes: Path, monkeypatch: Any) -> None:
    """A path would make one slash of its two."""
    seen: list[str] = []

    def check(data: str, **_: Any) -> dict[str, Any]:
        seen.append(data)
        return check_det_dataset(str(shapes))

    monkeypatch.setattr("depgraph_hsic_only.data.dataset.check_det_dataset", check)
    assert find_dataset("https://example.org/set.zip").source == "https://example.org/set.zip" == seen[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    return {task: shapes_dataset(folder / task, train=3, val=2, imgsz=64, task=task) for task in TASKS}


READ = {  # by the task that a data set was made for: the others that its labels can be read for
    "segment": ("detect", "obb"),
    "detect": (),
    "pose": ("detect",),
    "obb": ("segment", "detect"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("made_for", TASKS)
def test_labels_are_taken_where_ultralytics_takes_them(made_for: str, task: str, drawn: dict[str, Path]) -> None:
    """Its own data set, which meets them in a training, is the reference."""
    file = drawn[made_for]
    keys = check_det_dataset(str(file))
    takes = task in (made_for, *READ[made_for])
    if takes:
        dataset = find_dataset(file, task)
        batch = next(labelled_batches(dataset, images=3, imgsz=64, batch=3))
        assert dataset.task == task and batch["bboxes"].shape[1] == (5 if task == "obb" else 4)
        assert {"segment": "masks", "pose": "keypoints"}.get(task, "img") in batch
    else:
        with pytest.raises(DataError, match=f"with {TASKS[task].label} in 'train'|without kpt_shape"):
            find_dataset(file, task)
    try:
        theirs = YOLODataset(keys["train"], data=keys, task=task, imgsz=64, augment=False)
    except (ValueError, RuntimeError):
        assert not takes
    else:
        assert takes and len(theirs) == 3


def test_keypoints_are_those_that_the_data_set_says(drawn: dict[str, Path], tmp_path: Path) -> None:
    keys = yaml.safe_load(drawn["pose"].read_text())
    assert find_dataset(keys, "pose").keypoints == (4, 3) and find_dataset(drawn["detect"], "detect").keypoints is None
    for changed, said in (
        ({"kpt_shape": [4]}, "expected kpt_shape to be the number of keypoints"),
        ({"kpt_shape": [4, 5]}, r"got \[4, 5\]"),
        ({"kpt_shape": [4, 2]}, "labels require 13 columns each"),
        ({"flip_idx": [0, 1, 2]}, "expected flip_idx to have one of 0 to 3 for each of 4 keypoints"),
        ({"flip_idx": [0, 1, 2, 4]}, r"got \[0, 1, 2, 4\]"),
    ):
        with pytest.raises(DataError, match=said):
            find_dataset({**keys, **changed}, "pose")
    find_dataset({**keys, "flip_idx": []}, "pose")
    find_dataset({**keys, "flip_idx": [0, 1, 2]}, "detect")  # which doesn't read it
    with pytest.raises(ConfigError, match="did you mean 'pose'"):
        find_dataset(keys, "poses")
