"""How fast a model is, by the clock."""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.evaluation.onnx import onnx_input
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.types import Network, Yolo

_WARM_UPS, _ROUNDS = 3, 20


@dataclass(frozen=True)
class Latency:
    """Duration of a call over many rounds, milliseconds: half, a tenth and nine tenths of the rounds took less."""

    median: float
    p10: float
    p90: float


def measure_latency(runs: Mapping[str, Callable[[], object]]) -> dict[str, Latency]:
    """Duration of each call over the rounds of `time_rounds`."""
    found = {}
    for name, times in time_rounds(runs).items():
        tenths = statistics.quantiles(times, n=10, method="inclusive")
        found[name] = Latency(*(figure * 1e3 for figure in (statistics.median(times), tenths[0], tenths[-1])))
    return found


def time_rounds(runs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds that each call takes in each of 20 rounds, taken in turns so that the machine's drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_WARM_UPS + _ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= _WARM_UPS:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def torch_run(model: Yolo, shape: InputShape, device: Any) -> Callable[[], object]:
    """A call that runs the fused network of a `YOLO` in PyTorch on one batch of images."""
    return fused_run(model.model, shape, select_device(device))


def fused_run(network: Network, shape: InputShape, target: torch.device) -> Callable[[], object]:
    """A call that runs a network, fused, in PyTorch on one batch of images; the network is left as it is."""
    network = copy.deepcopy(network).float().to(target).eval().fuse(verbose=False)
    images = torch.rand(shape.dimensions, device=target)

    def run() -> None:
        with torch.inference_mode():
            network(images)
        if target.type == "cuda":
            torch.cuda.synchronize(target)

    return run


def onnx_run(path: str | Path) -> Callable[[], object]:
    """A call that runs an ONNX file in onnxruntime on the CPU, on one batch of what it was exported for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Else its threads go on spinning after a run and take the cores from whatever is measured in turns with it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    takes = onnx_input(session)
    fed = takes.feed(torch.rand(takes.shape.dimensions))
    return lambda: session.run(None, fed)
