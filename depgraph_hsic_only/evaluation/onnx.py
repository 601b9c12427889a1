"""Export to ONNX, the proof that the file does what the model does, and the file in int8 for a CPU."""

import copy
import importlib
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ultralytics.engine.exporter import Exporter
from ultralytics.utils import ops
from ultralytics.utils.nms import non_max_suppression

from depgraph_hsic_only.data.images import Images, load_images
from depgraph_hsic_only.errors import ExportError, one_line
from depgraph_hsic_only.evaluation.masks import in_a_block
from depgraph_hsic_only.yolo.architecture import task_of
from depgraph_hsic_only.yolo.blocks import BLOCKS
from depgraph_hsic_only.yolo.load import bare_network, own_imgsz
from depgraph_hsic_only.yolo.types import Network, Yolo

_CONFIDENCE, _OVERLAP = 0.25, 0.7  # what Ultralytics predicts with
_INTEGER_OPS = ["Conv", "ConvTranspose", "Sigmoid", "Mul", "Add", "Concat", "Split", "MaxPool", "Resize"]
_BLOCKS_OF_HEAD = re.compile("|".join(rf"/model\.\d+/({block.integer})/" for block in BLOCKS.values() if block.is_head))


@dataclass(frozen=True)
class OnnxParity:
    """How far an ONNX file run by onnxruntime is from the PyTorch model.

    Attributes:
        images: Number of images compared.
        detections: Number of objects that PyTorch found in them, at confidence 0.25.
        max_abs_diff: Largest difference of any raw output: box coordinates in units of the image's side, class scores,
            mask coefficients and prototypes as they are.
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


def export_onnx(model: Yolo | Network, path: str | Path, *, imgsz: int | None = None, **arguments: Any) -> Path:
    """Export a model to ONNX through Ultralytics' exporter; the model is left as it is.

    The file keeps names, stride and task, so `YOLO(path)` predicts with it. It is written in one step: after an error
    there is no file, or the one that was there before.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel.
        path: Where to write; must end in ".onnx". Its folder is made.
        imgsz: Side of the input image, pixels; the model's own where None.
        arguments: Ultralytics' export arguments: opset, dynamic, simplify, half, batch, nms, device.

    Raises:
        ExportError: The path does not end in ".onnx", or the export failed.
    """
    path = checked_path(path)
    network: Any = copy.copy(bare_network(model))
    network.task = task_of(network)  # which only a YOLO sets
    size = imgsz if imgsz is not None else own_imgsz(network)
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


def open_session(path: str | Path) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception classes are not public
        raise ExportError(f"{path}: expected an ONNX file that onnxruntime can run, got {error}") from error


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
    entry = session.get_inputs()[0]
    side = entry.shape[2] if isinstance(entry.shape[2], int) else own_imgsz(network)
    copies = entry.shape[0] if isinstance(entry.shape[0], int) else 1
    reference = copy.deepcopy(network).cpu().float().eval()
    nc = len(reference.names)
    batch = load_images(images, side)
    largest, objects, ious = 0.0, 0, []
    for image in torch.split(batch, 1):
        with torch.no_grad():
            outputs = reference(image)[0]
        expected = list(outputs) if isinstance(outputs, tuple) else [outputs]  # with prototypes, or without
        fed = image.half() if entry.type == "tensor(float16)" else image
        found = session.run(None, {entry.name: fed.expand(copies, -1, -1, -1).numpy()})
        got = [torch.from_numpy(output[:1]).float() for output in found]
        scale = torch.ones(expected[0].shape[1], 1)
        scale[:4] = side
        differences = [(expected[0] - got[0]) / scale, *(e - g for e, g in zip(expected[1:], got[1:], strict=True))]
        largest = max(largest, *(float(d.abs().max()) for d in differences))
        found_by_torch, found_by_onnx = (_kept(predictions, nc) for predictions in (expected[0], got[0]))
        objects += len(found_by_torch)
        if len(expected) > 1:
            anchors = torch.unique(torch.cat([found_by_torch, found_by_onnx]))
            for some in torch.split(anchors, in_a_block(side * side)):
                ious.append(_smallest_iou(_masks(expected, some, nc, side), _masks(got, some, nc, side)))
    return OnnxParity(len(batch), objects, largest, min(ious) if ious else None, tolerance, min_mask_iou)


def _kept(predictions: torch.Tensor, nc: int) -> torch.Tensor:
    """Anchors of the objects that are found: those above the confidence that survive NMS."""
    _, kept = non_max_suppression(predictions.clone(), _CONFIDENCE, _OVERLAP, nc=nc, return_idxs=True)
    anchors: torch.Tensor = kept[0]
    return anchors.flatten().long()


def _masks(outputs: list[torch.Tensor], anchors: torch.Tensor, nc: int, side: int) -> torch.Tensor:
    """(k, side, side) final masks of the objects at `anchors`, in {0, 1}."""
    rows = outputs[0][0].T[anchors]
    boxes, coefficients = ops.xywh2xyxy(rows[:, :4]), rows[:, 4 + nc :]
    masks: torch.Tensor = ops.process_mask(outputs[1][0], coefficients, boxes, (side, side), upsample=True)
    return masks.bool()


def _smallest_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Smallest IoU of the masks of (k, h, w) with those of another (k, h, w), one by one; 1 for two empty ones."""
    if not len(a):
        return 1.0
    union = (a | b).sum((1, 2))
    return float(torch.where(union > 0, (a & b).sum((1, 2)) / union, 1.0).min())


