"""How large the file of a network is with widths that have not been settled yet: exported, and weighed."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.channels.cut import cut_to
from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.evaluation.int8 import quantize_onnx
from depgraph_hsic_only.evaluation.onnx import export_onnx
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.logs import silenced
from depgraph_hsic_only.yolo.types import Network

_ROOM = 1e-3  # 10^6 bytes, for what a file says of a training that is still to come, such as the path of its data


@dataclass(frozen=True)
class FileKind:
    """What is deployed: an ONNX file.

    Attributes:
        arguments: Ultralytics' export arguments of the file in floating point, but for the size of its images.
        int8: Whether that file is quantised to int8.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    int8: bool = False

    def weigh(self, network: Network, shape: InputShape) -> float:
        """Size of a network's file for one `shape` of images, 10^6 bytes, with a little room for more text in it."""
        with tempfile.TemporaryDirectory() as folder, silenced():
            given = {**self.arguments, "imgsz": shape.size, "batch": shape.batch}
            path = export_onnx(network, Path(folder) / "model.onnx", **given)
            if self.int8:  # whatever the ranges are, they take the same room
                path = quantize_onnx(path, Path(folder) / "int8.onnx", torch.rand(1, *shape.dimensions[1:]))
            return path.stat().st_size / 1e6 + _ROOM


def file_sizes(
    network: Network, graph: ChannelGraph, shape: InputShape, kind: FileKind
) -> Callable[[Mapping[str, int]], float]:
    """A function of the widths that exports the cut network and weighs its file, 10^6 bytes; each widths once.

    The network is the unpruned one, and the graph its channel groups.
    """
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def size(widths: Mapping[str, int]) -> float:
        key = tuple(widths.items())
        if key not in known:
            known[key] = kind.weigh(cut_to(network, graph, widths), shape)
            say(f"file of {known[key]:.2f} MB")
        return known[key]

    return size
