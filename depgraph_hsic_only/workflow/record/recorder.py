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
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, Deployment
from depgraph_hsic_only.evaluation.latency import Latency
from depgraph_hsic_only.evaluation.validation import Metrics, Validation, validate_file, validate_model
from depgraph_hsic_only.report.page import write_html
from depgraph_hsic_only.report.pruning_report import compared_widths
from depgraph_hsic_only.report.rivals import Rival
from depgraph_hsic_only.report.run_report import RunReport, environment
from depgraph_hsic_only.report.stages import (
    BASELINE,
    EXPORTED,
    FINE_TUNED,
    PRUNED,
    STAGES,
    TRAINED,
    Stage,
    StageReport,
)
from depgraph_hsic_only.report.warnings import before_stage, missed_by
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.progress import begin_stage, say
from depgraph_hsic_only.support.resource_errors import storage_reason
from depgraph_hsic_only.training.callbacks import read_epochs
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.fit import works_on
from depgraph_hsic_only.workflow.record.files import describe_files, measure_maps
from depgraph_hsic_only.workflow.record.latencies import Latencies, MeasuredLatencies
from depgraph_hsic_only.workflow.record.rivals import Entrant, find_entrants, time_entrants
from depgraph_hsic_only.workflow.run_folder import Checkpoints, RunFolder
from depgraph_hsic_only.workflow.stages.exported import Exported, export_arguments
from depgraph_hsic_only.workflow.state import STATE, RunState
from depgraph_hsic_only.yolo.architecture import layer_widths, list_layers
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo


