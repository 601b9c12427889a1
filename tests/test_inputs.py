"""Images of any size, number of channels and batch, from the calibration to the exported file."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import ultralytics
import yaml
from conftest import COCO_MINI, build
from PIL import Image
from test_workflow import settings
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import SegmentationModel

from depgraph_hsic_only import (
    ConfigError,
    DataError,
    DefaultYolov8SegPruner,
    ExportError,
    HsicLassoPruner,
    load_images,
    load_model,
    score_channels,
)
from depgraph_hsic_only.cli.dry_run import dry_run
from depgraph_hsic_only.data.calibration import fitting
from depgraph_hsic_only.data.dataset import find_dataset, labelled_batches
from depgraph_hsic_only.data.images import smallest_frame
from depgraph_hsic_only.evaluation.agreement import measure_agreement
from depgraph_hsic_only.evaluation.onnx import onnx_input, open_session
from depgraph_hsic_only.evaluation.validation import Validation, validate_model
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.report.tables import to_text
from depgraph_hsic_only.utils.conversion import export_onnx, quantize_onnx, verify_onnx
from depgraph_hsic_only.workflow.config import load_config
from depgraph_hsic_only.yolo.input_shape import InputShape, input_side, say_rounded


def with_channels(shapes: Path, folder: Path, channels: int) -> Path:
    """The drawn data set as TIFFs of so many pages."""
    keys = yaml.safe_load(shapes.read_text())
    for image in sorted((shapes.parent / "images").rglob("*.png")):
        colours = cv2.imread(str(image))
        pages = [np.roll(colours[..., k % 3], k, axis=0) for k in range(channels)]
        file = folder / image.relative_to(shapes.parent).with_suffix(".tiff")
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwritemulti(str(file), pages)
    (folder / "labels").symlink_to(shapes.parent / "labels")
    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump({**keys, "path": str(folder), "channels": channels}))
    return data


def settings_of(data: Path, checkpoint: Path) -> dict[str, Any]:
    return {"pretrained": str(checkpoint), "data": str(data), "imgsz": 64, "device": "cpu", "train.epochs": 0}


@pytest.mark.slow
def test_a_camera_of_four_channels_and_half_the_height(shapes: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A colour model is trained for four channels, and all that takes images takes those of the deployed file."""
    data = with_channels(shapes, tmp_path / "set", 4)
    export = {"export.imgsz": [64, 100], "export.batch": 2, "export.dynamic": True, "export.quantize": 8}
    export |= {"export.formats": ["torchscript"], "latency.threads": 1, "latency.runtime": "torch"}
    given = settings(tmp_path, data, **export, **{"train.epochs": 1, "fine_tune.epochs": 0, "prune.ratio": 0.25})
    with pytest.raises(ConfigError, match="images with 3 channels and those of the data set have 4, got 0; train"):
        DefaultYolov8SegPruner(checkpoint, **{**settings(tmp_path, data), "train.epochs": 0}).run()
    with pytest.raises(ConfigError, match="images with 3 channels and those of the data set have 4, got 0; train"):
        dry_run(load_config(None, {**settings_of(data, checkpoint), "prune.target": "gmacs=0.9"}))
    assert not (tmp_path / "run").exists()
    with pytest.warns(UserWarning, match="imgsz=100 is no multiple of the network's stride of 32 pixels: 128 is used"):
        say_rounded.cache_clear()
        report = DefaultYolov8SegPruner(checkpoint, **given).run()
    assert not any("as large as" in note for note in report.notes)  # the frame was chosen
    told = json.loads((report.folder / "report.json").read_text())
    baseline, shape = report.stages[0], InputShape(64, 128, 4, 2)
    assert baseline.map50_95 == {} and "channels" in baseline.notes[-1] and baseline.latency_ms["torch"]
    plain, int8, script = report.files
    assert [file.path for file in (plain, int8)] == ["weights/best.onnx", "weights/best_int8.onnx"]
    assert (script.path, script.format, script.precision) == ("weights/best.torchscript", "torchscript", "float32")
    assert (plain.verified, int8.verified, script.verified) == (True, None, True) and "same on 2 images" in script.says
    assert script.latency_ms is not None and script.latency_ms[0] > 0 and script.input == shape
    assert report.timed is not None and f"Latency of what is deployed: {report.timed}" in " ".join(str(report).split())
    assert str(report.timed) == f"{shape}, float, torch {torch.__version__} on cpu, 1 thread"
    assert "best.torchscript (torchscript): same on 2 images" in str(report)
    assert (
        plain.input == int8.input == report.measured_on == shape
        and str(shape) == "2 images of 64x128 px with 4 channels"
    )
    assert (plain.precision, int8.precision, plain.loss is None, int8.loss is None) == ("float32", "int8", True, False)
    assert (plain.calibrated_on, int8.calibrated_on) == (None, 16)
    for file in (plain, int8):
        assert file.latency_ms is not None and file.latency_ms[0] > 0 and file.map50_95.keys() == {"box", "mask"}
    assert told["files"][1]["input"] == {"height": 64, "width": 128, "channels": 4, "batch": 2}
    assert report.onnx is not None and report.onnx[1].ok and report.onnx[1].images == 2
    assert f"latency of {shape}" in str(report) and "best_int8.onnx in int8 loses" in str(report)
    page = (report.folder / "report.html").read_text(encoding="utf-8")
    assert f"Latency of {shape}" in page and "Exported files" in page and "best_int8.onnx in int8 loses" in page
    assert "best_int8.onnx was quantised by 16 images only" in page
    for file in (plain, int8):
        takes = onnx_input(open_session(report.folder / file.path))
        assert takes.shape == shape and takes.free
        assert onnx.load(report.folder / file.path).ir_version <= 10
    found = YOLO(report.folder / int8.path, task="segment").val(
        data=str(data), imgsz=128, batch=2, rect=False, workers=0, plots=False, device="cpu"
    )
    assert (found.box.map, found.seg.map) == (int8.map50_95["box"], int8.map50_95["mask"])
    with Image.open(report.folder / "plots" / "example-1.png") as picture:
        assert len(picture.getcolors() or ()) > 50
    best = report.folder / "weights" / "best.pt"
    assert YOLO(best).model.yaml["channels"] == 4
    assert "GMACs" in to_text(dry_run(load_config(None, {**settings_of(data, best), "prune.target": "gmacs=0.9"})))


