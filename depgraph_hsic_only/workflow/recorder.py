"""The record of a run: after every stage its checkpoint is written and measured, and the report brought up to date."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from depgraph_hsic_only.data.dataset import Dataset, same_classes
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.agreement import Agreement, measure_agreement
from depgraph_hsic_only.evaluation.latency import Latency, measure_latency, onnx_run, torch_run
from depgraph_hsic_only.evaluation.onnx import OnnxParity, export_onnx
from depgraph_hsic_only.evaluation.validation import Metrics, Validation
from depgraph_hsic_only.report.environment import environment
from depgraph_hsic_only.report.page import write_html
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.report.stage import BASELINE, EXPORTED, FINE_TUNED, PRUNED, STAGES, TRAINED, Stage
from depgraph_hsic_only.report.stages import StageReport
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.progress import begin_stage, say
from depgraph_hsic_only.training.results import read_epochs
from depgraph_hsic_only.workflow.checkpoints import Checkpoints
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.workflow.state import STATE, RunState
from depgraph_hsic_only.yolo.architecture import layer_widths, list_layers
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import select_device


@dataclass(frozen=True)
class Exported:
    """An exported file and the proof that it does what the model does.

    Attributes:
        path: The file, in the run folder.
        parity: The comparison with PyTorch on validation images.
    """

    path: Path
    parity: OnnxParity


@dataclass(frozen=True)
class Remarks:
    """What a stage has to say beside its result.

    Attributes:
        notes: What a reader of the report must know.
        details: Figures for its row, as plain values.
    """

    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def check_classes(model: Any, dataset: Dataset, config: Config) -> None:
    """Refuse to prune a model for a data set of another class count without training it.

    Raises:
        ConfigError: The counts differ and there are no training epochs.
    """
    has, wants = len(model.names), len(dataset.names)
    if has != wants and config.train["epochs"] == 0:
        raise ConfigError(
            f"train.epochs: expected at least 1, since the checkpoint has {has} classes and the data set {wants}, "
            "got 0; train.epochs=50, say, transfers the model to the data set's classes"
        )


class Recorder:
    """Measures the stages of one run and writes what the run folder holds of them.

    Args:
        folder: The run folder.
        checkpoints: The models after the stages.
        dataset: The data set.
        config: The configuration.
        state: How far the run is; the rows of what is done are taken from the report in the folder.
        imgsz: Side of the input image, pixels.
        evaluate: Measures a model's mAP.
    """

    def __init__(
        self,
        folder: RunFolder,
        checkpoints: Checkpoints,
        dataset: Dataset,
        config: Config,
        state: RunState,
        imgsz: int,
        evaluate: Callable[[Any], Metrics],
    ) -> None:
        self._folder, self._checkpoints, self._config, self._dataset = folder, checkpoints, config, dataset
        self._state, self._evaluate = state, evaluate
        self._validation, self._environment = Validation(imgsz, config.batch), environment()
        self._images = {split: len(dataset.images(split)) for split in ("train", "val")}
        self._stages: list[StageReport] = []

    def begin(self, model: Any) -> None:
        """Take down the loaded model, the baseline, or in a resumed run the rows of what is done."""
        self._baseline = copy.deepcopy(model)
        self._widths = layer_widths(model.model)
        if self._state.done:
            rows = RunReport.load(self._folder.path).stages
            self._stages = [row for row in rows if row.name in (BASELINE, *self._state.done)]
        else:
            weights = Path(model.ckpt_path).resolve() if model.ckpt_path else None
            self._stages = [self._row(BASELINE, model, weights, Remarks(), 0.0)]
            self._write(model)

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage was finished before."""
        return stage.name in self._state.done

    def record(self, stage: Stage, model: Any, remarks: Remarks, seconds: float, *, changed: bool) -> None:
        """Write the checkpoint of a stage and measure it; one that did and said nothing has no row in the report.

        Args:
            stage: The stage.
            model: The `YOLO` that it has led to.
            remarks: What it has to say.
            seconds: Time it took.
            changed: Whether the model is another one than before.
        """
        weights = self._checkpoints.save(stage, model)
        if stage is PRUNED:
            self._folder.write_yaml("weights/pruned.yaml", model.model.yaml)
        saved = self._checkpoints.find(stage)
        if changed or remarks.notes:
            self._stages.append(self._row(stage.name, saved, weights, remarks, seconds, stage.folder))
        self._write(saved)
        self._finished(stage.name)

    def finish(self, model: Any, export: Callable[[Any], Exported]) -> RunReport:
        """Export the result, measure latency, compare it with the model before, and write the report and the page."""
        begin_stage("export")
        exported = export(model)
        begin_stage("latency")
        self._measure_latency(exported.path)
        begin_stage("pictures")
        report = self._write(model, exported, self._compare())
        write_html(self._folder.path)
        self._finished(EXPORTED)
        return report

    def _finished(self, stage: str) -> None:
        """Note that everything of a stage is written; what it could have gone on from is not needed any more."""
        self._state = self._state.finished(stage)
        self._folder.write_json(STATE, self._state.to_dict())
        self._folder.clear_scratch()

    def _row(
        self,
        name: str,
        model: Any,
        weights: Path | None,
        remarks: Remarks,
        seconds: float,
        training: str = "",
    ) -> StageReport:
        """Measure a model."""
        cost, notes = measure_cost(model.model, self._validation.imgsz), list(remarks.notes)
        row = StageReport(name, seconds, cost.parameters, cost.gmacs, parts=cost.parts, details=remarks.details)
        if weights is None:
            notes.append("built from its YAML and not trained, so its mAP was not measured")
        elif not same_classes(model.names, self._dataset.names):
            notes.append("it has other classes than the data set, so its mAP was not measured")
        else:
            say(f"validating {weights.name}")
            found = self._evaluate(model)
            if not found.complete:
                notes.append("NMS ran out of time on this machine, so the mAP is too low: measure it again")
            row = replace(row, **vars(found))
        if weights is not None:
            inside = weights.is_relative_to(self._folder.path)
            shown = weights.relative_to(self._folder.path) if inside else weights
            row = replace(row, weights=str(shown), size_mb=weights.stat().st_size / 1e6)
        if training:
            row = replace(row, epochs=tuple(read_epochs(self._folder.path / training)))
        return replace(row, notes=tuple(notes))

    def _model_of(self, row: StageReport) -> Any:
        """The `YOLO` of a row, to be looked at."""
        stage = next((stage for stage in STAGES if stage.name == row.name), None)
        return self._baseline if stage is None else self._checkpoints.find(stage)

    def _measure_latency(self, onnx: Path) -> None:
        """Median latency of every stage with a checkpoint, all in turns."""
        imgsz, runs = self._validation.imgsz, {}
        with tempfile.TemporaryDirectory() as scratch:
            for row in self._stages:
                if row.weights is not None:
                    model = self._model_of(row)
                    last = row is self._stages[-1]
                    file = onnx if last else export_onnx(model, Path(scratch) / f"{row.name}.onnx", imgsz=imgsz)
                    runs[f"{row.name}/torch"] = torch_run(model, imgsz, self._config.device)
                    runs[f"{row.name}/onnxruntime"] = onnx_run(file)
            found = measure_latency(runs)
        self._stages = [row.with_latency(_of_stage(found, row.name)) for row in self._stages]

    def _compare(self) -> Agreement:
        """Measure the agreement of the model before the cut and the result, and write the pictures."""
        from depgraph_hsic_only.report.figures.photographs import plot_pair, save_photograph  # matplotlib loads slowly

        before, after = self._checkpoints.copy(TRAINED), self._checkpoints.copy(FINE_TUNED)  # they will be fused
        device = select_device(self._config.device)
        images = self._dataset.images("val")
        agreement, pairs = measure_agreement(before, after, images, imgsz=self._validation.imgsz, device=device)
        for name, pair in pairs.items():
            titles = f"before: {pair.found.before} found", f"after: {pair.found.after} found"
            figure = plot_pair(pair.before, pair.after, titles)
            write_atomically(self._folder.plots / f"{name}.png", partial(save_photograph, figure))
        return agreement

    def _write(self, model: Any, exported: Exported | None = None, agreement: Agreement | None = None) -> RunReport:
        """Bring `report.json` and `results.csv` up to date."""
        onnx = None
        if exported is not None:
            onnx = str(exported.path.relative_to(self._folder.path)), exported.parity
        report = RunReport(
            self._folder.path,
            self._config.to_dict(),
            tuple(self._stages),
            self._validation,
            self._widths,
            layer_widths(model.model),
            onnx,
            self._images,
            self._state.sources,
            agreement,
            self._environment,
            layers=list_layers(model.model),
        )
        self._folder.write_text("report.json", report.to_json())
        self._folder.write_csv("results.csv", [row.csv_row() for row in report.stages])
        return report


def _of_stage(found: Mapping[str, Latency], name: str) -> dict[str, Latency]:
    """The latencies of one stage by runtime, of those by stage and runtime."""
    return {key.removeprefix(f"{name}/"): latency for key, latency in found.items() if key.startswith(f"{name}/")}
