"""What the result is exported to, and which file of it is deployed."""

import io
import itertools
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.data.images import is_readable
from depgraph_hsic_only.errors import ExportError
from depgraph_hsic_only.evaluation.deployed.deployment import Deployment
from depgraph_hsic_only.evaluation.deployed.formats import (
    ONNX,
    OtherFile,
    export_format,
    named_formats,
    verified,
)
from depgraph_hsic_only.evaluation.int8 import LEAST_OPSET, quantize_onnx
from depgraph_hsic_only.evaluation.latency import backend_run, onnx_run, openvino_run
from depgraph_hsic_only.evaluation.onnx import export_onnx, onnx_input, onnx_precision, open_session
from depgraph_hsic_only.evaluation.parity import OnnxParity, verify_onnx
from depgraph_hsic_only.report.exported import few_text
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.training.arguments import canonical
from depgraph_hsic_only.training.quantized import quantized_trial
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.logs import silenced
from depgraph_hsic_only.yolo.types import Network, Yolo

_TRIAL_IMAGES = 4  # that a trial of an export is calibrated on
# Of a file in float16, whose mAP tells more: rounded, the attention of a YOLO11n-seg moves single class scores by 0.18,
# at the same mAP, and a few pixels more or less are much of a small object's mask.
_HALF = {"tolerance": 0.5, "min_mask_iou": 0.5}
_MEASURED = ("images", "max_map_drop")  # export settings that change no file
_ELSEWHERE = (*_MEASURED, "imgsz", "formats")  # those that are no arguments of Ultralytics', or are given by themselves


