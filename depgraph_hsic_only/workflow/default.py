"""The workflow filled in: Ultralytics trains, DepGraph groups, any criterion ranks, onnxruntime proves the export."""

import copy
import time
from dataclasses import replace
from fractions import Fraction
from functools import partial

from depgraph_hsic_only.axes.trials import check_axes
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.onnx import check_onnx
from depgraph_hsic_only.report.stages import FINE_TUNED, TRAINED
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.training.arguments import check_training
from depgraph_hsic_only.workflow.base import Yolov8SegPruner
from depgraph_hsic_only.workflow.config import DEFAULTS
from depgraph_hsic_only.workflow.record.rivals import check_rivals
from depgraph_hsic_only.workflow.stages.cuts import stacked
from depgraph_hsic_only.workflow.stages.exported import (
    Exported,
    export_result,
    same_files,
    try_export,
    wants_int8,
    with_quantized,
)
from depgraph_hsic_only.workflow.stages.prune_steps import Step, keep_step, kept_plan, kept_scores, read_step
from depgraph_hsic_only.workflow.stages.searches import SearchingPruner
from depgraph_hsic_only.yolo.blocks import is_end_to_end
from depgraph_hsic_only.yolo.device import on_device, select_device
from depgraph_hsic_only.yolo.load import load_model, set_imgsz
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo


class DefaultYoloPruner(SearchingPruner):
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

        All widths are planned from the unpruned ones, so that roundings don't add up; for a target what they do is
        measured again at each step, since it doesn't add up either, and a training changes it.

        With `prune.max_map_drop` the last step is fine-tuned and measured too, and the last step within the allowed
        loss is what is returned.

        Where a search over axes has several finalists (`prune.finalists`), they are cut and fine-tuned here, and the
        stage after this one takes the training of the best.
        """
        self.open_folder()
        settings, planner = self.config.prune, self._planner(model)
        batches = self._batches(model) if planner.needs_images(settings.recover != "none") else []
        start = time.perf_counter()
        unpruned, known = kept_scores(self.folder, planner, self._at_work(model), batches)
        if planner.scorer.needs_batches and not planner.amount.is_nothing:
            took = "before, as the run folder has it" if known else f"in {time.perf_counter() - start:.0f} s"
            self.note(f"channels ranked by {planner.criterion} {took}")
        sensitivity = self._sensitivity(planner, unpruned, batches) if planner.amount.is_target and batches else None
        unpruned.network.to(select_device(self.config.device))  # its latency may be the target
        reference = None if settings.max_map_drop is None else self.evaluate(model).primary.map50_95
        done, trajectory, primary = Step(0, model), [self._point(0, model)], task_of(model.model).primary
        if sensitivity is not None and self.searches:
            choice = self._search(planner, model, unpruned, sensitivity)
            if len(choice.finalists) > 1:
                choice, done = self._decide(choice, planner, model, unpruned, sensitivity)
                trajectory.append(self._point(1, done.model))
            else:
                self._go_for(model, choice.best)
                planner = planner.on(unpruned.network, *choice.chosen)
                unpruned, batches = planner.again(unpruned), self._batches(model)
            self.detail(search=choice.to_dict())
        if (kept := read_step(self.folder, model)) is not None:
            done, trajectory, self._notes = kept
            self._write_plan(done.plan)
            say(f"going on after step {done.number}")
        for number in range(done.number + 1, settings.steps + 1):
            said = len(self._notes)
            scored = unpruned if number == 1 else planner.ranked(self._at_work(done.model), batches)
            if number > 1 and sensitivity is not None:
                sensitivity = planner.sensitivity(scored, stacked(batches))
            given = scored, sensitivity, Fraction(number, settings.steps), unpruned
            plan = kept_plan(self.folder, f"{number}", scored.network, partial(planner.plan, *given))
            last_good = done if reference is None else replace(done, model=copy.deepcopy(done.model))
            step = self._cut(done, plan, scored, batches)
            self._write_plan(step.plan)
            trajectory.append(self._point(number, step.model))
            if number < settings.steps or reference is not None:
                self.tuning = self._tuning(step, after=number)
                step = replace(step, model=self.fine_tune(step.model))
                trajectory.append(self._point(number, step.model))
            if settings.steps > 1:
                self._notes[said:] = [f"step {number}: {text}" for text in self._notes[said:]]
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
                unpruned, given = self.checkpoints.load(TRAINED), self.given  # of the model as it was asked for
                full = given.file.weigh(unpruned.model, given.deployed(unpruned))
            missed = f", missed by {budget.figure(got - budget.limit(full), full)}" if got > budget.limit(full) else ""
            self.note(f"target {budget}: {exported.deployed.name} has {budget.said(got, full)}{missed}")


class DefaultYolov8SegPruner(DefaultYoloPruner, Yolov8SegPruner):
    """`DefaultYoloPruner` for segmentation models alone."""
