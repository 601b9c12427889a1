"""The record of a run: after every stage its checkpoint is written and measured, and the report brought up to date."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.errors import StorageError, one_line
from depgraph_hsic_only.evaluation.agreement import Agreement, measure_agreement
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, Timed
from depgraph_hsic_only.evaluation.latency import Latency, Run, measure_latency, torch_run
from depgraph_hsic_only.evaluation.validation import Metrics, Validation, validate_model
from depgraph_hsic_only.report.page import write_html
from depgraph_hsic_only.report.pruning_report import compared_widths
from depgraph_hsic_only.report.rivals import Rival
from depgraph_hsic_only.report.run_report import RunReport, environment
from depgraph_hsic_only.report.stages import (
    BASELINE,
    EXPORTED,
    FINE_TUNED,
    PRUNED,
    RUNTIMES,
    STAGES,
    TRAINED,
    Stage,
    StageReport,
)
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.machine import watched
from depgraph_hsic_only.support.progress import begin_stage, say
from depgraph_hsic_only.support.resource_errors import storage_reason
from depgraph_hsic_only.training.callbacks import read_epochs
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.exported import Exported, describe_files, export_arguments, measure_maps
from depgraph_hsic_only.workflow.fit import works_on
from depgraph_hsic_only.workflow.rivals import measure_rivals
from depgraph_hsic_only.workflow.run_folder import Checkpoints, RunFolder
from depgraph_hsic_only.workflow.state import STATE, RunState
from depgraph_hsic_only.yolo.architecture import layer_widths, list_layers
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import on_device, select_device
from depgraph_hsic_only.yolo.input_shape import InputShape, input_channels
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo


@dataclass(eq=False)
class Recorder:
    """Measures the stages of one run and writes what the run folder holds of them."""

    folder: RunFolder
    checkpoints: Checkpoints
    dataset: Dataset
    config: Config
    state: RunState  # the rows of what is done are taken from the report in the folder
    validation: Validation
    evaluate: Callable[[Any], Metrics]

    def begin(self, model: Yolo, notes: Sequence[str]) -> None:
        """Take down the loaded model, the baseline, what there is to say of it, or in a resumed run what is done."""
        self._baseline, widths = copy.deepcopy(model), layer_widths(model.model)
        images = {split: len(self.dataset.images(split)) for split in ("train", "val")}
        found: dict[str, Any] = {"images": images, "sources": self.state.sources, "environment": environment()}
        settings = self.config.to_dict()
        self._report = RunReport(self.folder.path, settings, (), self.validation, widths, widths, **found)
        if self.state.done:
            rows = RunReport.load(self.folder.path).stages
            done = tuple(row for row in rows if row.name in (BASELINE, *self.state.done))
            self._report = replace(self._report, stages=done)
        else:
            weights = Path(model.ckpt_path).resolve() if model.ckpt_path else None
            self._write(model, stages=(self._row(BASELINE, model, weights, notes),))

    def record(
        self, stage: Stage, model: Yolo, notes: Sequence[str], details: Mapping[str, Any], seconds: float, changed: bool
    ) -> None:
        """Write the checkpoint of a stage and measure it, with what it has said and its own figures, as plain values.

        One that has left the model as it was, which `changed` tells, and said nothing has no row in the report.
        """
        weights = self.checkpoints.save(stage, model)
        if stage is PRUNED:
            self.folder.write_yaml("weights/pruned.yaml", model.model.yaml)
        saved, stages = self.checkpoints.load(stage), self._report.stages
        if changed or notes:
            epochs = tuple(read_epochs(self.folder.path / stage.folder)) if stage.folder else ()
            row = self._row(stage.name, saved, weights, notes, seconds, details=dict(details), epochs=epochs)
            stages = (*stages, row)
        self._write(saved, stages=stages)
        self._finished(stage.name)

    def finish(self, model: Yolo, export: Callable[[Any], tuple[Exported, tuple[str, ...]]]) -> RunReport:
        """Export the result, measure the files and latency, compare it with the model before, and write the report.

        With the exported files come the notes of the export.
        """
        begin_stage("export")
        exported, notes = export(model)
        data, arguments = self.dataset.write_keys(self.folder.path), export_arguments(self.config.export)
        maps = measure_maps(exported, model, data, self.validation, arguments)
        begin_stage("latency")
        stages, latencies, timed = self._with_latency(exported)
        files = describe_files(exported, self.folder.path, maps, latencies)
        rivals = self._rivals(data)
        begin_stage("pictures")
        onnx = (str(exported.path.relative_to(self.folder.path)), exported.parity)
        try:
            agreement = self._compare(exported.shape)
        except Exception as error:  # whatever drawing meets, the run has its result; but a full disk is for the user
            if isinstance(error, StorageError) or storage_reason(error) is not None:
                raise
            agreement, why = None, f"no images before and after ({type(error).__name__}: {one_line(error)})"
            say(why)
            stages = (*stages[:-1], replace(stages[-1], notes=(*stages[-1].notes, why)))
        self._write(
            model, stages=stages, onnx=onnx, files=files, agreement=agreement, notes=notes, timed=timed, rivals=rivals
        )
        write_html(self.folder.path)
        self._finished(EXPORTED)
        return self._report

    def _finished(self, stage: str) -> None:
        """Note that everything of a stage is written; what it could have gone on from is not needed any more."""
        self.state = replace(self.state, done=(*self.state.done, stage))
        self.folder.write_json(STATE, asdict(self.state))
        self.folder.clear_scratch()

    def _row(
        self, name: str, model: Yolo, weights: Path | None, said: Sequence[str] = (), seconds: float = 0.0, **known: Any
    ) -> StageReport:
        """Measure a model; what is `known` of the stage is in the row too."""
        cost, notes, task = measure_cost(model.model, self.validation.imgsz), list(said), task_of(model.model).name
        row = StageReport(name, seconds, cost.parameters, cost.gmacs, parts=cost.parts, task=task, **known)
        if weights is None:
            notes.append("built from its YAML and not trained, so its mAP was not measured")
        elif not works_on(model, self.dataset, self.config):
            notes.append("it has other classes, or in another order, other keypoints or channels: mAP not measured")
        else:
            say(f"validating {weights.name}")
            found = self.evaluate(model)
            if not found.complete:
                notes.append("NMS ran out of time on this machine, so the mAP is too low: measure it again")
            row = replace(row, **vars(found))
        if weights is not None:
            inside = weights.is_relative_to(self.folder.path)
            shown = weights.relative_to(self.folder.path) if inside else weights
            row = replace(row, weights=str(shown), size_mb=weights.stat().st_size / 1e6)
        return replace(row, notes=tuple(notes))

    def _with_latency(self, exported: Exported) -> tuple[tuple[StageReport, ...], dict[Path, Latency], Timed]:
        """The rows with the latency of every stage that has a checkpoint, that of each file, and what they are of.

        All are measured in turns, on the same images and exported alike, as the result was: every stage in PyTorch, in
        onnxruntime, and as the settings say, where that is neither.
        """
        deployment, device = self.config.deployment(self._baseline), select_device(self.config.device)
        timed, images = deployment.on(device), self.dataset.images("train")
        runs: dict[str, Run] = {}
        files: dict[Path, str] = {}
        shape = replace(deployment.shape, channels=exported.shape.channels)
        plain = replace(deployment, runtime="onnxruntime", precision=FLOAT, command=None)
        wanted = {"onnxruntime": plain} | ({} if (name := deployment.key(device)) in RUNTIMES else {name: deployment})
        with tempfile.TemporaryDirectory() as scratch:
            for row in self._report.stages:
                if row.weights is None:
                    continue
                stages = (self.checkpoints.load(stage) for stage in STAGES if stage.name == row.name)
                model = next(stages, self._baseline)
                takes = replace(shape, channels=input_channels(model.model))  # its own, before it was trained
                runs[f"{row.name}/torch"] = torch_run(model, takes, self.config.device)
                network, last = on_device(model.model, self.config.device), row is self._report.after
                written: dict[tuple[str, str], Path] = {}  # by format and precision
                for key, way in wanted.items():
                    folder, made = Path(tempfile.mkdtemp(dir=scratch)), exported.made(way) if last else None
                    if made is not None and way.on(device).runtime == "onnxruntime":
                        files[made] = f"{row.name}/{key}"
                    if made is None and (kind := way.kind(device)) is not None:
                        made = written.get((kind, way.precision)) or way.write(
                            network, folder, images if last else None
                        )
                        written[kind, way.precision] = made
                    runs[f"{row.name}/{key}"] = way.prepare(network, folder, made)
            for path in exported.timeable:
                if path not in files:
                    files[path] = str(path)
                    runs[files[path]] = exported.run(path, deployment.threads)
            with watched() as machine:
                found = measure_latency(runs, deployment.threads)
        keys = (*RUNTIMES, *(key for key in wanted if key not in RUNTIMES))
        rows = tuple(
            row.with_latency({key: found.get(f"{row.name}/{key}") for key in keys}) for row in self._report.stages
        )
        timed = replace(timed, input=shape).watched(machine)
        if timed.warning is not None:
            say(timed.warning)
        return rows, {path: found[key] for path, key in files.items()}, timed

    def _rivals(self, data: str) -> tuple[Rival, ...]:
        """What else costs as little as the result; none where nothing was cut, or the model is not of the data."""
        unpruned, gmacs = self.checkpoints.load(TRAINED), self._report.after.gmacs
        cut = gmacs < self._report.before.gmacs
        if self.config.rivals is None or not cut or not works_on(unpruned, self.dataset, self.config):
            return ()
        where = {"device": self.config.device, "workers": self.config.workers}
        return measure_rivals(
            unpruned,
            gmacs,
            self.config.rivals,
            self.validation,
            lambda model, validation: validate_model(model, data, validation, **where),
        )

    def _compare(self, shape: InputShape) -> Agreement:
        """Measure the agreement of the model before the cut and the result, and write the pictures."""
        from depgraph_hsic_only.report.figures.fonts import picture_labels  # matplotlib loads slowly
        from depgraph_hsic_only.report.figures.photographs import plot_pair, save_photograph

        before, after = self.checkpoints.copy(TRAINED), self.checkpoints.copy(FINE_TUNED)  # they will be fused
        device = select_device(self.config.device)
        images, labels = self.dataset.images("val"), picture_labels(before.names)
        agreement, pairs = measure_agreement(
            before, after, images, shape=shape, device=device, labels=labels, nms=self.validation.nms
        )
        for name, pair in pairs.items():
            titles = f"before: {pair.found.before} found", f"after: {pair.found.after} found"
            figure = plot_pair(pair.before, pair.after, titles)
            write_atomically(self.folder.plots / f"{name}.png", partial(save_photograph, figure))
        return agreement

    def _write(self, model: Yolo, **found: Any) -> None:
        """Bring the report, `report.json` and `results.csv` up to date with a model and what was found of it."""
        (before, after), layers = compared_widths(self._baseline.model, model.model), list_layers(model.model)
        self._report = replace(self._report, widths_before=before, widths_after=after, layers=layers, **found)
        self.folder.write_text("report.json", self._report.to_json())
        self.folder.write_csv("results.csv", [row.csv_row() for row in self._report.stages])
