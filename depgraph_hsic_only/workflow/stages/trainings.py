"""The trainings of a run: with which arguments, and which model comes out of them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from depgraph_hsic_only.channels.cut import kept_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.report.stages import FINE_TUNED, TRAINED, Stage
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.training.callbacks import Callbacks
from depgraph_hsic_only.training.provenance import trained_on
from depgraph_hsic_only.training.quantized import train_quantized
from depgraph_hsic_only.training.settle import settle, start_of
from depgraph_hsic_only.training.train import Recipe, Teacher, Trained, make_recipe, train_model
from depgraph_hsic_only.workflow.base import YoloPruner
from depgraph_hsic_only.workflow.fit import works_on
from depgraph_hsic_only.workflow.stages.prune_steps import PLAN, FineTuning, Step
from depgraph_hsic_only.yolo.input_shape import input_side
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo

_ASKED = 100  # training images, on which a model is asked what it knows by heart
_QUANTIZED = "qat"  # folder of a quantisation-aware training
_COMMON = ("batch", "device", "workers", "seed")  # settings of all trainings
_TOLD = ("optimizer", "lr0", "batch", "epochs", "time")  # of the arguments of a training, where it is recorded
_BUILT = (".yaml", ".yml")  # of a model that has learnt nothing yet


class TrainingPruner(YoloPruner):
    """The workflow with its trainings.

    Attributes:
        tuning: What the fine-tuning at hand is given beside the model: its epochs, its teacher, what was cut. `prune`
            sets it before each fine-tuning; None where nothing was pruned by it.
    """

    tuning: FineTuning | None = None

    def train(self, model: Yolo) -> Yolo:
        """Train by Ultralytics for `train.epochs`; 0 leaves the model as it is.

        A checkpoint of the data set's own classes is trained on gently, with itself as teacher (see `recipe.py`), and
        comes back as it was if no epoch was better.
        """
        tuning = FineTuning(int(self.config.train["epochs"]), None, TRAINED.folder)
        return self._trained(model, TRAINED, dict(self.config.train), tuning)

    def fine_tune(self, model: Yolo) -> Yolo:
        """Train the cut model by Ultralytics for its part of `fine_tune.epochs`; 0 leaves it as it is.

        The gentler, the more of its mAP the cut has left, and taught by the model before the cut (see
        `recipe.py`); it comes back as it was if no epoch was better.
        """
        self.open_folder()
        tuning = self.tuning or self._resumed_tuning(model)
        settings = {**self.config.fine_tune, "epochs": tuning.epochs}
        if tuning.last and tuning.finalist:
            self.folder.rename(tuning.name, FINE_TUNED.folder)
            self.note("trained as one of the finalists: the time is in that of the pruning")
        return self._trained(model, FINE_TUNED, settings, tuning)

    def _trained(self, model: Yolo, stage: Stage, given: dict[str, Any], tuning: FineTuning) -> Yolo:
        """The better of a model and the best epoch of its training by the user's arguments, by primary mAP50-95."""
        if given["epochs"] == 0:
            say("0 epochs: nothing is trained")
            return model
        scratch, cut = self.open_folder().scratch / tuning.name, stage is FINE_TUNED
        learnt = (cut and self.config.train["epochs"] > 0) or Path(self.config.pretrained).suffix not in _BUILT
        works = learnt and works_on(model, self.dataset, self.config)
        settings, arguments, callbacks = self._settled(model, given, scratch, tuning.teacher, works=works, cut=cut)
        # without the teacher, which another run has in its own folder
        used = {**given, **settings}
        several = stage is FINE_TUNED and (tuning.finalist or self._before_the_last)
        if not several:  # a run that repeats this one settles each of them by itself
            self.resolve(stage.block, {k: v for k, v in used.items() if k != "distill_model" or k in given})
        place = self.folder.path / (stage.folder if tuning.last else tuning.name)
        own = works and "distill_model" not in given and trained_on(model, self.dataset) is not None
        kept: Any = {"dataset": self.dataset, "scratch": scratch, "teacher_on_data": own}
        trained = train_model(model, place, arguments, callbacks, **kept)
        if 0 < trained.batch < arguments["batch"]:
            self.note(f"the memory was too small for batch={arguments['batch']}: trained with batch={trained.batch}")
        return self._better(model, trained, last=tuning.last) if works else trained.model

    def train_on(self, model: Yolo, imgsz: int) -> Yolo:
        """A model trained on, on images of a side in pixels, by the settings of the fine-tuning."""
        tuning = {key: value for key, value in self.given.fine_tune.items() if key != "quantize"}
        place = {"project": str(self.folder.rivals), "name": f"{imgsz}", "exist_ok": True}
        own: Any = {**self.given.to_dict(), **place, "imgsz": imgsz, "train": tuning}
        return type(self)(cfg=own).train(copy.deepcopy(model))

    def _tuning(self, step: Step, after: int | None = None) -> FineTuning:
        """What a fine-tuning after a step is given: the last one, where it is not `after` one that others follow."""
        total, before = int(self.config.fine_tune["epochs"]), self._before_the_last
        share = total // (before + 2) or int(total > before > 0)  # the last one has twice the share of those before it
        epochs = share if after is not None else total - share * before
        file, teacher = self.checkpoints.path(TRAINED), None
        if step.plan is not None and epochs and file.is_file():
            teacher = Teacher(file, self.checkpoints.load(TRAINED), step.kept)
        if after is not None:
            return FineTuning(epochs, teacher, f"{FINE_TUNED.folder}-{after}", last=False)
        own = self._finalist_folder(step.model)
        trained = (self.folder.scratch / own).is_dir()
        return FineTuning(epochs, teacher, own if trained else FINE_TUNED.folder, finalist=trained)

    @property
    def _before_the_last(self) -> int:
        """Number of fine-tunings before that of the result: between steps, and to judge the last one by."""
        settings = self.config.prune
        return settings.steps - (settings.max_map_drop is None)

    def _finalist_folder(self, model: Yolo) -> str:
        """Name of the folders of a fine-tuning (see `FineTuning.name`) of one of several candidates."""
        return f"{FINE_TUNED.folder}-{self.imgsz_of(model)}px-{self.config.latency['precision']}"

    def _resumed_tuning(self, model: Yolo) -> FineTuning:
        """What the last fine-tuning is given in a run that goes on after the cut, from what that has written."""
        if not (self.checkpoints.path(TRAINED).is_file() and (file := self.folder.path / PLAN).is_file()):
            return self._tuning(Step(0, model))
        plan, unpruned = PruningPlan.load(file), self.checkpoints.load(TRAINED)
        return self._tuning(Step(self.config.prune.steps, model, plan, kept_channels(unpruned.model, plan)))

    def _quantized(self, model: Yolo) -> Yolo:
        """The best epoch of a training of the result, by the user's arguments of the fine-tuning, that rounds to int8.

        It can be exported, and is no stock model.
        """
        place, scratch = self.folder.path / _QUANTIZED, self.folder.scratch / _QUANTIZED
        _, arguments, callbacks = self._settled(model, self.config.fine_tune, scratch, None, works=True, cut=False)
        return train_quantized(model, place, arguments, callbacks, dataset=self.dataset, scratch=scratch)

    def _settled(
        self, model: Yolo, given: Mapping[str, Any], scratch: Path, teacher: Teacher | None, *, works: bool, cut: bool
    ) -> tuple[dict[str, Any], dict[str, Any], Callbacks]:
        """A user's settings as a training in floating point uses them, all its arguments, and its callbacks.

        Where the model works, the recipe's settings are under the user's.
        """
        callbacks, common = self.callbacks, {key: getattr(self.config, key) for key in _COMMON}
        common["imgsz"] = self.imgsz_of(model)
        own = {key: value for key, value in given.items() if key != "quantize"}
        settings, notes = settle(own, common, model, self.dataset)
        for note in notes:
            self.note(note)
        if works:
            recipe = self._recipe(model, settings, scratch, teacher, cut=cut)
            settings = {**recipe.arguments, **settings}
            callbacks = callbacks.with_others(recipe.callbacks)
            told = ", ".join(f"{key}={settings[key]}" for key in _TOLD if key in settings)
            taught = ", taught by the model as it was" if "distill_model" in recipe.arguments else ""
            self.note(f"trained with {told}{taught}; every argument is in the args.yaml of its folder")
        return settings, {**common, **settings, "data": self.dataset.write_keys(self.folder.path)}, callbacks

    def _recipe(
        self, model: Yolo, settings: Mapping[str, Any], scratch: Path, teacher: Teacher | None, *, cut: bool
    ) -> Recipe:
        """How to train on a model that works: one that was cut is taught by the one before, any other by itself."""
        known = trained_on(model, self.dataset)
        start = start_of(settings, self.config.batch, self.dataset, known, classes=len(model.names))
        own, reference = "distill_model" in settings, model
        if teacher is not None and teacher.model is not None:
            reference = teacher.model
            once = self.evaluate(reference).primary.map50_95
            start = replace(start, kept=self.evaluate(model).primary.map50_95 / once if once > 0 else 1.0)
        if known is not None:
            fitted, memorised = self._on_training_images(reference)
            start = replace(start, fitted=fitted, memorised=memorised)
            how = "goes on as it was trained" if start.own else "is trained gently: it knows more than these labels say"
            self.note(f"the checkpoint was trained on this data set, and {how}")
        if teacher is None and not (cut or own) and start.needs_teacher:
            teacher = Teacher.itself(model, scratch)
        return make_recipe(model.model, start, None if own else teacher)

    def _on_training_images(self, model: Yolo) -> tuple[float, float]:
        """A model's primary mAP50-95 on some training images, and as a multiple of that on the validation images.

        At its own image size, whatever that of the result is: what it knows by heart is of that size.
        """
        images, validation = self.dataset.images("train", _ASKED), self.validation_of(model)
        given = replace(validation, imgsz=input_side(model)), self.config, self.dataset, self.open_folder()
        there = self._evaluations.of(model, *given, 0, images).primary.map50_95
        elsewhere = self._evaluations.of(model, *given, None, ()).primary.map50_95
        found = there / elsewhere if elsewhere > 0 else 1.0
        self.note(f"mAP50-95 on training images is {there:.3f}, {found:.2f} times that on validation images")
        return there, found

    def _better(self, model: Yolo, trained: Trained, *, last: bool) -> Yolo:
        """The better of what went into a training and what came out."""
        before, after = self.evaluate(model).primary.map50_95, self.evaluate(trained.model).primary.map50_95
        if last:
            self.detail(selection={"input": before, "best": after, "best_epoch": trained.epoch, "last": trained.last})
        kind = task_of(model.model).primary
        found = f"epoch {trained.epoch} of {trained.epochs} has the best {kind} mAP50-95, {after:.4f}"
        if after > before:
            self.note(f"{found}; it was {before:.4f} before")
            return trained.model
        self.note(f"{found}, which is no better than the {before:.4f} before: the model is kept as it was")
        return model
