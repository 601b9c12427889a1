"""Every task measured: what two models agree on, mAP, and the proof of an export, with NMS to come or end to end."""

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import COCO_MINI, SHARED, every
from hypothesis import given
from hypothesis import strategies as st
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.engine.results import Results
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.metrics import OKS_SIGMA, kpt_iou
from ultralytics.utils.ops import xywhr2xyxyxyxy

from depgraph_hsic_only import ExportError, ensure_nms
from depgraph_hsic_only.evaluation.agreement import COMPARED, agreement_of, measure_agreement
from depgraph_hsic_only.evaluation.onnx import export_onnx
from depgraph_hsic_only.evaluation.parity import match_detections, verify_onnx
from depgraph_hsic_only.evaluation.similarity import box_iou, keypoint_similarity, rotated_iou
from depgraph_hsic_only.evaluation.validation import (
    Validation,
    rectangular_order,
    validate_file,
    validate_model,
)
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.tasks import TASKS

NAMES = {0: "cat", 1: "dog", 2: "cow"}
KEYPOINTS = 4
Box = tuple[int, int, int, int]  # x, y, x, y


def found(task: str, *objects: tuple[int, Box], shift: float = 0.0) -> Results:
    """Upright objects of a class; the keypoints of a pose are the corners, moved by so many pixels."""
    image = np.zeros((20, 20, 3), np.uint8)
    rows = torch.tensor([[*box, 0.9, number] for number, box in objects]).reshape(-1, 6).float()
    if task == "obb":
        centre, side = (rows[:, :2] + rows[:, 2:4]) / 2, rows[:, 2:4] - rows[:, :2]
        obb = torch.cat([centre, side, torch.zeros(len(rows), 1), rows[:, 4:]], 1)
        return Results(image, path="", names=NAMES, obb=obb)
    extras: dict[str, torch.Tensor] = {}
    if task == "segment" and objects:
        extras["masks"] = torch.zeros(len(rows), 20, 20)
        for mask, (_, (left, top, right, bottom)) in zip(extras["masks"], objects, strict=True):
            mask[top:bottom, left:right] = 1
    if task == "pose":
        corners = rows[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) + shift
        extras["keypoints"] = torch.cat([corners, torch.full((len(rows), 4, 1), 0.7)], 2)
    return Results(image, path="", names=NAMES, boxes=rows, **extras)


@pytest.mark.parametrize("task", TASKS)
def test_agreement_is_the_panoptic_quality(task: str) -> None:
    cat, dog, other = (0, (0, 0, 10, 10)), (1, (0, 10, 10, 20)), (1, (10, 0, 20, 10))
    moved = (0, (0, 0, 10, 9))  # IoU 0.9

    def agreement(a: list[Any], b: list[Any], shift: float = 0.0) -> float:
        return agreement_of(found(task, *a), found(task, *b, shift=shift), COMPARED[task])

    same, differing = [cat, dog, other], [moved, dog]
    assert agreement(same, same) == agreement([], []) == 1.0
    assert agreement(same, []) == agreement([], same) == 0.0
    near = 1.0 if task != "pose" else float(np.mean([1, 1, np.exp(-1 / (8 / 16 * 0.53 * 90**0.5 * 100**0.5))] * 2))
    if task == "pose":  # two of the four corners have moved by a pixel
        near = (2 + 2 * np.exp(-1 / (8 / 16 * 0.53 * (90 * 100) ** 0.5))) / 4
    expected = (0.9 * near + 1.0) / 2.5  # two match, one of three is left
    assert agreement(same, differing) == pytest.approx(expected)
    assert agreement(differing, same) == pytest.approx(expected)
    assert agreement(same, [(2, moved[1]), dog]) == pytest.approx(1.0 / 2.5)
    assert agreement([cat], [(0, (0, 0, 5, 10))]) == 0.0  # an IoU of just a half is no match
    if task == "pose":
        assert 0.0 < agreement(same, same, shift=4.0) < agreement(same, same, shift=2.0) < 1.0


objects = st.lists(
    st.tuples(
        st.integers(0, 2), st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(10, 19), st.integers(10, 19))
    ),
    max_size=5,
)


@given(objects, objects, st.sampled_from(list(TASKS)), st.floats(0, 3))
def test_agreement_is_symmetric_and_whole_with_itself(a: list[Any], b: list[Any], task: str, shift: float) -> None:
    one, other = found(task, *a), found(task, *b, shift=shift)
    there, back = agreement_of(one, other, COMPARED[task]), agreement_of(other, one, COMPARED[task])
    assert 0.0 <= there <= 1.0 and there == pytest.approx(back)
    assert agreement_of(one, one, COMPARED[task]) == 1.0


