"""How fast a network is with widths that have not been settled yet, on this device, against the unpruned one."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import follow_ties
from depgraph_hsic_only.evaluation.latency import fused_run, onnx_run, time_rounds
from depgraph_hsic_only.evaluation.onnx import export_onnx
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.logs import silenced
from depgraph_hsic_only.yolo.types import Network


@dataclass(frozen=True)
class TimeShare:
    """The latency of a network as a share of the unpruned one's: the median over the rounds, and what it may be.

    The true median is within [low, high] with a confidence of about 95 %: the interval of the sign test, over the
    rounds' own shares, so that neither the machine's drift nor a few outliers move it.
    """

    median: float
    low: float
    high: float
    full_ms: float  # median of the unpruned network in the same rounds, milliseconds
    cut_ms: tuple[float, float, float]  # of the network itself: median, and what it may be, milliseconds

    @classmethod
    def of(cls, full: Sequence[float], cut: Sequence[float]) -> "TimeShare":
        """From the durations of both in the same rounds, seconds, of which there are at least two."""
        share = _median([c / f for c, f in zip(cut, full, strict=True)])
        return cls(*share, 1e3 * statistics.median(full), _median([1e3 * c for c in cut]))

    def __str__(self) -> str:
        return f"{self.median:.3f} of the unpruned model's time ({self.low:.3f} to {self.high:.3f})"


def _median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the interval that holds the true one."""
    ranked, outside = sorted(values), max(0, len(values) * 3 // 10 - 1)  # 5 of 20 rounds on either side: 96 %
    return statistics.median(ranked), ranked[outside], ranked[-1 - outside]


def relative_latency(
    network: Network, graph: ChannelGraph, shape: InputShape
) -> Callable[[Mapping[str, int]], TimeShare]:
    """A function of the widths that measures the latency of the cut network as a share of the full one's.

    Both run in turns on images of one `shape`, so that the machine's drift hits both: in onnxruntime where the network
    is on the CPU, else fused in PyTorch. Which channels stay makes no difference to it. The network is the unpruned
    one, on the device to measure on, and the graph its channel groups.
    """
    scores = {group.name: torch.zeros(group.channels) for group in graph.groups}
    full = _run(network, shape)

    def share(widths: Mapping[str, int]) -> TimeShare:
        widths = follow_ties(graph, widths)
        plan = make_plan(graph, scores, widths, criterion="none", reasons=dict.fromkeys(widths, ""))
        seconds = time_rounds({"full": full, "cut": _run(cut(network, plan).network, shape)})
        found = TimeShare.of(seconds["full"], seconds["cut"])
        before, after = (1e3 * statistics.median(seconds[name]) for name in ("full", "cut"))
        say(f"latency {before:.1f} -> {after:.1f} ms for {shape} on {runtime_of(network)}: {found}")
        return found

    return share


def runtime_of(network: Network) -> str:
    """What a network's latency is measured in, for people, such as "cpu (onnxruntime)"."""
    device = next(network.parameters()).device
    return f"{device.type} ({'onnxruntime' if device.type == 'cpu' else 'PyTorch'})"


def _run(network: Network, shape: InputShape) -> Callable[[], object]:
    device = next(network.parameters()).device
    if device.type != "cpu":
        return fused_run(network, shape, device)
    with tempfile.TemporaryDirectory() as folder, silenced():
        return onnx_run(export_onnx(network, Path(folder) / "model.onnx", imgsz=shape.size, batch=shape.batch))
