"""How large the file of a network is with widths that have not been settled yet: exported, and weighed."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depgraph_hsic_only.channels.cut import cut_to
from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, INT8, Deployment
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.yolo.input_shape import InputShape
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
        """Size of a network's file for one `shape` of images, 10^6 bytes, with a little room for more text in it.

        The ranges of one in int8 are those on noise: whatever they are, they take the same room.
        """
        precision = INT8 if self.int8 else FLOAT
        deployment = Deployment(shape, runtime="onnxruntime", precision=precision, arguments=self.arguments)
        with tempfile.TemporaryDirectory() as folder:
            return deployment.write(network, Path(folder)).stat().st_size / 1e6 + _ROOM


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