def test_rotated_boxes_overlap_by_the_area_that_they_share() -> None:
    """Counted on a grid of points, and of upright ones that of the boxes."""
    random = np.random.default_rng(0)
    places = random.uniform([30, 30, 5, 5, -4], [70, 70, 60, 60, 4], (6, 5))
    boxes = torch.as_tensor(np.vstack([places, places[0] + np.array([0.1, 0, 0, 0, 0.001])]))
    grid = np.stack(np.meshgrid(np.arange(0, 100, 0.25), np.arange(0, 100, 0.25)), -1).reshape(-1, 2)

    def inside(box: Any) -> Any:
        x, y, width, height, angle = box
        axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return (np.abs((grid - [x, y]) @ axes) <= [width / 2, height / 2]).all(1)

    held = [inside(box) for box in boxes.tolist()]
    counted = [[(a & b).sum() / (a | b).sum() for b in held] for a in held]
    assert rotated_iou(boxes, boxes).numpy() == pytest.approx(np.array(counted), abs=0.02)
    assert (rotated_iou(boxes, boxes).diagonal() == 1).all()
    turned = boxes[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, torch.pi / 2])  # the same rectangles
    assert rotated_iou(boxes, turned).diagonal().numpy() == pytest.approx(1, abs=1e-3)
    upright = boxes * torch.tensor([1, 1, 1, 1, 0])
    corners = xywhr2xyxyxyxy(upright)
    ends = torch.cat([corners.amin(1), corners.amax(1)], 1)
    assert rotated_iou(upright, upright).numpy() == pytest.approx(box_iou(ends, ends).numpy(), abs=1e-4)


def test_keypoints_are_compared_as_ultralytics_does() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 60, 80], [10, 0, 70, 80]])  # of one area
    for count, sigma in ((17, OKS_SIGMA), (5, np.ones(5) / 5)):
        points = torch.cat([100 * torch.rand(4, count, 2), torch.ones(4, count, 1)], 2)
        wanted = kpt_iou(points[:2], points[2:], torch.full((2,), 0.53 * 4800), sigma.tolist())
        assert keypoint_similarity(points[:2], points[2:], boxes, boxes).numpy() == pytest.approx(wanted.numpy())
    unseen = points.clone()
    unseen[:2, 0, 2], unseen[2:, 0, 2] = 0, 0
    moved = unseen.clone()
    moved[:, 0, :2] += 50  # what neither sees may be anywhere
    given = [keypoint_similarity(some[:2], some[2:], boxes, boxes) for some in (unseen, moved)]
    assert torch.equal(*given)


def detections(count: int, seed: int = 0) -> torch.Tensor:
    """Sorted by score, as an end-to-end head puts them out: the box, score, class and two extras."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 8, generator=random)
    rows[:, :4] *= 64
    rows[:, 5] = (rows[:, 5] * 3).floor()
    rows[:, 4] = rows[:, 4].sort(descending=True).values
    return rows


UNITS = torch.tensor([64.0, 64, 64, 64, 1, 1])


@given(st.permutations(range(12)), st.permutations(range(12)), st.floats(0, 1e-3), st.integers(0, 99))
def test_detections_match_in_any_order(first: list[int], second: list[int], noise: float, seed: int) -> None:
    a = detections(12, seed)
    b = a.clone()
    b[:, [0, 1, 2, 3, 4, 6, 7]] += noise * torch.randn(12, 7, generator=torch.Generator().manual_seed(seed))
    straight, pairs = match_detections(a, b, UNITS)
    mixed, others = match_detections(a[first], b[second], UNITS)
    assert straight == mixed <= 4 * noise + 1e-6
    assert {(first[i], second[j]) for i, j in others.tolist()} == {(i, j) for i, j in pairs.tolist()}


def test_what_differs_in_detections_is_seen() -> None:
    a = detections(12)
    for column, step, difference in ((0, 8.0, 8 / 64), (4, -0.01, 0.01), (7, 0.3, 0.3)):  # a box, a score, an extra
        b = a.clone()
        b[3, column] += step
        assert match_detections(a, b, UNITS)[0] == pytest.approx(difference, rel=1e-3), column
    b = a.clone()
    b[2, 5] = (b[2, 5] + 1) % 3  # another class is another object
    assert match_detections(a, b, UNITS)[0] > 0.1
    for one, other in ((a[:-1], a[1:]), (a[1:], a[:-1])):  # lost, or found in addition: as bad as its score
        assert match_detections(one, other, UNITS)[0] == pytest.approx(float(a[0, 4] - a[-1, 4]), abs=0.05)
    tie = a.clone()
    tie[-1] = torch.tensor([1.0, 2, 3, 4, float(a[-1, 4]) + 1e-6, 0, 0, 0])  # another object where the list ends
    largest, pairs = match_detections(a, tie, UNITS)
    assert largest < 1e-5 and len(pairs) == 11


def model_of(task: str, yaml: str = "yolov8n") -> Any:
    """A `YOLO` with random weights, of two classes, whose signals don't vanish: it is surest of some small boxes."""
    torch.manual_seed(1)
    name = f"{yaml}{TASKS[task].suffix}.yaml"
    yolo: Any = YOLO(name)
    more = {"data_kpt_shape": (KEYPOINTS, 3)} if task == "pose" else {}
    network = yolo.model = type(yolo.model)(name, nc=2, verbose=False, **more)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 64, 64))
    for norm in norms:
        norm.momentum = 0.03
    head = network.eval().model[-1]
    for prefix in ("", "one2one_")[: 1 + hasattr(head, "one2one_cv2")]:
        boxes = getattr(head, f"{prefix}cv2")[0][-1]
        for k, step in enumerate((7, -20, -20)):  # nothing at all in the larger cells
            getattr(head, f"{prefix}cv3")[k][-1].bias.data += step
        if head.reg_max > 1:
            boxes.bias.data.view(4, -1)[:, 1] = 9
        if task == "pose":
            getattr(head, prefix + "cv4")[0][-1].weight.data /= 9  # keypoints near their cell, so in the image
    if task == "segment":
        head.proto.cv3.bn.weight.data /= 99  # of the size of a trained model's prototypes
    network.args, network.task = {**DEFAULT_CFG_DICT, "imgsz": 64, "task": task}, task
    yolo.ckpt = {"train_args": {"imgsz": 64, "task": task}}
    return yolo


