"""The search of a run for an image size and a precision, and the fine-tuning of the best few that it has found."""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from depgraph_hsic_only.axes.candidates import IMGSZ, PRECISION, Candidate
from depgraph_hsic_only.axes.choice import Choice, choose, chosen_in, keep_decision
from depgraph_hsic_only.axes.trials import Judge, Subject
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT
from depgraph_hsic_only.evaluation.validation import validate_file
from depgraph_hsic_only.pruning.planner import Planner, Scored
from depgraph_hsic_only.report.stages import PRUNED, TRAINED, Stage
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.workflow.stages.cuts import CuttingPruner
from depgraph_hsic_only.workflow.stages.prune_steps import Step
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.load import set_imgsz
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo

_SEARCH = "search.json"


class SearchingPruner(CuttingPruner):
    """The workflow with its trainings, its cuts, and its search over axes."""

    @property
    def searches(self) -> bool:
        """Whether a target is met by more than widths and repeats."""
        settings = self.config.prune
        return settings.amount.is_target and not {IMGSZ, PRECISION}.isdisjoint(settings.spent_on)

    def take_up(self, stage: Stage) -> None:
        """The image size and precision that a search has chosen."""
        if stage is PRUNED and self.searches and (chosen := chosen_in(self.folder.path / _SEARCH)) is not None:
            self.config = self.given.deployed_as(self.checkpoints.load(TRAINED), *chosen)

    def _search(self, planner: Planner, model: Yolo, scored: Scored, sensitivity: Sensitivity) -> Choice:
        """What the candidates are worth without training, and the best of them."""
        settings, config = self.config.prune, self.config
        judge = Judge(self.dataset, self.validation_of(model), config.device, config.workers)
        unpruned = copy.deepcopy(model)
        unpruned.model.to(select_device(config.device))
        subject = Subject(planner, unpruned, scored.measured.scores, sensitivity, settings.recover)
        where = self.folder.path / _SEARCH, self.folder.scratch / "search"
        choice = choose(subject, judge, settings.spent_on, *where, config.finalists)
        self.note(str(choice))
        return choice

    def _go_for(self, model: Yolo, candidate: Candidate) -> None:
        """Let all that comes be of a candidate's image size and precision; the model is of that size too."""
        self.config = self.given.deployed_as(model, *candidate.key)
        set_imgsz(model, candidate.imgsz)

    def _decide(
        self, choice: Choice, planner: Planner, model: Yolo, scored: Scored, sensitivity: Sensitivity
    ) -> tuple[Choice, Step]:
        """The best of the finalists once each was cut, recovered on all images, and fine-tuned; and its cut.

        The fine-tuning of the best one is that of the run.
        """
        steps: dict[tuple[int, str], tuple[Step, list[str]]] = {}
        in_files = any(one.precision != FLOAT for one in choice.finalists)
        worth, kind, said = {}, task_of(model.model).primary, len(self._notes)
        for number, one in enumerate(choice.finalists, 1):
            say(f"finalist {number} of {len(choice.finalists)}: {one}")
            own = copy.deepcopy(model)
            self._go_for(own, one)
            step = self._cut_once(own, planner.on(scored.network, *one.key), scored, sensitivity)
            steps[one.key] = step, self._notes[said:]
            self.tuning = replace(self._tuning(step), name=self._finalist_folder(own), last=False, finalist=True)
            tuned = self.fine_tune(copy.deepcopy(step.model))
            worth[one.key] = self._worth(tuned, in_files=in_files)
            del self._notes[said:]  # what it has to say of the training the next stage says
        choice = choice.decided(worth)
        keep_decision(self.folder.path / _SEARCH, choice)
        step, notes = steps[choice.chosen]
        self._go_for(model, choice.best)
        self._write_plan(step.plan)
        found = ", ".join(f"{one.imgsz} px, {one.precision} {worth[one.key]:.4f}" for one in choice.finalists)
        self.note(
            f"each fine-tuned, on the validation images, by which the best one is chosen: {kind} mAP50-95 {found}"
        )
        self._notes += notes
        return choice, step

    def _worth(self, model: Yolo, *, in_files: bool) -> float:
        """A fine-tuned finalist's primary mAP50-95 on the validation images, of its file where precisions differ."""
        if not in_files:
            return self.evaluate(model).primary.map50_95
        deployment, data = self.config.deployment(model), self.dataset.write_keys(self.folder.path)
        images = self.dataset.images("train", self.config.calibration["images"])
        of: Any = {"task": self.dataset.task, "single_cls": self.validation_of(model).single_cls}
        with tempfile.TemporaryDirectory() as folder:
            file = deployment.write(model.model, Path(folder), images)
            return validate_file(file, data, deployment.shape, **of).primary.map50_95
