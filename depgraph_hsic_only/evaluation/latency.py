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
from depgraph_hsic_only.support.threads import some_cores
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.types import Network, Yolo

_WARM_UPS, _ROUNDS = 3, 20
_TOLD_ROUNDS = 5
_SHORT = 0.1  # seconds: of what takes less, data that has left the caches is a part that can be told


@dataclass(frozen=True)
class Told:
    """A call that says how long something took, in seconds, by a clock of its own, which may be another machine's.

    It is made in five rounds only, without warming up: what it asks measures more than once itself.
    """

    seconds: Callable[[], float]


Run = Callable[[], object] | Told
"""What is timed: a call, or what says itself how long it took."""


@dataclass(frozen=True)
class Latency:
    """Duration of a call over many rounds, milliseconds: half, a tenth and nine tenths of the rounds took less."""

    median: float
    p10: float
    p90: float


def measure_latency(runs: Mapping[str, Run], threads: int | None = None) -> dict[str, Latency]:
    """Duration of each call over the rounds of `time_rounds`."""
    found = {}
    for name, times in time_rounds(runs, threads).items():
        tenths = statistics.quantiles(times, n=10, method="inclusive")
        found[name] = Latency(*(figure * 1e3 for figure in (statistics.median(times), tenths[0], tenths[-1])))
    return found


def time_rounds(runs: Mapping[str, Run], threads: int | None = None, rounds: int = _ROUNDS) -> dict[str, list[float]]:
    """Seconds that each call takes in each of some rounds, taken in turns so that the machine's drift hits all alike.

    A short one is made twice, and the second time counts: where it is deployed no other model pushes its weights out of
    the caches, which here would cost it up to 3 %, by what comes before it. PyTorch has so many `threads`, or as many
    as it had where that is None.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    last = dict.fromkeys(runs, 0.0)
    with some_cores(threads):
        for turn in range(-_WARM_UPS, rounds):
            for name, run in runs.items():
                if isinstance(run, Told):
                    if 0 <= turn < _TOLD_ROUNDS:
                        seconds[name].append(run.seconds())
                    continue
                if last[name] < _SHORT:
                    run()
                start = time.perf_counter()
                run()
                last[name] = time.perf_counter() - start
                if turn >= 0:
                    seconds[name].append(last[name])
    return seconds


def torch_run(model: Yolo, shape: InputShape, device: Any) -> Callable[[], object]:
    """A call that runs the fused network of a `YOLO` in PyTorch on one batch of images."""
    return fused_run(model.model, shape, select_device(device))


def fused_run(network: Network, shape: InputShape, target: torch.device, *, half: bool = False) -> Callable[[], object]:
    """A call that runs a network, fused, in PyTorch on one batch of images; the network is left as it is."""
    kind = torch.half if half else torch.float
    network = copy.deepcopy(network).float().to(target).eval().fuse(verbose=False).to(kind)
    images = torch.rand(shape.dimensions, device=target, dtype=kind)

    def run() -> None:
        with torch.inference_mode():
            network(images)
        _wait(target)

    return run


def onnx_run(path: str | Path, threads: int | None = None) -> Callable[[], object]:
    """A call that runs an ONNX file in onnxruntime on the CPU, on one batch of what it was exported for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Else its threads go on spinning after a run and take the cores from whatever is measured in turns with it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = threads or 0  # its own choice
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    takes = onnx_input(session)
    fed = takes.feed(torch.rand(takes.shape.dimensions))
    return lambda: session.run(None, fed)


def openvino_run(path: str | Path, shape: InputShape, threads: int | None = None) -> Callable[[], object]:
    """A call that runs an ONNX file or a folder with an OpenVINO model on the CPU, compiled as Ultralytics does."""
    import openvino

    path, wanted = Path(path), {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        wanted["INFERENCE_NUM_THREADS"] = str(threads)
    network = openvino.Core().compile_model(next(path.glob("*.xml")) if path.is_dir() else path, "CPU", wanted)
    images = torch.rand(shape.dimensions).numpy().astype(network.input(0).get_element_type().to_dtype())
    return lambda: network(images)


def backend_run(path: str | Path, shape: InputShape, device: torch.device) -> Callable[[], object]:
    """A call that runs a file of any format that Ultralytics runs."""
    from ultralytics.nn.autobackend import AutoBackend

    backend = AutoBackend(str(path), device=device, verbose=False)
    images = torch.rand(shape.dimensions, device=backend.device)

    def run() -> None:
        with torch.inference_mode():
            backend(images)
        _wait(images.device)

    return run


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