def labelled(yolo: Any, folder: Path) -> Path:
    """A data set of which the model knows the truth: what it finds itself."""
    ensure_nms()
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    for k in range(3):
        blocks = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        file, labels = (folder / kind / "val" / f"{k}{end}" for kind, end in (("images", ".png"), ("labels", ".txt")))
        cv2.imwrite(str(file), cv2.resize(blocks, (64, 64), interpolation=cv2.INTER_CUBIC))
        copy.deepcopy(yolo).predict(file, imgsz=64, conf=0.01, max_det=9, verbose=False)[0].save_txt(labels)
        lines = labels.read_text().splitlines()
        labels.write_text("\n".join(line for line in lines if all(0 <= float(word) <= 1 for word in line.split())))
    text = f"path: {folder}\ntrain: images/val\nval: images/val\nnames: [a, b]\n"
    (folder / "data.yaml").write_text(text + (f"kpt_shape: [{KEYPOINTS}, 3]\n" if yolo.task == "pose" else ""))
    return folder / "data.yaml"


@pytest.mark.parametrize("task", every(["pose", "obb"], ["detect"]))
def test_every_task_is_measured_exported_and_compared(task: str, tmp_path: Path) -> None:
    yolo = model_of(task)
    data = labelled(yolo, tmp_path / "set")
    given: dict[str, Any] = {"device": "cpu", "workers": 0}
    metrics = validate_model(yolo, str(data), Validation(64, 2, rect=False), draws=20, **given)
    assert tuple(metrics.metrics) == TASKS[task].kinds and metrics.primary is metrics[TASKS[task].primary]
    yolo.save(tmp_path / "saved.pt")
    found = YOLO(tmp_path / "saved.pt").val(data=data, imgsz=64, batch=2, rect=False, plots=False, **given)
    fresh = {"box": found.box, "pose": getattr(found, "pose", None)}
    for kind, accuracy in metrics.metrics.items():
        assert accuracy.map50_95 == fresh[kind].map > 0.3 and accuracy.map50 == fresh[kind].map50
        assert np.mean([row.map50_95[kind] for row in metrics.classes]) == pytest.approx(accuracy.map50_95)
    assert np.mean(metrics.resampled) == pytest.approx(metrics.primary.map50_95, abs=0.15)

    path = export_onnx(yolo, tmp_path / "tiny.onnx", imgsz=64)
    parity = verify_onnx(path, yolo, data.parent / "images" / "val")
    assert parity.ok and parity.mask_iou is None and parity.detections > 0, parity
    exported = validate_file(path, str(data), InputShape(64, 64), task, draws=20)
    assert np.mean(exported.resampled) == pytest.approx(exported.primary.map50_95, abs=0.15)
    assert exported.primary.map50_95 == pytest.approx(metrics.primary.map50_95, abs=0.02)

    other = copy.deepcopy(yolo)
    with torch.no_grad():
        other.model.model[-1].cv2[0][-1].bias.view(4, -1)[:, 2] += 9
    broken = copy.deepcopy(yolo)
    broken.model.model[-1].cv3[0][-1].bias.data[0] = torch.nan
    files = sorted((data.parent / "images" / "val").glob("*.png"))
    assert not verify_onnx(path, other, files).ok and not verify_onnx(path, broken, files).ok
    same, pairs = measure_agreement(
        copy.deepcopy(yolo), copy.deepcopy(yolo), files, shape=InputShape(64, 64), device="cpu"
    )
    assert same.agreement == 1.0 and same.differing == () and same.examples[0].before > 0
    assert (pairs["example-1"].before != cv2.imread(str(files[0]))[..., ::-1]).any()  # drawn into
    less, _ = measure_agreement(copy.deepcopy(yolo), other, files, shape=InputShape(64, 64), device="cpu")
    assert less.agreement is not None and less.agreement < 1.0


