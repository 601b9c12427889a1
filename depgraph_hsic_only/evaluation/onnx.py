"""Export to ONNX, and the proof that the file does what the model does."""

import copy
import importlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ultralytics.engine.exporter import Exporter
from ultralytics.utils import ops
from ultralytics.utils.nms import non_max_suppression

from depgraph_hsic_only.data.images import Images, load_images, padded
from depgraph_hsic_only.errors import DataError, ExportError, one_line
from depgraph_hsic_only.evaluation.masks import in_a_block
from depgraph_hsic_only.yolo.input_shape import InputShape, multiple_of
from depgraph_hsic_only.yolo.load import bare_network
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_CONFIDENCE, _OVERLAP = 0.25, 0.7  # what Ultralytics predicts with


@dataclass(frozen=True)
class OnnxParity:
    """How far an ONNX file run by onnxruntime is from the PyTorch model.

    Attributes:
        images: Number of images compared.
        detections: Number of objects that PyTorch found in them, at confidence 0.25.
        max_abs_diff: Largest difference of any raw output: box coordinates in units of the image's width or height,
            class scores, mask coefficients and prototypes as they are.
        mask_iou: Smallest IoU of the two final masks of an object that either finds; 1 where neither finds any; None
            for a detection model.
        tolerance: Largest `max_abs_diff` that passes.
        min_mask_iou: Smallest `mask_iou` that passes.
    """

    images: int
    detections: int
    max_abs_diff: float
    mask_iou: float | None
    tolerance: float
    min_mask_iou: float

    @property
    def ok(self) -> bool:
        """Whether the file does what the model does."""
        masks_agree = self.mask_iou is None or self.mask_iou >= self.min_mask_iou
        return self.max_abs_diff <= self.tolerance and masks_agree

    def __str__(self) -> str:
        iou = self.mask_iou
        masks = "" if iou is None else f", smallest mask IoU {iou:.4f} (at least {self.min_mask_iou})"
        return (
            f"{'same' if self.ok else 'DIFFERENT'} on {self.images} images with {self.detections} objects: "
            f"largest difference {self.max_abs_diff:.2e} (at most {self.tolerance:.0e}){masks}"
        )


def check_onnx() -> None:
    """Refuse, by an `ExportError`, to begin what ends with an ONNX file where it can't be written or run."""
    for name in ("onnx", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"export: expected the package {name}, which can't be imported ({one_line(error)}); pip install {name}"
            ) from error


