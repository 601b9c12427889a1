"""What the exported files of a run are worth, measured."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depgraph_hsic_only.evaluation.deployed.formats import INT8_ONLY
from depgraph_hsic_only.evaluation.latency import Latency
from depgraph_hsic_only.evaluation.onnx import export_onnx
from depgraph_hsic_only.evaluation.validation import Metrics, Validation, validate_file
from depgraph_hsic_only.report.exported import ExportedFile
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.workflow.stages.exported import Exported
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.tasks import Task, task_of
from depgraph_hsic_only.yolo.types import Yolo

Maps = Mapping[Path, tuple[Metrics, float | None]]
"""By file: its mAPs, if they were measured, and what it loses of the primary mAP50-95 against float32."""


def measure_maps(
    exported: Exported, model: Yolo, data: str, validation: Validation, arguments: Mapping[str, Any]
) -> Maps:
    """mAPs of the files in onnxruntime, unless they are proven to be the model's own at the size of its validation.

    They are measured where a file is in float16 or int8, or takes another size; losses are against a file in float32,
    which is made of the `model` by the same export `arguments` where there is none.
    """
    shape, precisions = exported.shape, exported.precisions
    if set(precisions.values()) == {"float32"} and shape.size == (validation.imgsz, validation.imgsz):
        return {path: (Metrics({}), None) for path in exported.files}
    task = task_of(model.model)
    found = {path: _measured(path, data, shape, task, validation) for path in exported.files}
    primary = task.primary
    reference = found[exported.path][primary].map50_95
    if precisions[exported.path] != "float32":
        with tempfile.TemporaryDirectory() as folder:
            given = {**arguments, "quantize": None, "imgsz": shape.size}
            float32 = export_onnx(model, Path(folder) / "float32.onnx", **given)
            reference = _measured(float32, data, shape, task, validation)[primary].map50_95
    reduced = {path for path, kind in precisions.items() if kind != "float32"}
    losses = {path: reference - found[path][primary].map50_95 for path in reduced}
    return {path: (metrics, losses.get(path)) for path, metrics in found.items()}


def _measured(path: Path, data: str, shape: InputShape, task: Task, validation: Validation) -> Metrics:
    found = validate_file(path, data, shape, task.name, single_cls=validation.single_cls)
    say(f"{path.name}: {found}")
    return found


def describe_files(
    exported: Exported, folder: Path, maps: Maps, latencies: Mapping[Path, Latency]
) -> tuple[ExportedFile, ...]:
    """What was measured of each file in the run `folder`."""
    onnx = (
        ExportedFile(
            str(path.relative_to(folder)),
            exported.precisions[path],
            exported.shape,
            path.stat().st_size / 1e6,
            metrics.map50_95,
            loss,
            _tenths(latencies[path]),
            exported.calibrated_on.get(path),
            metrics.complete,
            verified=True if path == exported.path else None,
            says=str(exported.parity) if path == exported.path else "",
        )
        for path, (metrics, loss) in maps.items()
    )
    kind = "float16" if exported.precisions[exported.path] == "float16" else "float32"
    others = (
        ExportedFile(
            str(other.path.relative_to(folder)),
            "int8" if other.format in INT8_ONLY else kind,
            exported.shape,
            other.size / 1e6,
            {},
            None,
            _tenths(latencies[other.path]) if other.path in latencies else None,
            format=other.format,
            verified=None if other.parity is None else other.parity.ok,
            says=other.says,
        )
        for other in exported.others
    )
    return (*onnx, *others)


def _tenths(latency: Latency) -> tuple[float, float, float]:
    return latency.median, latency.p10, latency.p90
