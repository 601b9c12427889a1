"""The workflow filled in: Ultralytics trains, DepGraph groups, any criterion ranks, onnxruntime proves the export."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.budget.allocation import check_reachable
from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.channels.amount import Target
from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.channels.widths import agreement
from depgraph_hsic_only.data.dataset import same_classes
from depgraph_hsic_only.data.images import is_readable
from depgraph_hsic_only.errors import ExportError
from depgraph_hsic_only.evaluation.onnx import check_onnx, export_onnx, verify_onnx
from depgraph_hsic_only.evaluation.validation import PRIMARY
from depgraph_hsic_only.pruning.api import apply_plan
from depgraph_hsic_only.pruning.planner import Planner, Scored
from depgraph_hsic_only.recovery.recover import Recovery, recover
from depgraph_hsic_only.report.pruning_report import stability_text
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.training.recipe import Start
from depgraph_hsic_only.training.train import Recipe, Trained, make_recipe, train_model, trained_on
from depgraph_hsic_only.workflow.base import Yolov8SegPruner
from depgraph_hsic_only.workflow.events import PruneEvent
from depgraph_hsic_only.workflow.prune_steps import Step, keep_step, read_step
from depgraph_hsic_only.workflow.recorder import BLOCKS, FILES, TRAININGS, Exported, imgsz_of
from depgraph_hsic_only.yolo.load import load_model

_PLAN = "plan.json"


class DefaultYolov8SegPruner(Yolov8SegPruner):
    """`DefaultYolov8SegPruner(pretrained_path="yolov8n-seg.pt", cfg="default.yaml").run()`.

    Every stage can be replaced by a subclass.
    """

    _between = 0  # the cut that the fine-tuning at hand follows, where others follow it

    def load(self) -> Any:
        """Load the checkpoint with Ultralytics' restricted loader, unless it is trusted.

        Raises:
            CheckpointError, UnsupportedModelError: It can't be used, or a teacher (`distill_model`) can't.
            ConfigError: The target is out of reach: said now rather than after the training.
            ExportError: onnx or onnxruntime is missing.
        """
        check_onnx()
        model = load_model(self.config.pretrained, trust=self.config.trust)
        for block in (self.config.train, self.config.fine_tune):
            if block.get("distill_model"):
                load_model(block["distill_model"])
        settings = self.config.prune
        if settings.target is not None:
            graph = trace_channels(model.model, settings.layers)
            check_reachable(graph, CostModel(model.model, graph), Target.parse(settings.target), settings.limits)
        return model

    def train(self, model: Any) -> Any:
        """Train by Ultralytics for `train.epochs`; 0 leaves the model as it is.

        A checkpoint of the data set's own classes is trained on gently, with itself as teacher (see `recipe.py`), and
        comes back as it was if no epoch was better.
        """
        return self._trained(model, "trained", dict(self.config.train))

    def fine_tune(self, model: Any) -> Any:
        """Train the cut model by Ultralytics for its part of `fine_tune.epochs`; 0 leaves it as it is.

        The gentler, the more of its mask mAP the cut has left, and taught by the model before the cut (see
        `recipe.py`); it comes back as it was if no epoch was better.
        """
        return self._trained(model, "fine_tuned", {**self.config.fine_tune, "epochs": self._epochs()})

    def prune(self, model: Any) -> Any:
        """Cut in `prune.steps` steps towards the final widths, with `fine_tune` in between.

        All widths are planned from the unpruned ones, so that roundings don't add up. With `prune.max_map_drop` the
        last step is fine-tuned and measured too, and the last step within the allowed loss is what is returned.
        """
        settings = self.config.prune
        planner = Planner(self.config, self.dataset, self.folder, self.note)
        scored = planner.scored(model)
        planned = planner.started(model, scored)
        reference = None if settings.max_map_drop is None else self.evaluate(model)[PRIMARY].map50_95
        done, whole, trajectory = 0, None, [self._point(0, model)]
        if (kept := read_step(self.folder)) is not None:
            done, model, whole, trajectory = kept.number, kept.model, kept.plan, kept.trajectory
            self._remarks.notes, self._remarks.details = list(kept.notes), dict(kept.details)
            self._write_plan(whole)
            say(f"going on after step {done}")
        for step in range(done + 1, settings.steps + 1):
            scored = scored if step == 1 else planner.scored(model)
            good = (model if reference is None else copy.deepcopy(model)), whole
            plan = planned(scored, Fraction(step, settings.steps))
            model = self._cut(model, plan, scored, step)
            whole = plan if whole is None else whole.then(plan)
            self._write_plan(whole)
            trajectory.append(self._point(step, model))
            if step < settings.steps or reference is not None:
                self._between = step
                model = self.fine_tune(model)
                self._between = 0
                self.folder.rename(TRAININGS["fine_tuned"], f"{TRAININGS['fine_tuned']}-{step}")
                trajectory.append(self._point(step, model))
            if reference is not None:
                change = self.evaluate(model)[PRIMARY].map50_95 - reference
                self.note(f"step {step} of {settings.steps}: mask mAP50-95 {change:+.4f} against the unpruned model")
                if -change > (settings.max_map_drop or 0):
                    model, whole = good
                    self._write_plan(whole)
                    self.note(f"stopped by max_map_drop={settings.max_map_drop:g}: step {step - 1} is kept")
                    break
            if step < settings.steps:
                remarks = self._remarks.notes, self._remarks.details
                model = keep_step(self.folder, Step(step, model, whole, trajectory, *remarks))
        self.detail(trajectory=trajectory)
        return model

    def export(self, model: Any) -> Exported:
        """Export to ONNX by Ultralytics and compare the file with PyTorch on validation images.

        Raises:
            ExportError: The file does not do what the model does; the message has the figures.
        """
        settings = dict(self.config.export)
        count, imgsz = settings.pop("images"), settings.pop("imgsz", None) or imgsz_of(model, self.config)
        path = export_onnx(model, self.folder.weights / "best.onnx", imgsz=imgsz, **settings)
        half = settings.get("quantize") in (16, "16", "fp16")
        limits = {"tolerance": 0.05, "min_mask_iou": 0.9} if half else {}
        images = list(itertools.islice(filter(is_readable, self.dataset.images("val")), count))
        parity = verify_onnx(path, model, images, **limits)
        if not parity.ok:
            path.unlink()
            raise ExportError(f"{path}: expected the outputs of the model, got {parity}; the file was removed")
        return Exported(path, parity)

    def _cut(self, model: Any, plan: PruningPlan, scored: Scored, step: int) -> Any:
        """`model`, cut in place as planned, and recovered."""
        settings = self.config.prune
        scores = {name: s.tolist() for name, s in scored.measured.scores.items()}
        stability = agreement(plan, scored.measured.halves)
        self.callbacks.fire("on_prune_start", PruneEvent(step, settings.steps, model, plan, None))
        original = copy.deepcopy(model.model)
        report = replace(apply_plan(model, plan), scores=scores, stability=stability)
        if settings.recover != "none":
            report = replace(report, recovery=self._recover(model, original, plan, scored.images))
        self.detail(scores=scores, stability=stability)
        if stability is not None:
            self.note(stability_text(stability))
        self.callbacks.fire("on_prune_end", PruneEvent(step, settings.steps, model, plan, report))
        return model

    def _write_plan(self, plan: PruningPlan | None) -> None:
        """Write what has been cut so far, which the fine-tuning goes by; nothing cut leaves no file."""
        if plan is None:
            (self.folder.path / _PLAN).unlink(missing_ok=True)
        else:
            self.folder.write_json(_PLAN, plan.to_dict())

    def _point(self, step: int, model: Any) -> dict[str, Any]:
        """Where a model stands between the unpruned one and the last cut; it is measured where there are several."""
        measured = self.config.prune.steps > 1 and same_classes(model.names, self.dataset.names)
        return {
            "step": step,
            "parameters": sum(p.numel() for p in model.model.parameters()),
            f"map50_95_{PRIMARY}": self.evaluate(model)[PRIMARY].map50_95 if measured else None,
        }

    def _recover(self, model: Any, original: Any, plan: PruningPlan, images: torch.Tensor) -> Recovery:
        """Recover `model` in place, and put into the report what it was worth before and what was done."""
        if same_classes(model.names, self.dataset.names):
            found = self.evaluate(model)
            parameters = sum(p.numel() for p in model.model.parameters())
            maps = {f"map50_95_{kind}": value for kind, value in found.map50_95.items()}
            self.detail(as_cut={"parameters": parameters, **maps})
            shown = ", ".join(f"{kind} {value:.4f}" for kind, value in found.map50_95.items())
            self.note(f"as cut, before the recovery: mAP50-95 {shown}")
        method, seconds = self.config.prune.recover, self.config.prune.distill_seconds
        recovery = recover(model, original, plan, images, method=method, seconds=seconds, seed=self.config.seed)
        self.detail(recovery=recovery.to_dict())
        self.note(f"recovered by {recovery}")
        return recovery

    def _epochs(self) -> int:
        """The epochs of the fine-tuning at hand: the last one has twice the share of those between the steps."""
        total, steps = int(self.config.fine_tune["epochs"]), self.config.prune.steps
        between = total // (steps + 1) or int(total >= steps > 1)
        return between if self._between else total - between * (steps - 1)

    def _trained(self, model: Any, stage: str, settings: dict[str, Any]) -> Any:
        """The better of a model and the best epoch of its training, by mask mAP50-95.

        Args:
            model: A `YOLO`.
            stage: "trained" or "fine_tuned".
            settings: The user's train arguments.
        """
        if settings["epochs"] == 0:
            return model
        callbacks, given = self.callbacks, settings
        scratch = self.folder.scratch / (f"{TRAININGS[stage]}-{self._between}" if self._between else TRAININGS[stage])
        works = self._has_learnt(stage) and same_classes(model.names, self.dataset.names)
        if works:
            recipe = self._recipe(model, stage, settings, scratch)
            settings = {**recipe.arguments, **settings}
            callbacks = callbacks.with_others(recipe.callbacks)
            self.note(f"trained with {', '.join(f'{key}={value}' for key, value in settings.items())}")
        kept = {key: value for key, value in settings.items() if key != "distill_model" or key in given}
        self.resolve(BLOCKS[stage], kept)  # without the teacher, which another run has in its own folder
        common = {key: getattr(self.config, key) for key in ("batch", "device", "workers", "seed")}
        arguments = {**common, "imgsz": imgsz_of(model, self.config), **settings}
        arguments["data"] = self.dataset.file(self.folder.path)
        trained = train_model(model, self.folder.path / TRAININGS[stage], arguments, callbacks, scratch=scratch)
        if 0 < trained.batch < arguments["batch"]:
            self.note(f"the memory was too small for batch={arguments['batch']}: trained with batch={trained.batch}")
        return self._better(model, trained) if works else trained.model

    def _has_learnt(self, stage: str) -> bool:
        """Whether what a stage is given was trained before: it comes from a checkpoint, or from the first training."""
        from_yaml = Path(self.config.pretrained).suffix in {".yaml", ".yml"}
        return not from_yaml or (stage == "fine_tuned" and self.config.train["epochs"] > 0)

    def _recipe(self, model: Any, stage: str, settings: Mapping[str, Any], scratch: Path) -> Recipe:
        """How to train on a model that works: one that was cut is taught by the one before, any other by itself."""
        batch = int(settings.get("batch", self.config.batch))
        known, images = trained_on(model, self.dataset), len(self.dataset.images("train"))
        start = Start(images, batch, int(settings["epochs"]), trained_with=known, classes=len(self.dataset.names))
        if known is not None:
            self.note("the checkpoint was trained on this data set, and goes on as it was trained")
        own = "distill_model" in settings
        if stage == "trained":
            if own or known is not None:
                return make_recipe(model.model, start)
            scratch.mkdir(parents=True, exist_ok=True)
            write_atomically(scratch / "teacher.pt", model.save)
            return make_recipe(model.model, start, scratch / "teacher.pt")
        teacher, cut = self.folder.weights / FILES["trained"], self.folder.path / _PLAN
        if not (teacher.is_file() and cut.is_file()):
            return make_recipe(model.model, start)
        reference = self.evaluate(load_model(teacher))[PRIMARY].map50_95
        start = replace(start, kept=self.evaluate(model)[PRIMARY].map50_95 / reference if reference > 0 else 1.0)
        return make_recipe(model.model, start, None if own else teacher, PruningPlan.load(cut))

    def _better(self, model: Any, trained: Trained) -> Any:
        """The better of what went into a training and what came out."""
        before, after = (self.evaluate(yolo)[PRIMARY].map50_95 for yolo in (model, trained.model))
        if not self._between:
            self.detail(selection={"input": before, "best": after, "best_epoch": trained.epoch, "last": trained.last})
        found = f"epoch {trained.epoch} of {trained.epochs} has the best mask mAP50-95, {after:.4f}"
        if after > before:
            self.note(f"{found}; it was {before:.4f} before")
            return trained.model
        self.note(f"{found}, which is no better than the {before:.4f} before: the model is kept as it was")
        return model