@dataclass(eq=False)
class Recorder:
    """Measures the stages of one run and writes what the run folder holds of them.

    The `config` and the `validation` are those that the run goes by at the moment (see `go_by`).
    """

    folder: RunFolder
    checkpoints: Checkpoints
    dataset: Dataset
    config: Config
    state: RunState  # the rows of what is done are taken from the report in the folder
    validation: Validation
    evaluate: Callable[[Any], Metrics]
    train_on: Callable[[Yolo, int], Yolo] | None  # a model, on images of a side, as the result was fine-tuned

    def __post_init__(self) -> None:
        self._given = self.config, self.validation

    def go_by(self, config: Config, validation: Validation) -> None:
        """What comes from here on is of another image size or precision, which was chosen by now."""
        self.config, self.validation = config, validation

    def begin(self, model: Yolo, notes: Sequence[str]) -> None:
        """Take down the loaded model, the baseline, what there is to say of it, or in a resumed run what is done."""
        self._baseline, widths = copy.deepcopy(model), layer_widths(model.model)
        trained = TRAINED.name in self.state.done
        self._unpruned = self.checkpoints.load(TRAINED) if trained else self._baseline  # which the result was cut from
        images = {split: len(self.dataset.images(split)) for split in ("train", "val")}
        found: dict[str, Any] = {"images": images, "sources": self.state.sources, "environment": environment()}
        found["dataset"], settings = self.dataset.write_keys(self.folder.path), self.config.to_dict()
        self._report = RunReport(self.folder.path, settings, (), self.validation, widths, widths, **found)
        if self.state.done:
            rows = RunReport.load(self.folder.path).stages
            done = tuple(row for row in rows if row.name in (BASELINE, *self.state.done))
            self._report = replace(self._report, stages=done)
        else:
            for note in notes:
                say(note)
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
        if stage is TRAINED:  # for other classes it has other widths than the baseline
            self._unpruned = saved
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
        arguments = export_arguments(self.config.export)
        maps = measure_maps(exported, model, self._report.dataset, self.validation, arguments)
        begin_stage("latency")
        with tempfile.TemporaryDirectory() as folder:
            stages, latencies, rivals = self._timed(exported, Path(folder))
        files, notes = describe_files(exported, self.folder.path, maps, latencies.files), (*notes, *self._met(stages))
        begin_stage("pictures")
        onnx = (str(exported.path.relative_to(self.folder.path)), exported.parity)
        try:
            agreement = self._compare(exported.shape)
        except Exception as error:  # whatever drawing meets, the run has its result; but a full disk is for the user
            if isinstance(error, StorageError) or storage_reason(error) is not None:
                raise
            agreement, why = None, f"no images before and after ({type(error).__name__}: {one_line(error)})"
            say(why)
            stages = _noted(stages, why)
        self._write(
            model,
            stages=stages,
            validation=self.validation,
            onnx=onnx,
            files=files,
            agreement=agreement,
            notes=notes,
            timed=latencies.timed,
            rivals=tuple(rivals),
        )
        write_html(self.folder.path)
        self._finished(EXPORTED)
        return self._report

    def _finished(self, stage: str) -> None:
        """Note that everything of a stage is written; what it could have gone on from is not needed any more."""
        self.state = replace(self.state, done=(*self.state.done, stage))
        self.folder.write_json(STATE, asdict(self.state))
        # the stage that follows takes the training of the best one
        finalists = self.folder.scratch.glob(f"{FINE_TUNED.folder}-*") if stage == PRUNED.name else ()
        self.folder.clear_scratch(but=[path.name for path in finalists])

    def _row(
        self, name: str, model: Yolo, weights: Path | None, said: Sequence[str] = (), seconds: float = 0.0, **known: Any
    ) -> StageReport:
        """Measure a model; what is `known` of the stage is in the row too."""
        imgsz, notes, task = self.validation.imgsz, list(said), task_of(model.model).name
        cost = measure_cost(model.model, imgsz)
        row = StageReport(name, seconds, cost.parameters, cost.gmacs, imgsz, parts=cost.parts, task=task, **known)
        if weights is None:
            notes.append("built from its YAML and not trained, so its mAP was not measured")
        elif not works_on(model, self.dataset, self.config):
            notes.append("it has other classes, or in another order, other keypoints or channels: mAP not measured")
        else:
            found = self.evaluate(model)
            say(f"{weights.name}: {cost.parameters:,} parameters, {cost.gmacs:.3f} GMACs, {found}")
            if not found.complete:
                notes.append("NMS ran out of time on this machine, so the mAP is too low: measure it again")
            row = replace(row, **vars(found))
        if weights is not None:
            inside = weights.is_relative_to(self.folder.path)
            shown = weights.relative_to(self.folder.path) if inside else weights
            row = replace(row, weights=str(shown), size_mb=weights.stat().st_size / 1e6)
        return replace(row, notes=tuple(notes))

    def _timed(
        self, exported: Exported, folder: Path
    ) -> tuple[tuple[StageReport, ...], MeasuredLatencies, list[Rival]]:
        """The rows with the latency of every stage that has a checkpoint, those of the files, and the rivals.

        All are measured in turns, exported alike, as the result was, on images of their own size.
        """
        given, deployment = (config.deployment(self._baseline) for config in (self._given[0], self.config))
        images = self.dataset.images("train", self.config.calibration["images"])
        clock = Latencies(given, deployment, self.config.device, images, folder)
        for row in reversed(self._report.stages):  # the result first: a stage of the same network needs no file then
            if row.weights is not None:
                stages = (self.checkpoints.load(stage) for stage in STAGES if stage.name == row.name)
                shape = _of(row, given, deployment).shape
                last = row is self._report.after
                clock.add_stage(row.name, next(stages, self._baseline), shape, exported if last else None)
        left_out: list[str] = []
        rivals = self._entrants(deployment)
        entrants = time_entrants(rivals, clock, self._given[1].imgsz, self._validated_file, left_out.append)
        found = clock.measured()
        device = select_device(self.config.device)
        rows = tuple(
            row.with_latency(found.of_stage(row.name), _of(row, given, deployment).key(device))
            for row in self._report.stages
        )
        return _noted(rows, *left_out), found, [self._rival(*entrant, found.by_name) for entrant in entrants]

    def _entrants(self, deployment: Deployment) -> list[Entrant]:
        """What else costs as little as the result; none where nothing was cut, or the model is not of the data."""
        unpruned, after, (config, validation) = self.checkpoints.load(TRAINED), self._report.after, self._given
        cut = after.gmacs < self._report.before.gmacs
        if config.rivals is None or not cut or not works_on(unpruned, self.dataset, config):
            return []
        given = validation.imgsz, config.rivals, deployment, config.device
        found = find_entrants(unpruned, after.gmacs, *given)
        if self.train_on is not None and (epochs := int(config.fine_tune["epochs"]) * config.train_rivals):
            plain = [entrant for entrant in found if entrant.precision == FLOAT]
            found += [replace(e, model=self.train_on(e.model, e.imgsz), epochs=epochs) for e in plain]
        return found

    def _rival(self, entrant: Entrant, of_file: Metrics | None, latencies: Mapping[str, Latency]) -> Rival:
        """A rival with what it is worth: that of its file in int8, else that of its model."""
        if of_file is None:
            where: Any = {"device": self.config.device, "workers": self.config.workers}
            validation = replace(self._given[1], imgsz=entrant.imgsz)
            of_file = validate_model(entrant.model, self._report.dataset, validation, **where)
        say(f"for comparison, {entrant.called}: {of_file}")
        cost, latency = measure_cost(entrant.model.model, entrant.imgsz), latencies[entrant.called].median
        own = cost.parameters, cost.gmacs, of_file.map50_95, latency, entrant.epochs
        return Rival(entrant.name, entrant.imgsz, *own)

    def _validated_file(self, path: Path, shape: InputShape) -> Metrics:
        task = task_of(self._baseline.model).name
        return validate_file(path, self._report.dataset, shape, task, single_cls=self.validation.single_cls)

    def _met(self, stages: Sequence[StageReport]) -> list[str]:
        """What the target's latency has become, of the result as it is deployed against the unpruned model as it was.

        Nothing is said where no target is of it.
        """
        if (budget := self.config.prune.amount.budget("latency")) is None:
            return []
        before, after = before_stage(stages), stages[-1]
        full, own, missed = before.deployed_ms, after.deployed_ms, missed_by(budget, before, after)
        if full is None or own is None or missed is None:
            return []
        return [
            f"target {budget}: the result takes {own:.1f} ms, {own / full:.3f} of the unpruned model's {full:.1f} ms"
            + (f", missed by {budget.figure(missed, 1.0)}" if missed > 0 else "")
        ]

    def _compare(self, shape: InputShape) -> Agreement:
        """Measure the agreement of the model before the cut and the result, and write the pictures."""
        from depgraph_hsic_only.report.figures.fonts import picture_labels  # matplotlib loads slowly
        from depgraph_hsic_only.report.figures.photographs import plot_pair, save_photograph

        before, after = self.checkpoints.copy(TRAINED), self.checkpoints.copy(FINE_TUNED)  # they will be fused
        device = select_device(self.config.device)
        images, labels = self.dataset.images("val"), picture_labels(before.names)
        sizes: Any = {"shape": shape, "shape_before": self._given[0].deployed(before)}
        agreement, pairs = measure_agreement(
            before, after, images, **sizes, device=device, labels=labels, nms=self.validation.nms
        )
        for name, pair in pairs.items():
            titles = f"before: {pair.found.before} found", f"after: {pair.found.after} found"
            figure = plot_pair(pair.before, pair.after, titles)
            write_atomically(self.folder.plots / f"{name}.png", partial(save_photograph, figure))
        return agreement

    def _write(self, model: Yolo, **found: Any) -> None:
        """Bring the report, `report.json` and `results.csv` up to date with a model and what was found of it."""
        (before, after), layers = compared_widths(self._unpruned.model, model.model), list_layers(model.model)
        self._report = replace(self._report, widths_before=before, widths_after=after, layers=layers, **found)
        self.folder.write_text("report.json", self._report.to_json())
        self.folder.write_csv("results.csv", [row.csv_row() for row in self._report.stages])


def _noted(rows: tuple[StageReport, ...], *notes: str) -> tuple[StageReport, ...]:
    """The same rows, with something to say of the result."""
    return (*rows[:-1], replace(rows[-1], notes=(*rows[-1].notes, *notes)))


def _of(row: StageReport, given: Deployment, chosen: Deployment) -> Deployment:
    """How the model after a stage is deployed: as it was given before the cut, and as the run has chosen after it."""
    return given if row.name in (BASELINE, TRAINED.name) else chosen
