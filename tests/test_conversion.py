"""C2f to split form and back, and ONNX files that prove themselves."""

import copy
import re
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from conftest import COCO_MINI, build, enliven, every, outputs
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from depgraph_hsic_only import DataError, ExportError, ensure_nms, prune
from depgraph_hsic_only.data.images import load_images
from depgraph_hsic_only.evaluation import ranges
from depgraph_hsic_only.evaluation.file_size import FileKind
from depgraph_hsic_only.evaluation.ranges import _itself, _least_error, _silu
from depgraph_hsic_only.utils.conversion import SplitC2f, export_onnx, merge_c2f, quantize_onnx, split_c2f, verify_onnx
from depgraph_hsic_only.yolo.input_shape import InputShape


def test_split_and_merge_are_inverse_and_compute_the_same() -> None:
    model = build()
    split = split_c2f(copy.deepcopy(model))
    assert sum(isinstance(m, SplitC2f) for m in split.modules()) == 8
    image = torch.rand(1, 3, 64, 64)
    for a, b in zip(outputs(split, image), outputs(model, image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    merged, wanted = merge_c2f(split).state_dict(), model.state_dict()
    assert list(merged) == list(wanted) and all(torch.equal(merged[k], wanted[k]) for k in wanted)

    lone = split_c2f(copy.deepcopy(model.model[4]))
    assert isinstance(lone, SplitC2f) and (lone.i, lone.f, lone.training) == (4, -1, False)
    with pytest.raises(ValueError, match="two halves of one width"):
        lone.second = model.model[3]
        merge_c2f(lone)


@pytest.mark.parametrize("arguments", every([{"dynamic": True, "simplify": False}, {"batch": 2, "opset": 13}], [{}]))
def test_an_exported_model_does_the_same_and_keeps_its_names(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = build(nc=7)
    prune(model, 0.5)
    model.names = {i: f"thing {i}" for i in range(7)}
    before = copy.deepcopy(model)
    path = export_onnx(model, tmp_path / "new folder" / "best.onnx", imgsz=64, **arguments)
    assert [p.name for p in path.parent.iterdir()] == ["best.onnx"]
    parity = verify_onnx(path, model, torch.rand(3, 3, 64, 64))
    assert parity.ok and parity.images == 3 and 0 < parity.max_abs_diff < 1e-3, parity
    assert list(model.state_dict()) == list(before.state_dict())  # not fused
    assert type(model.model[2]).forward is type(before.model[2]).forward and "forward" not in vars(model.model[2])
    other = build(nc=7)
    prune(other, 0.5, criterion="random")
    assert not verify_onnx(path, other, torch.rand(1, 3, 64, 64)).ok
    result = (
        YOLO(path).predict(
            torch.rand(parity.images if arguments.get("dynamic") else 1, 3, 64, 64), imgsz=64, verbose=False
        )
        if "batch" not in arguments
        else None
    )
    assert result is None or result[0].names == model.names


def test_real_images_real_model(real_yolo: Any, tmp_path: Path) -> None:
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    images = sorted((COCO_MINI.parent / "images" / "val").glob("*.jpg"))[:6]
    path = export_onnx(real_yolo, tmp_path / "best.onnx", imgsz=320)
    parity = verify_onnx(path, real_yolo, images)
    assert parity.ok and parity.detections > 5 and parity.mask_iou is not None and parity.mask_iou > 0.99, parity
    changed = copy.deepcopy(real_yolo.model)
    changed.model[-1].proto.cv3.conv.weight.data *= 1.02  # what a slightly wrong converter would do
    parity = verify_onnx(path, changed, images)
    assert not parity.ok and "DIFFERENT" in str(parity)


def test_detection_models_have_no_masks(tmp_path: Path) -> None:
    model = DetectionModel("yolov8n.yaml", nc=3, verbose=False).eval()
    parity = verify_onnx(export_onnx(model, tmp_path / "d.onnx", imgsz=64), model, torch.rand(2, 3, 64, 64))
    assert parity.ok and parity.mask_iou is None


def test_export_mistakes(tmp_path: Path) -> None:
    model = build()
    with pytest.raises(ExportError, match=r"ends in \.onnx"):
        export_onnx(model, tmp_path / "best.pt")
    with pytest.raises(ExportError, match="failed"):
        export_onnx(model, tmp_path / "best.onnx", opset=3)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "no.onnx").write_text("text")
    (tmp_path / "folder.onnx").mkdir()
    for place, got in (("folder.onnx", "got a folder of that name"), ("no.onnx/best.onnx", "which is no folder")):
        with pytest.raises(ExportError, match=got):
            export_onnx(model, tmp_path / place)
    with pytest.raises(ExportError, match="onnxruntime can run"):
        verify_onnx(tmp_path / "no.onnx", model, torch.rand(1, 3, 64, 64))
    path = export_onnx(model, tmp_path / "best.onnx", imgsz=64)
    for images in (
        torch.zeros(1, 3, 64),
        torch.full((1, 3, 64, 64), 2.0),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ):
        with pytest.raises(DataError, match=r"float in \[0, 1\]"):
            verify_onnx(path, model, images)
    assert verify_onnx(path, model, torch.rand(1, 3, 64, 64, dtype=torch.double)).ok
    other = onnx.load(path)
    onnx.helper.set_model_props(other, {"imgsz": "large"})
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match="whose metadata says"):
        verify_onnx(tmp_path / "other.onnx", model, images)
    with pytest.raises(DataError, match="expected image files"):
        verify_onnx(path, model, tmp_path / "nothing here")


@pytest.mark.parametrize(("name", "given"), [("yolov8n-seg.yaml", {}), ("yolo26n.yaml", {"nms": False})])
def test_what_rounding_to_float32_changes_by_itself_passes_and_no_more(
    name: str, given: dict[str, Any], tmp_path: Path
) -> None:
    """So that the file of a badly trained model, of huge activations, is not said to be another model's."""
    torch.manual_seed(0)
    model, images = enliven(YOLO(name).model).eval(), torch.rand(2, 3, 64, 64)
    path = export_onnx(model, tmp_path / "best.onnx", imgsz=64, **given)
    parity = verify_onnx(path, model, images, tolerance=1e-9)
    assert parity.ok and 1e-9 < parity.max_abs_diff <= parity.tolerance < 1e-3
    with torch.no_grad():
        getattr(model.model[-1], "one2one_cv2" if given else "cv2")[0][-1].bias[0] += 1
    assert not verify_onnx(path, model, images).ok


PARTS = {"boxes": slice(0, 4), "scores": slice(4, 11), "coefficients": slice(11, None)}


def raw_outputs(path: Path, images: torch.Tensor) -> list[torch.Tensor]:
    """What an ONNX file of batch 1 puts out for each image, stacked."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [session.run(None, {"images": image[None].numpy()}) for image in images]
    return [torch.cat([torch.from_numpy(o) for o in output]) for output in zip(*outputs, strict=True)]


def test_int8_files_are_near_and_decode_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ensure_nms()  # which predict needs
    model, images = build(nc=7), torch.rand(8, 3, 64, 64)
    model.names = {i: f"thing {i}" for i in range(7)}
    source = export_onnx(model, tmp_path / "float.onnx", imgsz=64)
    path = quantize_onnx(source, tmp_path / "new folder" / "int8.onnx", images)
    assert [p.name for p in path.parent.iterdir()] == ["int8.onnx"]
    assert path.stat().st_size < 0.4 * source.stat().st_size
    weighed = FileKind(int8=True).weigh(model, InputShape.of(model, 64))  # by ranges of its own
    assert 0 <= weighed - path.stat().st_size / 1e6 < 2e-3
    assert YOLO(path, task="segment").predict(images[:1], imgsz=64, verbose=False)[0].names == model.names

    network = onnx.load(path)
    makers = {output: node.op_type for node in network.graph.node for output in node.output}
    weights = {node.name: makers.get(node.input[1]) for node in network.graph.node if node.op_type == "Conv"}
    last = [name for name in weights if re.search(r"/cv[234]\.\d\.2/Conv|/dfl/", name)]
    assert len(last) == 10 and all(weights[name] is None for name in last)  # float, straight from the file
    assert all(maker == "DequantizeLinear" for name, maker in weights.items() if name not in last)
    scales = {t.name: t.data_type for t in network.graph.initializer if t.name.endswith("_zero_point")}
    assert scales["images_zero_point"] == onnx.TensorProto.UINT8

    for fine, coarse in zip(*(raw_outputs(file, images[:2]) for file in (source, path)), strict=True):
        parts = [(fine, coarse)] if fine.shape[1] == 32 else [(fine[:, k], coarse[:, k]) for k in PARTS.values()]
        for a, b in parts:  # random weights have prototypes with long tails, which 8 bits hold badly
            assert float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) > 0.8


def test_int8_files_find_the_same_objects_and_lose_less_than_by_whole_ranges(
    real_yolo: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    ensure_nms()
    folder = COCO_MINI.parent / "images"
    source = export_onnx(real_yolo, tmp_path / "float.onnx", imgsz=320)
    path = quantize_onnx(source, tmp_path / "int8.onnx", folder / "train", limit=16)
    pictures = [str(file) for file in sorted((folder / "val").glob("*.jpg"))[:6]]
    found = [
        YOLO(file, task="segment").predict(pictures, imgsz=320, conf=0.5, verbose=False) for file in (source, path)
    ]
    classes = [[sorted(result.boxes.cls.int().tolist()) for result in results] for results in found]
    common = sum((Counter(a) & Counter(b)).total() for a, b in zip(*classes, strict=True))
    assert min(sum(map(len, c)) for c in classes) > 5
    assert common >= 0.8 * max(sum(map(len, c)) for c in classes), classes

    monkeypatch.setattr(ranges, "_SHARES", ranges._SHARES[:1])
    whole = quantize_onnx(source, tmp_path / "whole.onnx", folder / "train", limit=16)
    images = load_images(pictures, (320, 320))
    exact, *rounded = (raw_outputs(file, images)[0][:, 4:84] for file in (source, path, whole))
    sure = exact.amax(1, keepdim=True) > 0.05
    lost, lost_by_whole = (float(((found - exact).abs() * sure).sum()) for found in rounded)
    assert lost < 0.8 * lost_by_whole


@pytest.mark.parametrize("silu", [False, True])
def test_ranges_have_the_least_error(silu: bool) -> None:
    """By PyTorch's own rounding, on values with a long tail below zero, as they are before a SiLU."""
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.randn(40_000, generator=generator) * 3, torch.linspace(-40, 12, 60)]).double()
    counts = torch.histc(values, 2048, -40, 12).numpy()

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        rounded = torch.fake_quantize_per_tensor_affine(values.float(), step, round(-low / step), 0, 255).double()
        read = torch.nn.functional.silu if silu else torch.nn.Identity()
        return float((read(rounded) - read(values)).square().mean())

    low, high = _least_error(counts, -40.0, 12.0, _silu if silu else _itself)
    others = [error(-float(a) * 40, float(b) * 12) for a, b in torch.rand(300, 2, generator=generator) * 0.98 + 0.02]
    assert error(low, high) <= 1.1 * min(others)
    assert (low > -13) == silu  # which makes nearly nothing of the tail
    assert not silu or error(low, high) < 0.5 * error(-40, 12)


