"""Bad input as a table: exit code 2, one line that says what to do, nothing written, the input as it was."""

import copy
import errno
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import build
from PIL import Image
from test_loading import saved
from ultralytics.data.dataset import YOLODataset
from ultralytics.nn.tasks import RTDETRDetectionModel, yaml_model_load

from depgraph_hsic_only import DataError, load_model
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.workflow.config import DEFAULTS, load_config

NAMES = ["circle", "square", "triangle", "star", "cross"]


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of change of every file, Ultralytics' label caches aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".cache")
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Callable[..., str]:
    """Runs the command line, which must refuse what it is given, and returns the one line that it says."""

    def run(*arguments: object) -> str:
        before = snapshot(tmp_path)
        (tmp_path / "empty").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "empty")
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        error: str = capsys.readouterr().err
        said = [line for line in error.splitlines() if not line.startswith("warning: ")]
        assert code == 2 and len(said) == 1 and "error: " in said[0] and len(said[0]) < 4000, error
        assert list((tmp_path / "empty").iterdir()) == []
        assert snapshot(tmp_path) == before
        return said[0]

    return run


def plain(checkpoint: Path, data: Path) -> list[str]:
    given = ["--pretrained", str(checkpoint), "--data", str(data), "--imgsz", "64", "--batch", "4", "--workers", "0"]
    return [*given, "--device", "cpu", "train.epochs=0", "fine_tune.epochs=0", "prune.recover=none", "export.images=2"]


def with_value(value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model = build()
        model.model[4].cv1.conv.weight.data[3, 2, 0, 0] = value
        return saved(model, folder / "model.pt")

    return make


def rtdetr(folder: Path) -> Path:
    model = build()
    model.__class__ = RTDETRDetectionModel
    return saved(model, folder / "model.pt")


def yaml_of(yaml: Any) -> Callable[[Path], Path]:
    return changed(lambda model: setattr(model, "yaml", yaml))


def changed(change: Callable[[Any], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model = build()
        change(model)
        return saved(model, folder / "model.pt")

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_value(float("nan")), "got NaN or infinity in model.4.cv1.conv.weight; pass a checkpoint from before"),
        (with_value(float("inf")), "got NaN or infinity in model.4.cv1.conv.weight"),
        (with_value(-1e6), "got NaN or infinity in model.4.cv1.conv.weight"),  # in half precision
        (rtdetr, "model.pt: expected"),
        (yaml_of({}), "its own YAML can't be built"),
        (yaml_of("yolov8n-seg.yaml"), "its own YAML can't be built"),
        (yaml_of({"nc": 80, "backbone": [[-1, 1, "Conv", [64, 3, 2]]], "head": []}), "differ from its own YAML"),
        (changed(lambda model: model.__dict__.pop("yaml")), "its own YAML can't be built"),
        (changed(lambda model: setattr(model, "names", None)), "name for each of its 80 classes by number, got None"),
        (changed(lambda model: setattr(model, "names", {0: "a"})), "of its 80 classes by number, got {0: 'a'}"),
        (changed(lambda model: setattr(model, "stride", torch.zeros(3))), "stride [8, 16, 32] of its layers, got"),
        (changed(lambda model: setattr(model.model[-1], "stride", torch.ones(3))), "as its head's stride"),
    ],
)
def test_checkpoints(make: Any, message: str, refused: Any, tmp_path: Path, shapes: Path) -> None:
    path = make(tmp_path)
    assert message in refused(*plain(path, shapes))
    assert message in refused("info", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda keys: keys["backbone"][2].__setitem__(1, 10**9),
            "at most 100 repeats of a layer, got 3.3e+08",
        ),
        (
            lambda keys: keys["scales"].update(n=[1e300, 0.25, 1024]),
            "at most 100 repeats of a layer, got 6e+300",
        ),
        (lambda keys: keys["scales"].update(n=[0.33, 1e3, 10**6]), "at most 1e+09 parameters"),
    ],
)
def test_a_model_that_is_too_much(change: Any, message: str, refused: Any, tmp_path: Path, shapes: Path) -> None:
    """Neither a model YAML nor that in a checkpoint is built before its size is known."""
    keys = yaml_model_load("yolov8n-seg.yaml")
    change(keys)
    (tmp_path / "yolov8n-seg.yaml").write_text(yaml.safe_dump(keys))
    model = build()
    model.yaml = keys
    for path in (tmp_path / "yolov8n-seg.yaml", saved(model, tmp_path / "model.pt")):
        assert message in refused(*plain(path, shapes))