def test_a_file_is_measured_on_the_samples_of_a_model_in_rectangular_batches(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for k in range(40):  # with shapes that come again
        cv2.imwrite(str(tmp_path / f"{k:02}.png"), np.zeros((*random.integers(10, 14, 2), 3), np.uint8))
    args = get_cfg(overrides={"task": "detect", "imgsz": 32, "cache": False})
    keys = {"names": NAMES, "channels": 3}
    plain, rectangular = (
        build_yolo_dataset(args, str(tmp_path), 8, keys, mode="val", rect=rect) for rect in (False, True)
    )
    assert plain.im_files != rectangular.im_files
    assert [plain.im_files[k] for k in rectangular_order(plain.labels)] == rectangular.im_files


@pytest.mark.parametrize("nms", [None, False])
def test_an_end_to_end_model_is_proven_with_nms_and_without(nms: bool | None, tmp_path: Path) -> None:
    yolo = model_of("segment", "yolo26n")
    images = torch.rand(2, 3, 64, 64)
    path = export_onnx(yolo, tmp_path / "tiny.onnx", imgsz=64, nms=nms)
    parity = verify_onnx(path, yolo, images, tolerance=1e-2)  # random weights make large numbers
    assert parity.ok and parity.detections > 0 and parity.mask_iou is not None, parity
    head, other = f"model.{len(yolo.model.model) - 1}.", copy.deepcopy(yolo.model)
    for name, parameter in other.named_parameters():
        if name.startswith(f"{head}{'cv' if nms is False else 'one2one_cv'}"):
            parameter.data += 1  # of the branches that are not in the file
    assert verify_onnx(path, other, images, tolerance=1e-2) == parity
    other.get_parameter(f"{head}{'one2one_cv2' if nms is False else 'cv2'}.0.2.bias").data[0] += 1.0
    assert verify_onnx(path, other, images).max_abs_diff == pytest.approx(8 / 64, rel=0.01)  # a side moves by a cell
    if nms is None:
        with pytest.raises(ExportError, match="pass the model that it was exported from"):
            verify_onnx(path, model_of("detect"), images)


@pytest.mark.slow
def test_real_end_to_end_figures_are_ultralytics_own(tmp_path: Path) -> None:
    weights = SHARED / "weights" / "yolo26n-seg.pt"
    if not (weights.exists() and COCO_MINI.exists()):
        pytest.skip(f"no {weights}, or no images at {COCO_MINI}")
    given: dict[str, Any] = {"device": "cpu", "workers": 0}
    masks = []
    for nms in (None, False):
        validation = Validation(160, 16, nms=nms)
        metrics = validate_model(YOLO(weights), str(COCO_MINI), validation, **given)
        found = YOLO(weights).val(data=COCO_MINI, imgsz=160, batch=16, nms=nms, plots=False, **given)
        assert metrics["mask"].map50_95 == found.seg.map > 0.1 and metrics["box"].map50_95 == found.box.map
        masks.append(metrics.primary.map50_95)
        path = export_onnx(YOLO(weights), tmp_path / "real.onnx", imgsz=160, nms=nms)
        parity = verify_onnx(path, YOLO(weights), sorted((COCO_MINI.parent / "images" / "val").glob("*.jpg"))[:8])
        assert parity.ok and parity.detections > 5 and parity.mask_iou is not None, parity
        exported = validate_file(path, str(COCO_MINI), InputShape(160, 160), "segment")
        unbent = validate_model(YOLO(weights), str(COCO_MINI), Validation(160, 1, rect=False, nms=nms), **given)
        assert exported.primary.map50_95 == pytest.approx(unbent.primary.map50_95, abs=2e-3)
    assert masks[0] != masks[1]