def quantize_onnx(source: str | Path, path: str | Path, images: Images, *, limit: int = 128) -> Path:
    """Quantise an ONNX file to int8 for onnxruntime on a CPU, statically: the ranges are those on the images.

    Weights are signed, with a scale for each output channel. Activations are unsigned, for which onnxruntime has its
    fast kernels: with its default, both signed, the file was slower than the float one on an x86 CPU. The head's last
    convolutions and all that decodes their outputs stay float: a scale that holds box coordinates of hundreds of pixels
    rounds every class score to 0.

    The file keeps names, stride and task, so `YOLO(path)` predicts with it and validates it. It is written in one step.

    Args:
        source: A file that `export_onnx` wrote, with a fixed input size and without NMS.
        path: Where to write; must end in ".onnx". Its folder is made.
        images: Real images like those to come (see `images.Images`), best from the training split; letterboxed to the
            file's input size.
        limit: At most this many of them, evenly spaced.

    Raises:
        ExportError: The path does not end in ".onnx", or the source is no such file.
        DataError: The images can't be used.
    """
    from onnx import load as read_onnx  # these take a second that most commands don't need
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_static

    path = checked_path(path)
    entry = open_session(source).get_inputs()[0]
    if not all(isinstance(size, int) for size in entry.shape) or entry.type != "tensor(float)":
        raise ExportError(
            f"{source}: expected a float32 file with a fixed input size, got {entry.type} {entry.shape}; export it "
            "without dynamic and quantize"
        )
    network = read_onnx(source)
    left = _decoding(node.name for node in network.graph.node)
    if not left:
        raise ExportError(f"{source}: expected a YOLOv8 file with named layers; write it with export_onnx")
    batch = load_images(images, entry.shape[2], limit=limit)
    # one by one, each as often as the file's batch wants
    feeds = iter({entry.name: part.expand(entry.shape[0], -1, -1, -1).numpy()} for part in torch.split(batch, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".quantize-") as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / path.name
        # for the shapes of all tensors; a model in memory is not taken by every onnxruntime
        quant_pre_process(str(source), prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            SimpleNamespace(get_next=lambda: next(feeds, None)),  # what onnxruntime calls a CalibrationDataReader
            op_types_to_quantize=_INTEGER_OPS,
            nodes_to_exclude=left,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        made.replace(path)
    return path


def _decoding(names: Iterable[str]) -> list[str]:
    """Nodes of the head, by the names that the exporter gives, past its convolution blocks and prototypes."""
    layers = [(int(found[1]), name) for name in names if (found := re.match(r"/model\.(\d+)/", name))]
    head = max((layer for layer, _ in layers), default=0)
    return [name for layer, name in layers if layer == head and not _BLOCKS_OF_HEAD.match(name)]
