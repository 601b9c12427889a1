"""Export to ONNX, and what an exported file takes."""

import copy
import importlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ultralytics.engine.exporter import Exporter

from depgraph_hsic_only.data.images import Images, load_images, padded
from depgraph_hsic_only.errors import DataError, ExportError, one_line
from depgraph_hsic_only.yolo.input_shape import InputShape, multiple_of
from depgraph_hsic_only.yolo.load import bare_network
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo


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
        model: A `YOLO`, or its network.
        path: Where to write; must end in ".onnx". Its folder is made.
        imgsz: Side of the square input image, or its height and width, pixels, rounded up to the network's stride; the
            model's own where None.
        arguments: Ultralytics' export arguments: opset, dynamic, simplify, quantize (16 or 32; for int8 see
            `quantize_onnx`), batch, device, nms. With `nms=False` an end-to-end head, such as YOLO26's, is exported as
            one, without NMS to come; else as any other head. With `nms=True` NMS is in the file, which `verify_onnx`
            doesn't take.

    Raises:
        ExportError: The path does not end in ".onnx" or can't be written, or the export failed.
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
    """Where an ONNX file is to be written; an `ExportError` where it can't be, or that does not end in ".onnx"."""
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: expected a path that ends in .onnx; add the ending")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        got = "a folder of that name" if path.is_dir() else f"{there}, which is no folder that can be written"
        raise ExportError(f"{path}: expected a file that can be written, got {got}; pass another path")
    return path


@dataclass(frozen=True)
class OnnxInput:
    """What an ONNX file takes, and which kind of outputs it has."""

    name: str
    shape: InputShape  # of a free axis, what the file was exported at
    free: bool  # whether some axis is: other sizes, in steps of the stride, and batches can be given
    stride: int  # of the network, pixels
    half: bool  # whether it takes float16, else float32
    end2end: bool  # whether what it puts out are detections, else what NMS makes them of

    def feed(self, images: torch.Tensor) -> dict[str, Any]:
        """Images (n, c, h, w), float, as a session takes them."""
        return {self.name: (images.half() if self.half else images).numpy()}

    def filled(self, images: torch.Tensor) -> dict[str, Any]:
        """The same of at most as many images as the file's batch wants, over and over until there are as many."""
        count = self.shape.batch
        return self.feed(images.repeat(-(-count // len(images)), 1, 1, 1)[:count])


def open_session(path: str | Path) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception classes are not public
        raise ExportError(f"{path}: expected an ONNX file that onnxruntime can run, got {error}") from error


def onnx_input(session: Any) -> OnnxInput:
    """What the file of an onnxruntime session takes, by its input and what Ultralytics writes of it.

    Raises:
        ExportError: It takes no images, or says something else of them.
    """
    entry, told = session.get_inputs()[0], session.get_modelmeta().custom_metadata_map
    try:
        height, width = map(int, json.loads(told.get("imgsz", "[640, 640]")))
        exported = (int(told.get("batch", 1)), int(told.get("channels", 3)), height, width)
    except (ValueError, TypeError) as error:
        raise ExportError(f"expected an ONNX file of Ultralytics', got one whose metadata says {told}") from error
    if len(entry.shape) != len(exported):
        raise ExportError(f"expected an ONNX file that takes images (n, c, h, w), got one that takes {entry.shape}")
    axes = [axis if isinstance(axis, int) else None for axis in entry.shape]
    batch, channels, height, width = (axis or default for axis, default in zip(axes, exported, strict=True))
    shape, stride = InputShape(height, width, channels, batch), int(told.get("stride", 32))
    half, end2end = entry.type == "tensor(float16)", told.get("end2end") == "True"
    return OnnxInput(entry.name, shape, None in axes, stride, half, end2end)


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