def test_a_model_with_two_heads(refused: Any, tmp_path: Path, shapes: Path) -> None:
    keys = yaml_model_load("yolov8n-seg.yaml")
    keys["head"].append(copy.deepcopy(keys["head"][-1]))
    (tmp_path / "yolov8n-seg.yaml").write_text(yaml.safe_dump(keys))
    assert "one head at its end" in refused(*plain(tmp_path / "yolov8n-seg.yaml", shapes))


def test_a_checkpoint_that_is_cut_off_anywhere(refused: Any, tmp_path: Path, checkpoint: Path) -> None:
    whole, rng, cut = checkpoint.read_bytes(), random.Random(0), tmp_path / "cut.pt"
    for length in [1, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(18))]:
        cut.write_bytes(whole[:length])
        assert "cut.pt: expected a YOLO" in refused("info", cut), length


def test_full_and_half_precision_load_alike(tmp_path: Path) -> None:
    model, full = build(), tmp_path / "full.pt"
    half = saved(model, tmp_path / "half.pt")
    torch.save({"model": copy.deepcopy(model), "train_args": {}}, full)
    states = [load_model(path).model.state_dict() for path in (full, half)]
    assert all(torch.equal(tensor.half(), states[1][name].half()) for name, tensor in states[0].items())
    assert {tensor.dtype for state in states for tensor in state.values()} <= {torch.float32, torch.int64}


def labelled(folder: Path, label: str, image: bytes | None = None) -> Path:
    """A data set whose training split has these labels, and these bytes for images."""
    data = shapes_dataset(folder / "set", train=2, val=2, imgsz=64)
    for split in ("train", "val"):
        for file in (folder / "set" / "labels" / split).iterdir():
            file.write_text(label)
        for file in (folder / "set" / "images" / split).iterdir() if image is not None else ():
            file.write_bytes(image)
    return data


POLYGON = "0 0.1 0.1 0.9 0.1 0.9 0.9\n"


@pytest.mark.parametrize(
    ("label", "image", "message"),
    [
        ("9" + POLYGON[1:], None, "Label class 9 exceeds dataset class count 5"),
        ("-1" + POLYGON[1:], None, "negative label values"),
        ("0.5" + POLYGON[1:], None, "non-integer class labels"),
        ("0 0.5 0.5\n", None, "labels require 5 columns, 3 columns detected"),
        ("0 0.5 0.5 0.2 0.2\n", None, "got boxes only in 2 of 2 label files"),
        (POLYGON + "0 0.5 0.5 0.2 0.2\n", None, "labels mix segment and detection rows"),
        ("", None, "without labels"),
        ("0 0.5 0.5 0.5 0.5 0.5 0.5\n", None, "without labels of any area"),
        (POLYGON.replace("0.9", "90"), None, "non-normalized or out of bounds coordinates"),
        (POLYGON.replace("0.9", "nan"), None, "non-normalized or out of bounds coordinates"),
        (POLYGON.strip() + " 0.5\n", None, "cannot reshape array"),
        (POLYGON.replace("0.9", "x"), None, "could not convert string to float"),
        (POLYGON, b"", "it is no readable image"),
        (POLYGON, b"not an image", "it is no readable image"),
    ],
)
def test_data(label: str, image: bytes | None, message: str, refused: Any, tmp_path: Path, checkpoint: Path) -> None:
    data = labelled(tmp_path, label, image)
    assert message in refused(*plain(checkpoint, data))


