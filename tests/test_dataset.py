"""A data set is looked up once, says what it is without writing, and can be measured on other images of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from depgraph_hsic_only.data.dataset import find_dataset, image_files, labelled_batches, same_classes


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


def test_classes_are_the_same_by_index_unless_a_name_stands_elsewhere() -> None:
    def same(a: str, b: str) -> bool:
        return same_classes(dict(enumerate(a.split())), dict(enumerate(b.split())))

    assert same("cat dog", "Cat DOG") and same("cat dog", "cat hound") and same("item", "pothole")
    assert not same("cat dog", "dog cat") and not same("cat dog", "cat") and not same("cat dog owl", "dog owl crow")