@pytest.mark.slow
def test_ranges_of_a_file_with_free_axes_for_batches_are_those_of_the_fixed_one(tmp_path: Path) -> None:
    """Its attention computes shapes, in integers, by the same kinds of nodes; two images fill the batch twice."""
    torch.manual_seed(0)
    model, images = enliven(YOLO("yolo11n-seg.yaml").model).eval(), torch.rand(2, 3, 64, 64)
    forms: list[dict[str, Any]] = [{}, {"dynamic": True, "batch": 4}]
    files = [export_onnx(model, tmp_path / f"{k}.onnx", imgsz=64, **given) for k, given in enumerate(forms)]
    int8 = [quantize_onnx(file, tmp_path / f"int8-{file.name}", images) for file in files]
    scales = []
    for file in int8:
        known = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
        scales.append({k: float(v) for k, v in known.items() if re.search("_output_0_scale$", k) and v.size == 1})
    same = [scales[1].get(k) == pytest.approx(scale, rel=1e-3) for k, scale in scales[0].items()]
    assert len(same) > 200 and sum(same) > 0.95 * len(same)  # of two ranges that are as good either may be taken


def test_what_can_not_be_quantised(tmp_path: Path) -> None:
    model, images = build(nc=3), torch.rand(1, 3, 64, 64)
    old = export_onnx(model, tmp_path / "old.onnx", imgsz=64, opset=11)
    with pytest.raises(ExportError, match=r"opset 13 or later, got float32 of opset 11; export it"):
        quantize_onnx(old, tmp_path / "int8.onnx", images)
    fixed = export_onnx(model, tmp_path / "fixed.onnx", imgsz=64)
    with pytest.raises(ExportError, match=r"ends in \.onnx"):
        quantize_onnx(fixed, tmp_path / "int8", images)
    nameless = onnx.load(fixed)
    for node in nameless.graph.node:
        node.name = ""
    onnx.save(nameless, tmp_path / "nameless.onnx")
    with pytest.raises(ExportError, match="named layers"):
        quantize_onnx(tmp_path / "nameless.onnx", tmp_path / "int8.onnx", images)
    next(model.parameters()).data[0] = torch.nan
    with pytest.raises(ExportError, match="expected finite activations, got others in /model"):
        quantize_onnx(export_onnx(model, fixed, imgsz=64), tmp_path / "int8.onnx", images)
    with pytest.raises(DataError, match="limit: expected at least 1 image, got 0; pass None"):
        quantize_onnx(fixed, tmp_path / "int8.onnx", images, limit=0)
    assert not (tmp_path / "int8.onnx").exists()
