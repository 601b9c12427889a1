"""An ONNX file in int8 for a CPU."""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from depgraph_hsic_only.data.images import Images
from depgraph_hsic_only.errors import ExportError
from depgraph_hsic_only.evaluation.onnx import checked_path, input_images, onnx_input, onnx_precision, open_session
from depgraph_hsic_only.evaluation.ranges import activation_ranges
from depgraph_hsic_only.yolo.blocks import BLOCKS

LEAST_OPSET = 13  # from there on weights may have a scale for each output channel
_INTEGER_OPS = ["Conv", "ConvTranspose", "Sigmoid", "Mul", "Add", "Concat", "Split", "MaxPool", "Resize"]
_BLOCKS_OF_HEAD = re.compile("|".join(rf"/model\.\d+/({block.integer})/" for block in BLOCKS.values() if block.is_head))


def quantize_onnx(source: str | Path, path: str | Path, images: Images, *, limit: int | None = 128) -> Path:
    """Quantise an ONNX file to int8 for onnxruntime on a CPU, statically: by the ranges of activations on the images.

    They end where the squared error is least (see `ranges.py`). Weights are signed, with a scale for each output
    channel. Activations are unsigned, for which onnxruntime has its fast kernels: with its default, both signed, the
    file was slower than the float one on an x86 CPU. The head's last convolutions and all that decodes their outputs
    stay float: a scale that holds box coordinates of hundreds of pixels rounds every class score to 0.

    The file keeps names, stride and task, so `YOLO(path)` predicts with it and validates it. It is written in one step.

    Args:
        source: A file in float32 that `export_onnx` wrote, of opset 13 or later, without NMS.
        path: Where to write; must end in ".onnx". Its folder is made.
        images: Real images like those to come (see `images.Images`), best from the training split; letterboxed to the
            file's input size.
        limit: At most this many of them, evenly spaced; None for all.

    Raises:
        ExportError: The path does not end in ".onnx" or can't be written, the source is no such file, or what it
            computes is not finite.
        DataError: The images can't be used.
    """
    from onnx import load as read_onnx  # these take a second that most commands don't need
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_static

    path = checked_path(path)
    takes, network = onnx_input(open_session(source)), read_onnx(source)
    precision, opset = onnx_precision(source), max(o.version for o in network.opset_import if not o.domain)
    if precision != "float32" or opset < LEAST_OPSET:
        raise ExportError(
            f"{source}: expected a file in float32 of opset {LEAST_OPSET} or later, got {precision} of opset {opset}; "
            "export it without quantize and with a later opset"
        )
    left = _decoding(node.name for node in network.graph.node)
    rounded = [n for n in network.graph.node if n.op_type in _INTEGER_OPS and n.name not in left]
    if not left:
        raise ExportError(f"{source}: expected a YOLO file with named layers; write it with export_onnx")
    size = takes.shape.batch
    batches = torch.split(input_images(takes, images, limit), size)
    ranges = activation_ranges(network, rounded, lambda: map(takes.filled, batches), size)
    feeds = iter([takes.filled(batches[0])])  # for the ranges of all that has none of its own
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
            extra_options={"TensorQuantOverrides": {name: [_ends(*ends)] for name, ends in ranges.items()}},
        )
        made.replace(path)
    return path


def _ends(low: float, high: float) -> dict[str, Any]:
    """A range as onnxruntime takes it."""
    return {"rmin": np.float32(low), "rmax": np.float32(high)}


def _decoding(names: Iterable[str]) -> list[str]:
    """Nodes of the head, by the names that the exporter gives, past its convolution blocks and prototypes."""
    layers = [(int(found[1]), name) for name in names if (found := re.match(r"/model\.(\d+)/", name))]
    head = max((layer for layer, _ in layers), default=0)
    return [name for layer, name in layers if layer == head and not _BLOCKS_OF_HEAD.match(name)]
