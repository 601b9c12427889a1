"""The exported files of a run: what each takes, holds, does and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depgraph_hsic_only.data.calibration import FEW
from depgraph_hsic_only.report.tables import Sheet, figure_text
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.tasks import TASKS


@dataclass(frozen=True)
class ExportedFile:
    """A file that the result was exported to.

    Attributes:
        path: Relative to the run folder; of a file, or of a folder.
        precision: "float32", "float16" or "int8": what its weights are in, or rounded to when it is loaded.
        input: What it takes at once, and its latency is of.
        size_mb: Its size, 10^6 bytes.
        map50_95: mAP50-95 of the file in onnxruntime by kind of prediction, at its own input size; empty where it was
            not measured, since the file is proven to give the model's own outputs at the size of the validation.
        loss: Of the primary mAP50-95 against the same file in float32; None for float32.
        latency_ms: Milliseconds for one input on the CPU, of an ONNX file in onnxruntime, of another in the runtime of
            its own: median, 10th and 90th percentile. None where it can't be run here.
        calibrated_on: Number of images that the ranges of a file in int8 are those on; None where they are of a
            training, or an older version did not say.
        complete: Whether all images count in the mAPs (see `validation.Metrics`).
        format: Ultralytics' name of the format.
        verified: Whether its outputs were compared with the model's and are the same; None where the two were not
            compared, since its runtime can't be loaded here, or since it is in int8, whose mAP was measured instead.
        says: What the comparison found, or why there is none; "" where the mAP says more, or an older version did not
            say.
    """

    path: str
    precision: str
    input: InputShape
    size_mb: float
    map50_95: Mapping[str, float]
    loss: float | None
    latency_ms: tuple[float, float, float] | None
    calibrated_on: int | None = None
    complete: bool = True
    format: str = "onnx"
    verified: bool | None = None
    says: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ExportedFile":
        """The inverse of `dataclasses.asdict`."""
        latency = data["latency_ms"]
        return cls(**{**data, "input": InputShape(**data["input"]), "latency_ms": latency and tuple(latency)})


_OUTPUTS = {True: "the model's", False: "DIFFERENT", None: "not compared"}


def exported_table(files: Sequence[ExportedFile], task: str) -> Sheet:
    """The files of a model of a task side by side; all take the same images."""
    kinds, rows = TASKS[task].kinds, []
    for file in files:
        maps = (figure_text(file.map50_95.get(kind), ".4f") for kind in kinds)
        loss, latency = figure_text(file.loss, "+.4f"), figure_text(file.latency_ms and file.latency_ms[0], ".1f")
        rows.append((file.path, file.precision, f"{file.size_mb:.2f}", *maps, loss, latency, _OUTPUTS[file.verified]))
    measured = (*(f"{kind}\nmAP50-95" for kind in kinds), f"{TASKS[task].primary}\nloss", "latency\nms")
    headings = ("file", "weights", "MB", *measured, "outputs")
    title = f"Exported files ({files[0].input})" if files else "Exported files"
    return Sheet(title, headings, tuple(rows), "ll" + "r" * (len(headings) - 3) + "l")


def other_texts(files: Sequence[ExportedFile]) -> list[str]:
    """What was found of each file in another format than ONNX."""
    return [f"{file.path} ({file.format}): {file.says}" for file in files if file.format != "onnx"]


def other_warnings(files: Sequence[ExportedFile]) -> list[str]:
    """The same, of those that are not proven to do what the model does."""
    return other_texts([file for file in files if not file.verified])


def few_text(images: int) -> str | None:
    """That so many images are few for int8 ranges; None where they are enough."""
    if images >= FEW:
        return None
    return f"{images} images only, whose ranges others will exceed: calibrate on {FEW} or more (calibration.images)"


def loss_text(file: ExportedFile, most: float, kind: str) -> str:
    """What a file of less than float32 loses of the mAP50-95 of a kind, and whether that is within what it may lose."""
    loss = file.loss or 0.0
    change = f"loses {loss:.4f}" if loss >= 0 else f"gains {-loss:.4f}"
    within = f"within {most:g}" if loss <= most else f"more than {most:g}: do not deploy it unseen"
    return f"{file.path} in {file.precision} {change} of {kind} mAP50-95 against float32, {within}"
