"""How fast a network is with widths that have not been settled yet, on this device, against the unpruned one."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import follow_ties
from depgraph_hsic_only.evaluation.latency import fused_run, measure_latency, onnx_run
from depgraph_hsic_only.evaluation.onnx import export_onnx
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.types import Network


def relative_latency(network: Network, graph: ChannelGraph, imgsz: int) -> Callable[[Mapping[str, int]], float]:
    """A function of the widths that measures the latency of the cut network as a share of the full one's.

    Both run in turns on one image, so that the machine's drift hits both: in onnxruntime where the network is on the
    CPU, else fused in PyTorch. Which channels stay makes no difference to it. The network is the unpruned one, on the
    device to measure on, the graph its channel groups, and `imgsz` the side of the square image, pixels.
    """
    scores = {group.name: torch.zeros(group.channels) for group in graph.groups}
    full = _run(network, imgsz)

    def share(widths: Mapping[str, int]) -> float:
        widths = follow_ties(graph, widths)
        plan = make_plan(graph, scores, widths, criterion="none", reasons=dict.fromkeys(widths, ""))
        runs = measure_latency({"full": full, "cut": _run(cut(network, plan).network, imgsz)})
        full_ms, cut_ms = runs["full"].median, runs["cut"].median
        say(f"latency {full_ms:.1f} -> {cut_ms:.1f} ms at {imgsz} px: {cut_ms / full_ms:.3f} of the unpruned")
        return cut_ms / full_ms

    return share


def _run(network: Network, imgsz: int) -> Callable[[], object]:
    device = next(network.parameters()).device
    if device.type != "cpu":
        return fused_run(network, InputShape.of(network, imgsz), device)
    with tempfile.TemporaryDirectory() as folder:
        return onnx_run(export_onnx(network, Path(folder) / "model.onnx", imgsz=imgsz))
