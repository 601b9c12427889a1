"""What a model is worth and how fast it is: mAP by Ultralytics' validator, latency by the clock."""

import copy
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import select_device

from depgraph_hsic_only.bootstrap import Matches
from depgraph_hsic_only.errors import ConfigError, one_line
from depgraph_hsic_only.loading import load_model
from depgraph_hsic_only.nms import patient_nms
from depgraph_hsic_only.utils.hooks import VALIDATION_PROGRESS

_WARM_UPS, _ROUNDS = 3, 20


@dataclass(frozen=True)
class Validation:
    """The arguments that a mAP depends on: `YOLO(weights).val(data=..., **these)` gives the same figures.

    Attributes:
        imgsz: Side of the input image, pixels.
        batch: Images per batch; rectangular batches make mAP depend on it.
        rect: Whether batches are rectangular.
        split: Split of the data set.
    """

    imgsz: int
    batch: int
    rect: bool = True
    split: str = "val"


@dataclass(frozen=True)
class ClassMetrics:
    """Validation figures of one class.

    Attributes:
        name: Name of the class.
        instances: Number of its objects in the validation split, at least 1.
        map50_95_box: Box AP averaged over IoU 0.5 to 0.95, in [0, 1].
        map50_95_mask: Mask AP averaged over IoU 0.5 to 0.95, in [0, 1].
    """

    name: str
    instances: int
    map50_95_box: float
    map50_95_mask: float


@dataclass(frozen=True)
class Metrics:
    """Validation figures, each in [0, 1].

    Attributes:
        map50_box: Box mAP at IoU 0.5.
        map50_95_box: Box mAP averaged over IoU 0.5 to 0.95.
        map50_mask: Mask mAP at IoU 0.5.
        map50_95_mask: Mask mAP averaged over IoU 0.5 to 0.95.
        complete: Whether every image was counted: on a busy or slow machine Ultralytics' NMS runs out of time and
            leaves the rest of a batch without detections, so that the figures are too low.
        classes: The figures of each class that has objects in the split, in the order of the classes.
        resampled_mask: `map50_95_mask` on samples of the images (see `bootstrap.py`).
    """

    map50_box: float
    map50_95_box: float
    map50_mask: float
    map50_95_mask: float
    complete: bool = True
    classes: tuple[ClassMetrics, ...] = ()
    resampled_mask: tuple[float, ...] = ()


def validate_model(
    model: Any,
    data: str,
    validation: Validation,
    *,
    device: Any,
    workers: int,
    draws: int = 0,
) -> Metrics:
    """mAP of a live `YOLO`, from the file it saves, as a fresh `YOLO(weights).val()` measures it.

    Args:
        model: A segmentation model.
        data: Path or name of the data set.
        validation: What the figures depend on.
        device: As Ultralytics takes it.
        workers: Data loading processes.
        draws: On how many samples of the images the mask mAP is measured too (see `bootstrap.py`).
    """
    arguments = {"data": data, "device": device, "workers": workers, "plots": False, "verbose": False}
    matches = Matches()
    with tempfile.TemporaryDirectory() as folder, patient_nms(), _NmsTimeouts() as timeouts:
        weights = Path(folder) / "model.pt"
        model.save(weights)
        fresh = load_model(weights)
        for event, function in (*VALIDATION_PROGRESS, ("on_val_batch_end", matches)):
            fresh.add_callback(event, function)
        found = fresh.val(project=folder, **arguments, **asdict(validation))  # it makes a folder
    box, mask = found.box, found.seg
    return Metrics(
        float(box.map50),
        float(box.map),
        float(mask.map50),
        float(mask.map),
        complete=not timeouts.seen,
        classes=tuple(
            ClassMetrics(found.names[k], int(found.nt_per_class[k]), float(box.maps[k]), float(mask.maps[k]))
            for k in map(int, found.ap_class_index)
        ),
        resampled_mask=tuple(matches.bootstrap(draws)),
    )


class _NmsTimeouts(logging.Handler):
    """Listens for Ultralytics' warning that NMS ran out of time, which is all that it does about it."""

    seen = False

    def emit(self, record: logging.LogRecord) -> None:
        self.seen |= "NMS time limit" in record.getMessage()

    def __enter__(self) -> "_NmsTimeouts":
        LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self)


def check_device(device: Any) -> None:
    """Refuse a device that this machine doesn't have.

    Raises:
        ConfigError: It isn't there.
    """
    try:
        select_device(device, verbose=False)
    except Exception as error:  # ValueError, AssertionError or RuntimeError, by kind of device
        raise ConfigError(
            f"device: expected one that this machine has, got {device!r} ({one_line(error)}); pass cpu"
        ) from error


@dataclass(frozen=True)
class Latency:
    """Duration of a call over many rounds, milliseconds.

    Attributes:
        median: Half of the rounds took less.
        p10: A tenth of the rounds took less.
        p90: Nine tenths of the rounds took less.
    """

    median: float
    p10: float
    p90: float


def measure_latency(runs: Mapping[str, Callable[[], object]]) -> dict[str, Latency]:
    """Duration of each call over 20 rounds, taken in turns so that the machine's drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_WARM_UPS + _ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= _WARM_UPS:
                seconds[name].append(time.perf_counter() - start)
    return {name: _summarised(times) for name, times in seconds.items()}


def _summarised(seconds: list[float]) -> Latency:
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return Latency(*(figure * 1e3 for figure in (statistics.median(seconds), tenths[0], tenths[-1])))


def torch_run(model: Any, imgsz: int, device: Any) -> Callable[[], object]:
    """A call that runs the fused network of a `YOLO` in PyTorch on one image of `imgsz` pixels."""
    return fused_run(model.model, imgsz, select_device(device, verbose=False))


def fused_run(network: Any, imgsz: int, target: torch.device) -> Callable[[], object]:
    """A call that runs a network, fused, in PyTorch on one image of `imgsz` pixels; the network is left as it is."""
    network = copy.deepcopy(network).float().to(target).eval().fuse(verbose=False)
    image = torch.rand(1, 3, imgsz, imgsz, device=target)

    def run() -> None:
        with torch.inference_mode():
            network(image)
        if target.type == "cuda":
            torch.cuda.synchronize(target)

    return run


def onnx_run(path: str | Path) -> Callable[[], object]:
    """A call that runs an ONNX file in onnxruntime on the CPU, on one batch of the file's own size."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Else its threads go on spinning after a run and take the cores from whatever is measured in turns with it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    shape = [
        side if isinstance(side, int) else default for side, default in zip(entry.shape, (1, 3, 640, 640), strict=True)
    ]
    image = torch.rand(*shape)
    fed = (image.half() if entry.type == "tensor(float16)" else image).numpy()
    return lambda: session.run(None, {entry.name: fed})