@pytest.mark.parametrize("content", ["", "- a", "\t", "train: 3\nval: 4\nnames: [a]", "\x00", "a: &x [*x]", "names: 3"])
def test_data_yaml(content: str, refused: Any, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "data.yaml").write_text(content)
    assert "expected a data set in Ultralytics' format" in refused(*plain(checkpoint, tmp_path / "data.yaml"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ultralytics leaves bad files open
@pytest.mark.filterwarnings("always:.*Ultralytics leaves out")
@pytest.mark.slow
def test_a_data_set_with_some_of_everything_goes_through(
    checkpoint: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Single files that can't be used are passed over; the folder has a space and more, and can't be written to."""
    root = tmp_path / "mes données 数据"
    shapes_dataset(root / "set", train=12, val=6, imgsz=64)
    for split in ("train", "val"):
        images = sorted((root / "set" / "images" / split).iterdir())
        labels = sorted((root / "set" / "labels" / split).iterdir())
        images[0].write_bytes(images[0].read_bytes()[:200])
        images[1].write_bytes(b"not an image")
        labels[2].write_text("77" + POLYGON[1:])
        labels[3].write_text(POLYGON * 3)
        labels[4].write_text("0 0.5 0.5\n" if split == "train" else "")
    labels = sorted((root / "set" / "labels" / "train").iterdir())
    labels[5].write_text("")
    labels[6].unlink()
    keys = {"path": "set", "train": "images/train", "val": "images/val", "names": NAMES}
    (root / "data.yaml").write_text(yaml.safe_dump(keys, allow_unicode=True), encoding="utf-8")
    before, save = snapshot(root), __import__("numpy").save

    def read_only(file: Any, *rest: Any, **more: Any) -> None:
        if "set" in str(getattr(file, "name", file)):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        save(file, *rest, **more)

    monkeypatch.setattr("numpy.save", read_only)  # root may write anywhere
    monkeypatch.setattr("ultralytics.data.utils.is_dir_writeable", lambda path: False)
    monkeypatch.chdir(root)
    project = tmp_path / "mes essais"
    assert main([*plain(checkpoint, Path("data.yaml")), "--project", str(project), "--name", "été 1"]) == 0
    assert (project / "été 1" / "weights" / "best.onnx").is_file()
    assert snapshot(root) == before and not list(root.rglob("*.cache"))
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "Traceback" not in captured.err
    assert "Ultralytics leaves out 4 of 12 images in 'train'" in said and "3 of 6 images in 'val'" in said


def test_images_that_ultralytics_leaves_out_are_no_images(shapes: Path, tmp_path: Path) -> None:
    """Too small, or of a format that its name hides: OpenCV reads them, Ultralytics' data sets don't."""
    shutil.copytree(shapes.parent, tmp_path / "set")
    data = tmp_path / "set" / "data.yaml"
    data.write_text(yaml.safe_dump({**yaml.safe_load(shapes.read_text()), "path": str(tmp_path / "set")}))
    for save in (lambda image, file: image.resize((8, 8)).save(file), lambda image, file: image.save(file, "GIF")):
        for file in (tmp_path / "set" / "images" / "val").iterdir():
            with Image.open(shapes.parent / "images" / "val" / file.name) as image:
                save(image, file)
        with pytest.raises(DataError, match=r"got none that can be used \(first .*: it is no readable image"):
            find_dataset(data)


def test_damaged_images_are_counted_as_ultralytics_counts_them(tmp_path: Path) -> None:
    """Without its last two bytes, with two more, of text, and too small: against its own data set."""
    data = shapes_dataset(tmp_path / "set", train=1, val=6, imgsz=64)
    files = sorted((tmp_path / "set" / "images" / "val").iterdir())
    for k, file in enumerate(files):
        with Image.open(file) as image:
            image.resize((64, 8 if k == 3 else 64)).save(file, "JPEG")
    files[0].write_bytes(files[0].read_bytes()[:-2])
    files[1].write_bytes(files[1].read_bytes() + bytes(2))
    files[2].write_bytes(b"not an image")
    before = snapshot(tmp_path)
    with pytest.warns(UserWarning, match=r"leaves out 3 of 6 images in 'val' .*first .*: it is no readable image"):
        found = find_dataset(data)
    assert snapshot(tmp_path) == before
    theirs = YOLODataset(str(files[0].parent), data=dict(found.keys), task="segment", imgsz=64).im_files
    assert list(map(str, found.images("val"))) == theirs and len(theirs) == 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_among_polygons(split: str, refused: Any, tmp_path: Path, checkpoint: Path) -> None:
    """Ultralytics counts boxes and outlines of a whole split; an image that it can't read doesn't count."""
    data = shapes_dataset(tmp_path / "set", train=4, val=4, imgsz=64)
    labels, images = (sorted((tmp_path / "set" / kind / split).iterdir()) for kind in ("labels", "images"))
    for k in (1, 3):
        labels[k].write_text("0 0.5 0.5 0.2 0.2\n")
    images[1].write_bytes(b"not an image")
    assert f"in '{split}'" in (said := refused(*plain(checkpoint, data))) and f"1 of 4 label files ({labels[3]}" in said
    target = ["--dry-run", "--target", "params=0.9"]
    assert str(labels[3]) in refused(*plain(checkpoint, data), *target)
    assert str(labels[3]) in refused("compare", *plain(checkpoint, data)[:4], "--targets", "params=0.9")
    with pytest.raises(ValueError, match="equal numbers of boxes and segments"):
        YOLODataset(str(images[0].parent), data={"names": dict(enumerate(NAMES))}, task="segment", imgsz=64)
    for k in (1, 3):
        images[k].write_bytes(b"not an image")
    with pytest.warns(UserWarning, match="leaves out 2 of 4"):
        find_dataset(data)


WRONG = {"text": "\n?", "list": [[]], "number": -1.5, "mapping": {"a": {"b": 1}}, "null": None, "nan": float("nan")}
NO_MISTAKE = {  # what is right all the same
    *(("imgsz", "null"), ("device", "null"), ("device", "text"), ("prune.max_map_drop", "null")),
    ("prune.finalists", "null"),
    *(("pretrained", "text"), ("data", "text"), ("project", "text"), ("name", "text"), ("prune.criterion", "null")),
    *(("prune.threshold", "null"), ("prune.threshold", "number"), ("prune.target", "null"), ("prune.recover", "null")),
    *(("rivals", "null"), ("latency.threads", "null"), ("latency.batch", "null"), ("latency.command", "null")),
}
KEYS = [key for key, value in DEFAULTS.items() if not isinstance(value, dict)]
KEYS += [f"{block}.{key}" for block, value in DEFAULTS.items() if isinstance(value, dict) for key in value]


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_with_every_wrong_type(key: str, refused: Any, tmp_path: Path) -> None:
    for kind, value in WRONG.items():
        block, dot, rest = key.partition(".")
        settings = {block: {rest: value}} if dot else {key: value}
        if (key, kind) in NO_MISTAKE:
            load_config(None, settings)
        else:
            (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
            said = refused("--cfg", tmp_path / "my.yaml")
            assert key in said or (f"{block}: " in said and kind == "null") or "unknown option" in said, kind


# anchors that would be 9 to the power of 29 values
LAUGHS = b"".join(b"a%d: &a%d [%s]\n" % (k, k, b"*a%d, " % (k - 1) * 9 if k else b"1") for k in range(30))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"imgsz: 64\nimgsz: 96\n", "'imgsz' is given twice"),
        (b"train: {epochs: 1, epochs: 2}\n", "'epochs' is given twice"),
        (b'a: 1\n"a": 2\n', "'a' is given twice"),
        (b"prune: !!python/object:os.system {}\n", "expected YAML"),
        (b"train: &a {x: *a}\n", "an anchor that stands for itself"),
        (LAUGHS, "stands for more than"),
        (b"[" * 100_000, "expected YAML"),
        (random.Random(0).randbytes(2**20), "expected YAML"),
        (bytes(random.Random(0).choices(range(32, 127), k=2**20)), "my.yaml: expected "),
        (b"imgsz: " + b"x" * 2**20, "imgsz: expected a side"),
        (b"imgsz: 2001-13-45\n", "expected YAML"),
        (b"\xff\xfe\x00", "expected YAML"),
        (b"a: 1\n---\nb: 2\n", "expected YAML"),
    ],
)
def test_settings_files(content: bytes, message: str, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_bytes(content)
    assert message in refused("--cfg", tmp_path / "my.yaml")


def test_anchors_work(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "train: &own {epochs: 3, lr0: 0.01}\nfine_tune: {<<: *own, epochs: 5}\ncalibration: {images: &n 8}\nbatch: *n\n"
    )
    config = load_config(tmp_path / "my.yaml")
    assert dict(config.fine_tune) == {"epochs": 5, "lr0": 0.01} and dict(config.train) == {"epochs": 3, "lr0": 0.01}
    assert config.batch == config.calibration["images"] == 8


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_said_before_the_run(
    package: str, refused: Any, monkeypatch: Any, checkpoint: Path, shapes: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert f"pip install {package}" in refused(*plain(checkpoint, shapes))
    assert main(["info", str(checkpoint)]) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused: Any, checkpoint: Path, shapes: Path) -> None:
    assert "device: expected one that this machine has, got '0'" in refused(*plain(checkpoint, shapes), "--device", "0")


def test_too_few_images_for_a_criterion(refused: Any, checkpoint: Path, shapes: Path) -> None:
    """At 64 px the smallest map has 4 positions, and HSIC-Lasso takes 8 samples."""
    said = refused(*plain(checkpoint, shapes), "--criterion", "hsic_lasso", "calibration.images=1")
    assert "at least 2 calibration images of 64 px" in said and "got 1; set calibration.images higher" in said
    given = ["--pretrained", checkpoint, "--data", shapes, "--imgsz", 64, "--ratios", 0.5, "calibration.images=1"]
    assert "at least 2 calibration images" in refused("compare", *given)
    planner = Planner("hsic_lasso", Amount.ratio(0.5), layers=[2, 3, 4], imgsz=64)  # which have larger maps
    planner.check_images(load_model(checkpoint).model, 1)


def test_an_error_of_our_own_keeps_its_traceback(checkpoint: Path, monkeypatch: Any, capsys: Any) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a\nbug")

    monkeypatch.setattr("depgraph_hsic_only.pruning.describe.describe", broken)
    assert main(["info", str(checkpoint)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "internal error (KeyError: 'a\\nbug'); please report it with " in error
    kept = Path(error.strip().rpartition(" ")[2])
    assert "Traceback" in kept.read_text() and "in broken" in kept.read_text()
    kept.unlink()