def export_onnx(
    model: Yolo | Network, path: str | Path, *, imgsz: int | Sequence[int] | None = None, **arguments: Any
) -> Path:
    """Export a model to ONNX through Ultralytics' exporter; the model is left as it is.

    The file keeps names, stride and task, so `YOLO(path)` predicts with it. It is written in one step: after an error
    there is no file, or the one that was there before.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel.
        path: Where to write; must end in ".onnx". Its folder is made.
        imgsz: Side of the square input image, or its height and width, pixels, rounded up to the network's stride; the
            model's own where None.
        arguments: Ultralytics' export arguments: opset, dynamic, simplify, quantize (16 or 32; for int8 see
            `quantize_onnx`), batch, nms, device.

    Raises:
        ExportError: The path does not end in ".onnx", or the export failed.
        ConfigError: `imgsz` is no size of an image.
    """
    path = checked_path(path)
    network: Any = copy.copy(bare_network(model))
    network.task = task_of(network).name  # which only a YOLO sets
    size = list(InputShape.of(network, imgsz).size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        network.pt_path = str(Path(folder) / path.with_suffix(".pt").name)  # where the exporter puts its file
        try:
            made = Exporter(overrides={"format": "onnx", "imgsz": size, "batch": 1, **arguments})(model=network)
        except Exception as error:  # whatever the converter raises
            raise ExportError(
                f"{path}: the export to ONNX failed ({type(error).__name__}: {one_line(error)})"
            ) from error
        Path(made).replace(path)
    return path


def checked_path(path: str | Path) -> Path:
    """Where an ONNX file is to be written; an `ExportError` where that does not end in ".onnx"."""
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: expected a path that ends in .onnx; add the ending")
    return path


@dataclass(frozen=True)
class OnnxInput:
    """What an ONNX file takes."""

    name: str
    shape: InputShape  # of a free axis, what the file was exported at
    free: bool  # whether some axis is: other sizes, in steps of the stride, and batches can be given
    stride: int  # of the network, pixels
    half: bool  # whether it takes float16, else float32

    def feed(self, images: torch.Tensor) -> dict[str, Any]:
        """Images (n, c, h, w), float, as a session takes them."""
        return {self.name: (images.half() if self.half else images).numpy()}

    def fed_alone(self, image: torch.Tensor) -> dict[str, Any]:
        """The same of one image (1, c, h, w), as often as the file's batch wants."""
        return self.feed(image.expand(self.shape.batch, -1, -1, -1))


def open_session(path: str | Path) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception classes are not public
        raise ExportError(f"{path}: expected an ONNX file that onnxruntime can run, got {error}") from error


def onnx_input(session: Any) -> OnnxInput:
    """What the file of an onnxruntime session takes, by its input and what Ultralytics writes of it."""
    entry, told = session.get_inputs()[0], session.get_modelmeta().custom_metadata_map
    height, width = json.loads(told.get("imgsz", "[640, 640]"))
    exported = (int(told.get("batch", 1)), int(told.get("channels", 3)), height, width)
    axes = [axis if isinstance(axis, int) else None for axis in entry.shape]
    batch, channels, height, width = (axis or default for axis, default in zip(axes, exported, strict=True))
    shape, stride = InputShape(height, width, channels, batch), int(told.get("stride", 32))
    return OnnxInput(entry.name, shape, None in axes, stride, entry.type == "tensor(float16)")


def onnx_precision(path: str | Path) -> str:
    """What the weights of an ONNX file are in, or rounded to when it is loaded: "float32", "float16" or "int8"."""
    import onnx  # it takes a while

    graph = onnx.load(str(path)).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    types = {tensor.data_type for tensor in graph.initializer}
    known = {"int8": onnx.TensorProto.INT8, "float16": onnx.TensorProto.FLOAT16}
    return next((name for name, kind in known.items() if kind in types), "float32")


def input_images(takes: OnnxInput, images: Images, limit: int | None = None) -> torch.Tensor:
    """At most so many images as a file takes them, (n, c, h, w), letterboxed; a tensor of any size where it is free.

    Raises:
        DataError: The images can't be used.
    """
    found = load_images(images, takes.shape.size, limit=limit, channels=takes.shape.channels)
    if not takes.free and tuple(found.shape[2:]) != takes.shape.size:
        sides = "{}x{}".format(*found.shape[2:])
        raise DataError(f"expected {takes.shape}, which the ONNX file takes, got {sides} px; pass images of its size")
    return padded(found, (multiple_of(takes.stride, found.shape[2]), multiple_of(takes.stride, found.shape[3])))


def verify_onnx(
    onnx: str | Path, model: Yolo | Network, images: Images, *, tolerance: float = 1e-3, min_mask_iou: float = 0.99
) -> OnnxParity:
    """Run an ONNX file and its PyTorch model on the same images and compare raw outputs and final masks.

    Args:
        onnx: A file that `export_onnx` wrote, without NMS.
        model: The `YOLO` or network it was made from; left as it is.
        images: Real images (see `images.Images`); letterboxed to the file's input size.
        tolerance: Largest difference of a raw output that passes.
        min_mask_iou: Smallest IoU of matching masks that passes.

    Returns:
        The comparison; whether it passed is its `ok`.

    Raises:
        ExportError: onnxruntime can't run the file.
        DataError: The images can't be used.
    """
    network = bare_network(model)
    session = open_session(onnx)
    takes = onnx_input(session)
    reference = copy.deepcopy(network).cpu().float().eval()
    nc = len(reference.names)
    batch = input_images(takes, images)
    height, width = size = (batch.shape[2], batch.shape[3])
    largest, objects, ious = 0.0, 0, []
    for image in torch.split(batch, 1):
        with torch.no_grad():
            outputs = reference(image)[0]
        expected = list(outputs) if isinstance(outputs, tuple) else [outputs]  # with prototypes, or without
        got = [torch.from_numpy(output[:1]).float() for output in session.run(None, takes.fed_alone(image))]
        scale = torch.ones(expected[0].shape[1], 1)
        scale[:4, 0] = torch.tensor([width, height, width, height])
        differences = [(expected[0] - got[0]) / scale, *(e - g for e, g in zip(expected[1:], got[1:], strict=True))]
        largest = max(largest, *(float(d.abs().max()) for d in differences))
        found_by_torch, found_by_onnx = (_kept(predictions, nc) for predictions in (expected[0], got[0]))
        objects += len(found_by_torch)
        if len(expected) > 1:
            anchors = torch.unique(torch.cat([found_by_torch, found_by_onnx]))
            for some in torch.split(anchors, in_a_block(height * width)):
                ious.append(_smallest_iou(_masks(expected, some, nc, size), _masks(got, some, nc, size)))
    return OnnxParity(len(batch), objects, largest, min(ious) if ious else None, tolerance, min_mask_iou)


def _kept(predictions: torch.Tensor, nc: int) -> torch.Tensor:
    """Anchors of the objects that are found: those above the confidence that survive NMS."""
    _, kept = non_max_suppression(predictions.clone(), _CONFIDENCE, _OVERLAP, nc=nc, return_idxs=True)
    anchors: torch.Tensor = kept[0]
    return anchors.flatten().long()


def _masks(outputs: list[torch.Tensor], anchors: torch.Tensor, nc: int, size: tuple[int, int]) -> torch.Tensor:
    """(k, h, w) final masks of the objects at `anchors`, in {0, 1}."""
    rows = outputs[0][0].T[anchors]
    boxes, coefficients = ops.xywh2xyxy(rows[:, :4]), rows[:, 4 + nc :]
    masks: torch.Tensor = ops.process_mask(outputs[1][0], coefficients, boxes, size, upsample=True)
    return masks.bool()


def _smallest_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Smallest IoU of the masks of (k, h, w) with those of another (k, h, w), one by one; 1 for two empty ones."""
    if not len(a):
        return 1.0
    union = (a | b).sum((1, 2))
    return float(torch.where(union > 0, (a & b).sum((1, 2)) / union, 1.0).min())