@pytest.mark.parametrize(
    ("sizes", "frame"), [(((640, 360), (1280, 720)), (192, 320)), (((400, 300), (90, 160)), (320, 320))]
)
def test_the_smallest_frame_leaves_out_grey_alone(sizes: Any, frame: tuple[int, int], tmp_path: Path) -> None:
    """Letterboxed to it, an image has the pixels that it has in the square, and no row or column of it is missing."""
    files = []
    for k, (width, height) in enumerate(sizes):
        files.append(tmp_path / f"{k}.png")
        assert cv2.imwrite(str(files[-1]), np.random.default_rng(k).integers(0, 100, (height, width, 3), np.uint8))
    assert smallest_frame([*files, tmp_path / "none.png"], 320, 32) == frame
    assert smallest_frame([tmp_path / "none.png"], 320, 32) == (320, 320)
    for square, framed in zip(load_images(files, 320), load_images(files, frame), strict=True):
        seen = [
            image[:, (image < 0.44).any(0).any(1)][:, :, (image < 0.44).any(0).any(0)] for image in (square, framed)
        ]
        assert torch.equal(*seen) and max(seen[0].shape) == 320


def test_a_file_for_squares_of_wide_images_is_said_to_be_one(shapes: Path, checkpoint: Path, tmp_path: Path) -> None:
    data, images = tmp_path / "set" / "data.yaml", tmp_path / "set" / "images"
    shutil.copytree(shapes.parent, data.parent)
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "path": str(data.parent)}))
    for image in sorted(images.rglob("*.png")):
        assert cv2.imwrite(str(image), cv2.resize(cv2.imread(str(image)), (128, 60)))
    given = settings(tmp_path, data, **{"train.epochs": 0, "fine_tune.epochs": 0, "prune.ratio": 0})

    class Begun(DefaultYolov8SegPruner):
        def train(self, model: Any) -> Any:
            raise KeyboardInterrupt

    for size, expected in (None, 1), ([32, 64], 0):
        pruner = Begun(checkpoint, **{**given, "export.imgsz": size, "name": str(expected)})
        with pytest.raises(KeyboardInterrupt):
            pruner.run()
        said = RunReport.load(pruner.folder.path).before.notes
        assert len(said) == expected == (pruner.folder.path / "run.log").read_text().count("validation images fit")
        assert all(s.startswith("validation images fit 32x64 px as large as they are in 64x64") for s in said)
        assert all("have 50% of" in s for s in said)