@dataclass(frozen=True)
class Exported:
    """An exported file and the proof that it does what the model does.

    Attributes:
        path: The file, in the run folder.
        parity: The comparison with PyTorch on validation images.
        int8: The same in int8, beside it: by calibration, by a training; as far as asked for.
        calibrated_on: By file in int8 the number of images that its ranges are those on, where it is of no training.
        others: The files in other formats.
    """

    path: Path
    parity: OnnxParity
    int8: tuple[Path, ...] = ()
    calibrated_on: Mapping[Path, int] = field(default_factory=dict)
    others: tuple[OtherFile, ...] = ()

    @property
    def deployed(self) -> Path:
        """The file that a target of size is of: in int8 by calibration where there is one."""
        return next(iter(self.calibrated_on), self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """All ONNX files."""
        return (self.path, *self.int8)

    @property
    def timeable(self) -> tuple[Path, ...]:
        """All files that can be run here."""
        return (*self.files, *(other.path for other in self.others if other.parity is not None))

    def run(self, path: Path, threads: int | None) -> Callable[[], object]:
        """A call that runs one of the files on the CPU."""
        known = {other.path: other.format for other in self.others}
        if path not in known:
            return onnx_run(path, threads)
        if known[path] == "openvino":
            return openvino_run(path, self.shape, threads)
        return backend_run(path, self.shape, torch.device("cpu"))

    def made(self, deployment: Deployment) -> Path | None:
        """The file of the result that a deployment is timed on; None where none has its batch and precision."""
        if deployment.shape.batch != self.shape.batch or deployment.runtime == "torch":
            return None
        half = self.precisions[self.path] == "float16"
        if deployment.precision == "half" and not half:
            return None
        if deployment.precision == "int8":
            return next(iter(self.calibrated_on), None)
        name = "engine" if deployment.runtime == "tensorrt" else deployment.format if deployment.command else ONNX
        return next((other.path for other in self.others if other.format == name), self.path if name == ONNX else None)

    @cached_property
    def shape(self) -> InputShape:
        """What each of the files takes at once, as the first one says."""
        return file_shape(self.path)

    @cached_property
    def precisions(self) -> dict[Path, str]:
        """What the weights of each ONNX file are in (see `onnx_precision`)."""
        return {path: onnx_precision(path) for path in self.files}


def export_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Ultralytics' export arguments by the block `export`, of the file in floating point, but for the size."""
    arguments = {key: value for key, value in settings.items() if key not in _ELSEWHERE}
    quantize = canonical("quantize", settings.get("quantize"))
    return arguments | ({"quantize": quantize if quantize == 16 else None} if "quantize" in arguments else {})


def same_files(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two blocks `export` lead to the same files."""
    kept = ({key: value for key, value in block.items() if key not in _MEASURED} for block in (a, b))
    return next(kept) == next(kept)


def other_formats(settings: Mapping[str, Any]) -> list[str]:
    """The formats of a block `export`, without ONNX, which is always written."""
    return [name for name in named_formats(settings["formats"]) if name != ONNX]


def wants_int8(settings: Mapping[str, Any]) -> bool:
    """Whether a block, `export` or `fine_tune`, asks for int8, in any of Ultralytics' words for it."""
    return bool(canonical("quantize", settings.get("quantize")) == 8)


def export_result(
    model: Yolo, folder: Path, imgsz: Any, settings: Mapping[str, Any], dataset: Dataset, calibration: int
) -> Exported:
    """Export to best.onnx in a folder and compare it with PyTorch on validation images; int8 is beside it where asked.

    So are the other formats; one of these that can't be compared here, or that differs, is there all the same.

    Args:
        settings: The block `export`.
        calibration: At most so many training images, which int8 ranges are those on.

    Raises:
        ExportError: The file does not do what the model does; the message has the figures.
    """
    path = export_onnx(model, folder / "best.onnx", imgsz=imgsz, **export_arguments(settings))
    limits = _HALF if onnx_precision(path) == "float16" else {}
    images = list(itertools.islice(filter(is_readable, dataset.images("val")), settings["images"]))
    parity = verify_onnx(path, model, images, **limits)
    if not parity.ok:
        path.unlink()
        raise ExportError(
            f"{path}: expected the outputs of the model, got {parity}; the file was removed, and the model is in "
            f"{folder}: start anew with export.simplify=false or another export.opset"
        )
    count = min(calibration, len(dataset.images("train")))
    others = []
    for name in other_formats(settings):
        say(f"exporting to {name}")
        data = dataset.write_keys(folder.parent)
        made = _other_file(model, name, folder / "best", imgsz, settings, data, count / len(dataset.images("train")))
        others.append(verified(made, name, model, images, file_shape(path), **limits))
    if not wants_int8(settings):
        return Exported(path, parity, others=tuple(others))
    say(f"calibrating int8 on {few_text(count) or f'{count} training images'}")
    int8 = quantize_onnx(path, folder / "best_int8.onnx", dataset.images("train"), limit=calibration)
    return Exported(path, parity, (int8,), {int8: count}, tuple(others))


def with_quantized(exported: Exported, trained: Yolo, imgsz: Any, settings: Mapping[str, Any]) -> Exported:
    """The same with best_qat.onnx beside it, of a quantisation-aware training; `settings` is the block `export`.

    Raises:
        ExportError: The export failed.
    """
    path = _quantized_file(trained, exported.path.with_name("best_qat.onnx"), imgsz, settings)
    return replace(exported, int8=(*exported.int8, path))


def _quantized_file(trained: Yolo | Network, path: Path, imgsz: Any, settings: Mapping[str, Any]) -> Path:
    """The file of a network that rounds to int8 already, whatever the other files of the block `export` are in."""
    if (opset := settings.get("opset") or LEAST_OPSET) < LEAST_OPSET:
        raise ExportError(f"int8 takes an opset of {LEAST_OPSET} or later, got {opset}")
    return export_onnx(trained, path, imgsz=imgsz, **{**export_arguments(settings), "quantize": None})


def _other_file(
    model: Yolo, name: str, path: Path, imgsz: Any, settings: Mapping[str, Any], data: str, fraction: float
) -> Path:
    """The file of a format other than ONNX; one of integers alone is calibrated on that share of the images."""
    given = {**export_arguments(settings), "data": data, "fraction": fraction}
    return export_format(model, name, path, imgsz=imgsz, **given)


def try_export(model: Yolo, settings: Mapping[str, Any], imgsz: Any, dataset: Dataset, *, quantized: bool) -> None:
    """Export a model by the block `export`, for nothing but to know at the start that its settings can be used.

    It is exported as after a quantisation-aware training, too, if there is to be one (`quantized`). What a format of
    integers alone is calibrated on are a few images of the data set.

    Raises:
        ConfigError: That can't be trained here.
        ExportError: They can't.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, silenced(), redirect_stdout(io.StringIO()):  # torch prints graphs
            if quantized:
                onnx_run(_quantized_file(quantized_trial(model), Path(folder) / "trial_qat.onnx", imgsz, settings))()
            path = export_onnx(model, Path(folder) / "trial.onnx", imgsz=imgsz, **export_arguments(settings))
            onnx_run(path)()
            for name in other_formats(settings):
                share = min(1.0, _TRIAL_IMAGES / len(dataset.images("train")))
                _other_file(
                    model, name, Path(folder) / "trial", imgsz, settings, dataset.write_keys(Path(folder)), share
                )
            if wants_int8(settings):
                images = torch.rand(replace(file_shape(path), batch=1).dimensions)
                quantize_onnx(path, Path(folder) / "trial_int8.onnx", images)
    except ExportError as error:
        raise ExportError(f"export: expected settings that can be used, but {error}; change them") from error


def file_shape(path: Path) -> InputShape:
    """What a file takes at once."""
    return onnx_input(open_session(path)).shape
