"""The workflow filled in: Ultralytics trains, DepGraph groups, any criterion ranks, onnxruntime proves the export."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch

from depgraph_hsic_only.axes.candidates import IMGSZ, PRECISION
from depgraph_hsic_only.axes.choice import choose, chosen_in
from depgraph_hsic_only.axes.trials import Judge, Subject, check_axes
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.data.dataset import labelled_batches
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.onnx import check_onnx
from depgraph_hsic_only.pruning.api import report_cut
from depgraph_hsic_only.pruning.planner import Planner, Scored
from depgraph_hsic_only.recovery.recover import recover
from depgraph_hsic_only.report.pruning_report import stability_text
from depgraph_hsic_only.report.stages import FINE_TUNED, PRUNED, TRAINED, Stage
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.training.arguments import check_training
from depgraph_hsic_only.workflow.base import Yolov8SegPruner
from depgraph_hsic_only.workflow.config import DEFAULTS
from depgraph_hsic_only.workflow.exported import (
    Exported,
    export_result,
    same_files,
    try_export,
    wants_int8,
    with_quantized,
)
from depgraph_hsic_only.workflow.fit import works_on
from depgraph_hsic_only.workflow.prune_steps import (
    PLAN,
    PruneEvent,
    Step,
    keep_step,
    kept_scores,
    kept_sensitivity,
    read_step,
)
from depgraph_hsic_only.workflow.record.rivals import check_rivals
from depgraph_hsic_only.workflow.trainings import TrainingPruner
from depgraph_hsic_only.yolo.blocks import is_end_to_end
from depgraph_hsic_only.yolo.device import float64_device, on_device, select_device
from depgraph_hsic_only.yolo.load import install, load_model, set_imgsz
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_SEARCH = "search.json"


class DefaultYoloPruner(TrainingPruner):
    """`DefaultYoloPruner(pretrained_path="yolov8n-seg.pt", cfg="default.yaml").run()`, for a model of any task.

    Every stage can be replaced by a subclass.
    """

    def load(self) -> Yolo:
        """Load the checkpoint by Ultralytics' safe load, unless it is trusted.

        Raises:
            CheckpointError, UnsupportedModelError: It can't be used, or a teacher (`distill_model`) can't.
            ConfigError: No such layers, a target out of reach, arguments that can't be trained with, or a clock
                (`latency`) that can't be read: said now.
            DataError: There are fewer images than the criterion takes.
            ExportError: onnx or onnxruntime is missing, or a setting of the export can't be used.
        """
        check_onnx()
        model = load_model(self.config.pretrained, trust=self.config.trust)
        self.take_task(model)
        set_imgsz(model, self.imgsz_of(model))
        for stage in (TRAINED, FINE_TUNED):
            settings = getattr(self.config, stage.block)
            names = self.dataset.names if settings.get("classes") is not None else {}
            check_training(stage.block, settings, model.model, len(names), self.config.device)
        check_rivals(self.config.rivals or (), self.dataset.task, len(self.dataset.names))
        planner, network = self._planner(model), on_device(model.model, self.config.device)
        if self.config.latency != DEFAULTS["latency"]:
            self.config.deployment(model).try_out(network)
        check_axes(planner, network, self.config.prune.spent_on)
        if planner.scorer.needs_batches:
            planner.check_images(network, min(self.config.calibration["images"], len(self.dataset.images("train"))))
        quantized, size = wants_int8(self.config.fine_tune), self.config.deployed(model).size
        if self.config.export.get("nms") is False and not is_end_to_end(model.model.model[-1]):
            raise ConfigError(
                "export.nms: expected null, since the model has no head without NMS, got false; leave it out"
            )
        if quantized or not same_files(self.config.export, DEFAULTS["export"]):
            try_export(model, self.config.export, size, self.dataset, quantized=quantized)
        return model

    def prune(self, model: Yolo) -> Yolo:
        """Cut in `prune.steps` steps towards the final widths, with `fine_tune` in between.

        All widths are planned from the unpruned ones, so that roundings don't add up. With `prune.max_map_drop` the
        last step is fine-tuned and measured too, and the last step within the allowed loss is what is returned.
        """
        self.open_folder()
        settings, planner = self.config.prune, self._planner(model)
        batches = self._batches(model) if planner.needs_images(settings.recover != "none") else []
        start = time.perf_counter()
        unpruned = kept_scores(self.folder, planner, self._at_work(model), batches)
        if planner.scorer.needs_batches and not planner.amount.is_nothing:
            self.note(f"channels ranked by {planner.criterion} in {time.perf_counter() - start:.0f} s")
        sensitivity = self._sensitivity(planner, unpruned, batches) if planner.amount.is_target and batches else None
        unpruned.network.to(select_device(self.config.device))  # its latency may be the target
        reference = None if settings.max_map_drop is None else self.evaluate(model).primary.map50_95
        if sensitivity is not None and not {IMGSZ, PRECISION}.isdisjoint(settings.spent_on):
            imgsz, precision = self._search(planner, model, unpruned, sensitivity)
            planner = planner.on(unpruned.network, imgsz, precision)
            unpruned, batches = planner.again(unpruned), self._batches(model)
        done, trajectory, primary = Step(0, model), [self._point(0, model)], task_of(model.model).primary
        if (kept := read_step(self.folder, model)) is not None:
            done, trajectory, self._notes = kept
            self._write_plan(done.plan)
            say(f"going on after step {done.number}")
        for number in range(done.number + 1, settings.steps + 1):
            said = len(self._notes)
            scored = unpruned if number == 1 else planner.ranked(self._at_work(done.model), batches)
            plan = planner.plan(scored, sensitivity, Fraction(number, settings.steps), unpruned)
            last_good = done if reference is None else replace(done, model=copy.deepcopy(done.model))
            step = self._cut(done, plan, scored, batches)
            self._write_plan(step.plan)
            trajectory.append(self._point(number, step.model))
            if number < settings.steps or reference is not None:
                self.tuning = self._tuning(step, after=number)
                step = replace(step, model=self.fine_tune(step.model))
                self.folder.rename(FINE_TUNED.folder, self.tuning.name)
                trajectory.append(self._point(number, step.model))
            if reference is not None:
                change = self.evaluate(step.model).primary.map50_95 - reference
                if undone := -change > (settings.max_map_drop or 0):
                    del self._notes[said:]
                self.note(
                    f"step {number} of {settings.steps}: {primary} mAP50-95 {change:+.4f} against the unpruned model"
                )
                if undone:
                    done = last_good
                    self._write_plan(done.plan)
                    self.note(f"stopped by max_map_drop={settings.max_map_drop:g}: step {done.number} is kept")
                    break
            done = step if number == settings.steps else keep_step(self.folder, step, trajectory, self._notes)
        self.tuning = self._tuning(done)
        self.detail(**done.details, trajectory=trajectory)
        return done.model

    def export(self, model: Yolo) -> Exported:
        """Export to ONNX by Ultralytics and compare the file with PyTorch on validation images; int8 beside it.

        With `fine_tune.quantize` a copy is trained on by the same settings, with itself as teacher, for one in int8.

        Raises:
            ExportError: The file does not do what the model does; the message has the figures.
        """
        weights, imgsz, config = self.open_folder().weights, self.config.deployed(model).size, self.config
        found = export_result(model, weights, imgsz, config.export, self.dataset, config.calibration["images"])
        self._note_size(found)
        if not wants_int8(config.fine_tune):
            return found
        self.note("training for int8")
        return with_quantized(found, self._quantized(model), imgsz, config.export)

    def _note_size(self, exported: Exported) -> None:
        """Say whether the deployed file is as small as the target wants it."""
        if (budget := self.config.prune.amount.budget("size")) is not None:
            got, full = exported.deployed.stat().st_size / 1e6, 1.0
            if not budget.absolute:
                planner = self._planner(unpruned := self.checkpoints.load(TRAINED))
                full = planner.file.weigh(unpruned.model, exported.shape)
            missed = f", missed by {budget.figure(got - budget.limit(full), full)}" if got > budget.limit(full) else ""
            self.note(f"target {budget}: {exported.deployed.name} has {budget.said(got, full)}{missed}")

    def _planner(self, model: Yolo) -> Planner:
        return self.config.planner(model)

    def take_up(self, stage: Stage) -> None:
        """The image size and precision that a search has chosen."""
        if stage is PRUNED and (chosen := chosen_in(self.folder.path / _SEARCH)) is not None:
            self.config = self.given.deployed_as(self.checkpoints.load(TRAINED), *chosen)

    def _batches(self, model: Yolo) -> list[dict[str, Any]]:
        count, of = self.config.calibration["images"], self.validation_of(model)
        sizes: dict[str, Any] = {"imgsz": of.imgsz, "batch": min(of.batch, count), "single_cls": of.single_cls}
        return list(labelled_batches(self.dataset, images=count, **sizes))

    def _search(self, planner: Planner, model: Yolo, scored: Scored, sensitivity: Sensitivity) -> tuple[int, str]:
        """Image size and precision of the best candidate, by which the run goes on."""
        settings, config = self.config.prune, self.config
        judge = Judge(self.dataset, self.validation_of(model), config.device, config.workers)
        unpruned = copy.deepcopy(model)
        unpruned.model.to(select_device(config.device))
        subject = Subject(planner, unpruned, scored.measured.scores, sensitivity, settings.recover)
        choice = choose(subject, judge, settings.spent_on, self.folder.path / _SEARCH, self.folder.scratch / "search")
        self.config = config.deployed_as(model, *choice.chosen)
        set_imgsz(model, choice.best.imgsz)
        self.note(str(choice))
        self.detail(search=choice.to_dict())
        return choice.chosen

    def _sensitivity(self, planner: Planner, scored: Scored, batches: Sequence[Mapping[str, Any]]) -> Sensitivity:
        """How much each width hurts: from the run folder where it was measured before on the same, else measured."""
        found, known = kept_sensitivity(self.folder, planner, scored, _images(batches))
        measured = f"measured on {found.images} images in {found.seconds:.0f} s"
        self.note(f"sensitivity of the widths: {'taken from the run folder, where it was ' * known}{measured}")
        return found

    def _cut(self, done: Step, plan: PruningPlan, scored: Scored, batches: Sequence[Mapping[str, Any]]) -> Step:
        """The next step: the model is cut in place as planned, and recovered."""
        settings, model, number = self.config.prune, done.model, done.number + 1
        original = self._at_work(model)
        self.callbacks.fire("on_prune_start", PruneEvent(number, settings.steps, model, plan, None))
        found = cut(original, plan, scored.graph)
        scores, stability = {n: s.tolist() for n, s in scored.measured.scores.items()}, scored.stability(plan)
        report = replace(
            report_cut(plan, original, found.network, self.imgsz_of(model)), scores=scores, stability=stability
        )
        install(model, found.network)
        say(f"{f'step {number} of {settings.steps}: ' if settings.steps > 1 else ''}{report.summary()}")
        details: dict[str, Any] = {"scores": scores, "stability": stability}
        if plan.cuts_nothing:
            self.note("nothing was cut: no layer is re-fitted")
        elif settings.recover != "none":
            if works_on(model, self.dataset, self.config):
                details["as_cut"] = self._as_cut(model)
            given: Any = {"method": settings.recover, "seed": self.config.seed}
            recovery = recover(model.model, original, found.kept, _images(batches), **given)
            details["recovery"] = recovery.to_dict()
            self.note(f"recovered by {recovery}")
            report = replace(report, recovery=recovery)
        model.model.cpu()  # where the stages hand models over
        if stability is not None:
            self.note(stability_text(stability))
        self.callbacks.fire("on_prune_end", PruneEvent(number, settings.steps, model, plan, report))
        return done.then(model, plan, found.kept, details)

    def _at_work(self, model: Yolo) -> Network:
        """A copy of a model's network, on the device that ranks its channels, measures its widths and re-fits it."""
        return copy.deepcopy(model.model).to(float64_device(self.config.device))

    def _as_cut(self, model: Yolo) -> dict[str, float]:
        """What a cut model is worth before its recovery."""
        found = self.evaluate(model)
        self.note(f"as cut, before the recovery: {found}")
        return {"parameters": _parameters(model), **{f"map50_95_{k}": value for k, value in found.map50_95.items()}}

    def _write_plan(self, plan: PruningPlan | None) -> None:
        """Write what has been cut so far; nothing cut leaves no file."""
        if plan is None:
            (self.folder.path / PLAN).unlink(missing_ok=True)
        else:
            self.folder.write_json(PLAN, plan.to_dict())

    def _point(self, step: int, model: Yolo) -> dict[str, Any]:
        """Where a model stands between the unpruned one and the last cut; it is measured where there are several."""
        measured = self.config.prune.steps > 1 and works_on(model, self.dataset, self.config)
        worth = self.evaluate(model).primary.map50_95 if measured else None
        return {"step": step, "parameters": _parameters(model), f"map50_95_{task_of(model.model).primary}": worth}


class DefaultYolov8SegPruner(DefaultYoloPruner, Yolov8SegPruner):
    """`DefaultYoloPruner` for segmentation models alone."""


def _images(batches: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """The images of batches, (n, c, h, w), float in [0, 1]."""
    return torch.cat([batch["img"] for batch in batches])


def _parameters(model: Yolo) -> int:
    return sum(p.numel() for p in model.model.parameters())