def test_files_are_read_as_ultralytics_reads_them(tmp_path: Path) -> None:
    """Every kind of file, against the tensors of Ultralytics' own data set."""
    rng, keys = np.random.default_rng(0), {"names": {0: "thing"}, "nc": 1}
    colours, grey = rng.integers(0, 255, (40, 60, 3), np.uint8), rng.integers(0, 65535, (40, 60), np.uint16)
    by_channels = {
        1: {"colours.png": colours, "deep.png": grey, "page.tif": grey, "photo.jpg": colours},
        3: {"colours.png": colours, "deep.tiff": grey, "alpha.png": np.dstack([colours, colours[..., :1]])},
        4: {"bands.tif": np.dstack([colours, colours[..., :1]])},
    }
    for channels, files in by_channels.items():
        folder = tmp_path / str(channels)
        for split in ("train", "val"):
            (folder / "images" / split).mkdir(parents=True)
            (folder / "labels" / split).mkdir(parents=True)
        for name, image in files.items():
            assert cv2.imwrite(str(folder / "images" / "train" / name), image)
        if channels == 3:
            Image.fromarray(colours).convert("CMYK").save(folder / "images" / "train" / "print.jpg")
        for image in (folder / "images" / "train").iterdir():
            (folder / "labels" / "train" / f"{image.stem}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9")
        (folder / "labels" / "val" / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9")
        assert cv2.imwrite(str(folder / "images" / "val" / "a.tif"), next(reversed(files.values())))
        data = folder / "data.yaml"
        splits = {"path": str(folder), "train": "images/train", "val": "images/val"}
        data.write_text(yaml.safe_dump({**keys, **splits, "channels": channels}))
        dataset = find_dataset(data)
        theirs = torch.cat([b["img"] for b in labelled_batches(dataset, images=9, imgsz=64, batch=4)])
        ours = load_images(dataset.images("train"), 64, channels=channels)
        assert ours.shape == (len(files) + (channels == 3), channels, 64, 64) and torch.equal(
            ours, theirs.float() / 255
        )
    with pytest.raises(DataError, match="expected an image with 10 channels, as the data set or the model says, got 4"):
        load_images(tmp_path / "4" / "images" / "train", 64, channels=10)


def test_channels_that_can_not_be(shapes: Path, tmp_path: Path) -> None:
    """What Ultralytics would meet in a training is refused before it."""
    data = with_channels(shapes, tmp_path, 4)
    keys = yaml.safe_load(data.read_text())
    for wrong in (0, -1, 3.0, "three", True, None):
        with pytest.raises(DataError, match="channels to be a number of at least 1, such as 1, 3 or 10, got"):
            find_dataset({**keys, "channels": wrong})
    file = find_dataset(data).images("train")[3]
    assert cv2.imwrite(str(file), cv2.imread(str(file)))
    with pytest.raises(DataError, match=f"{file.name}: expected an image with 4 channels, .* got 3; save it as a TIFF"):
        find_dataset(data)


@pytest.mark.parametrize("images", [np.zeros((8, 3, 64, 64), np.float32), torch.rand(8, 3, 0, 0), [1, 2], None])
def test_calibration_images_that_can_not_be(images: Any, checkpoint: Path) -> None:
    if images is None:  # a tensor that a gradient is wanted of is as good as any other
        HsicLassoPruner(images=torch.rand(40, 3, 64, 64, requires_grad=True), layers=[2]).score(load_model(checkpoint))
        return
    with pytest.raises(DataError, match="expected"):
        HsicLassoPruner(images=images, ratio=0.25).prune(load_model(checkpoint))


def test_sides_are_rounded_up_everywhere_alike(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    say_rounded.cache_clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [input_side(model, 100), input_side(model, 100), input_side(model, 96)] == [128, 128, 96]
        framed = fitting(torch.rand(40, 3, 70, 100), model.model)
        assert InputShape.of(model, (70, 100), 2).dimensions == (2, 3, 96, 128)
        shares = {0.8: (96, 128), 0.9: (96, 160), 2 / 3: (64, 128), 0.1: (32, 32)}  # as large as they are or larger
        assert {share: InputShape(96, 160).scaled(model.model, share).size for share in shares} == shares
    assert [str(warning.message).split(" is no")[0] for warning in seen] == ["imgsz=100", "70x100 px", "imgsz=70"]
    images = framed[:, :, 13:83, 14:114]
    for wrong in (20, 64.0, "64", True, (64, 20), (64, 64, 64)):
        with pytest.raises(ConfigError, match="imgsz: expected a side in pixels of at least 32"):
            InputShape.of(model, wrong)
    assert framed.shape == (40, 3, 96, 128)
    assert float(framed[:, :, :13].min()) == float(framed[:, :, :13].max()) == pytest.approx(114 / 255)
    a, b = (HsicLassoPruner(images=given, layers=[2]).score(model) for given in (images, framed))
    assert a.keys() == b.keys() and all(torch.allclose(a[name], b[name]) for name in a)
    with pytest.raises(DataError, match="multiples of 32 pixels, got 70x100; resize them"):
        score_channels(model, "taylor", batches=[{"img": images}])
    with pytest.raises(DataError, match=r"expected images \(n, 3, h, w\), got \(40, 1, 70, 100\)"):
        fitting(images[:, :1], model.model)


@pytest.mark.parametrize("arguments", [{"imgsz": (64, 96)}, {"imgsz": 96, "dynamic": True, "batch": 3}])
def test_a_file_says_what_it_takes(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = build(nc=7)
    path = export_onnx(model, tmp_path / "best.onnx", **arguments)
    takes, given = onnx_input(open_session(path)), InputShape.of(model, arguments["imgsz"], arguments.get("batch", 1))
    assert takes.shape == given and takes.free == arguments.get("dynamic", False)
    int8 = quantize_onnx(path, tmp_path / "int8.onnx", torch.rand(4, 3, *given.size))
    assert onnx_input(open_session(int8)) == takes
    assert verify_onnx(path, model, torch.rand(2, 3, *given.size)).ok
    other = torch.rand(2, 3, 64, 64)
    if takes.free:
        assert verify_onnx(path, model, other).ok and verify_onnx(path, model, torch.rand(2, 3, 33, 70)).ok
    else:
        with pytest.raises(DataError, match="expected 1 image of 64x96 px, which the ONNX file takes, got 64x64 px"):
            verify_onnx(path, model, other)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"export.opset": 3}, "requires opset>=9"),
        ({"export.opset": 99}, "opset"),
        ({"export.opset": 11, "export.quantize": "int8"}, "opset 13 or later, got float32 of opset 11"),
    ],
)
def test_an_export_that_would_fail_is_refused_at_the_start(
    given: dict[str, Any], said: str, checkpoint: Path, shapes: Path, tmp_path: Path, capfd: Any
) -> None:
    with pytest.raises(ExportError, match=f"export: expected settings that can be used, but .*{said}"):
        DefaultYolov8SegPruner(checkpoint, **settings(tmp_path, shapes, **given)).run()
    assert list(tmp_path.iterdir()) == [] and "graph(" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_float16_is_measured_on_the_real_model(real_weights: Path, tmp_path: Path) -> None:
    """Half precision moves a few pixels of small masks; its mAP tells that it is as good."""
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    files = [str(file) for file in find_dataset(COCO_MINI).images("val")[:8]]
    (tmp_path / "val.txt").write_text("\n".join(files))
    keys = {**yaml.safe_load(COCO_MINI.read_text()), "path": str(COCO_MINI.parent), "val": str(tmp_path / "val.txt")}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(keys))
    none = {"train.epochs": 0, "fine_tune.epochs": 0, "prune.ratio": 0, "export.quantize": 16, "imgsz": 160}
    report = DefaultYolov8SegPruner(real_weights, **settings(tmp_path, tmp_path / "data.yaml", **none)).run()
    (file,) = report.files
    assert file.precision == "float16" and file.loss is not None and abs(file.loss) < 0.02 < file.map50_95["mask"]
    session = onnxruntime.InferenceSession(str(report.folder / file.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float)" and file.size_mb < 8


def test_pictures_of_any_channels_show_what_was_found(real_yolo: Any, tmp_path: Path) -> None:
    """The real model, given seven channels more that it doesn't look at, finds the same in the same photographs."""
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    files = find_dataset(COCO_MINI).images("val")[:3]
    wide = SegmentationModel("yolov8n-seg.yaml", ch=10, nc=80, verbose=False)
    state = real_yolo.model.state_dict()
    state["model.0.conv.weight"] = nn.functional.pad(state["model.0.conv.weight"], (0, 0, 0, 0, 0, 7))
    wide.load_state_dict(state)
    for name in ("names", "args", "task"):
        setattr(wide, name, getattr(real_yolo.model, name, "segment"))
    yolo = YOLO("yolov8n-seg.yaml")
    yolo.model = wide
    for file in files:
        colours = cv2.imread(str(file))[..., ::-1]  # channels of a TIFF are not reordered
        pages = [*np.moveaxis(colours, 2, 0), *[np.zeros_like(colours[..., 0])] * 7]
        assert cv2.imwritemulti(str(tmp_path / f"{file.stem}.tif"), pages)
    both = []
    for model, some in ((real_yolo, files), (yolo, sorted(tmp_path.glob("*.tif")))):
        found, pairs = measure_agreement(model, model, some, shape=InputShape.of(model, (160, 192)), device="cpu")
        assert all(pair.before.shape[2] == 3 and pair.before.std() > 5 for pair in pairs.values())
        both.append([row.before for row in found.examples])
    assert both[0] == both[1] and sum(both[0]) > 3


@pytest.mark.slow
def test_prototypes_of_another_stride_measure_the_same(real_weights: Path) -> None:
    """Prototypes of which each pixel is repeated are those of twice the size with the same masks."""
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    plain, finer = load_model(real_weights), load_model(real_weights)
    head: Any = finer.model.model[-1]
    head.proto.cv3.act = nn.Sequential(head.proto.cv3.act, nn.Upsample(scale_factor=2, mode="nearest"))
    given = (str(COCO_MINI), Validation(160, 16))
    a, b = (validate_model(model, *given, device="cpu", workers=0) for model in (plain, finer))
    assert a.metrics == b.metrics and a["mask"].map50_95 > 0.05


@pytest.mark.slow
def test_a_model_with_a_scale_of_stride_4_goes_through(shapes: Path, tmp_path: Path) -> None:
    rows = yaml.safe_load((Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / "yolov8-p2.yaml").read_text())
    rows["head"][-1] = [rows["head"][-1][0], 1, "Segment", ["nc", 32, 256]]
    (tmp_path / "yolov8n-p2.yaml").write_text(yaml.safe_dump({**rows, "nc": 5}))
    given = settings(tmp_path, shapes, **{"train.epochs": 1, "fine_tune.epochs": 1, "prune.ratio": 0.25})
    report = DefaultYolov8SegPruner(tmp_path / "yolov8n-p2.yaml", **given, **{"prune.layers": "all"}).run()
    assert report.after.map50_95.keys() == {"box", "mask"} and report.onnx is not None and report.onnx[1].ok
    before, after = report.widths_before, report.widths_after
    assert after["w24"] < before["w24"] and after["w27"] < before["w27"] and after["npr"] < before["npr"]
    found = YOLO(report.folder / "weights" / "best.pt").model
    assert (
        found.stride.tolist() == [4, 8, 16, 32]
        and sum(p.numel() for p in found.parameters()) == report.after.parameters
    )
