"""The cuts of a run: planned on its images, made in place, recovered, and told of."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.data.dataset import labelled_batches
from depgraph_hsic_only.pruning.api import report_cut
from depgraph_hsic_only.pruning.planner import Planner, Scored
from depgraph_hsic_only.recovery.recover import recover
from depgraph_hsic_only.report.pruning_report import stability_text
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.workflow.fit import works_on
from depgraph_hsic_only.workflow.stages.prune_steps import PLAN, PruneEvent, Step, kept_plan, kept_sensitivity
from depgraph_hsic_only.workflow.stages.trainings import TrainingPruner
from depgraph_hsic_only.yolo.device import float64_device
from depgraph_hsic_only.yolo.load import install
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo


class CuttingPruner(TrainingPruner):
    """The workflow with its trainings and its cuts."""

    def _planner(self, model: Yolo) -> Planner:
        return self.config.planner(model)

    def _batches(self, model: Yolo) -> list[dict[str, Any]]:
        count, of = self.config.calibration["images"], self.validation_of(model)
        sizes: dict[str, Any] = {"imgsz": of.imgsz, "batch": min(of.batch, count), "single_cls": of.single_cls}
        return list(labelled_batches(self.dataset, images=count, **sizes))

    def _sensitivity(self, planner: Planner, scored: Scored, batches: Sequence[Mapping[str, Any]]) -> Sensitivity:
        """How much each width hurts: from the run folder where it was measured before on the same, else measured."""
        found, known = kept_sensitivity(self.folder, planner, scored, stacked(batches))
        if any(found.damage.values()):
            measured = f"measured on {found.images} image{'s' * (found.images != 1)} in {found.seconds:.0f} s"
            self.note(f"sensitivity of the widths: {'taken from the run folder, where it was ' * known}{measured}")
        return found

    def _cut_once(self, model: Yolo, planner: Planner, unpruned: Scored, sensitivity: Sensitivity) -> Step:
        """A model cut to the planner's target in one step, in place, and recovered on its own images."""
        scored, batches = planner.again(unpruned), self._batches(model)
        name = f"{planner.imgsz}-{planner.deployment(scored.network).precision}"
        plan = kept_plan(self.folder, name, scored.network, lambda: planner.plan(scored, sensitivity))
        return self._cut(Step(0, model), plan, scored, batches)

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
            recovery = recover(model.model, original, found.kept, stacked(batches), **given)
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


def stacked(batches: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """The images of batches, (n, c, h, w), float in [0, 1]."""
    return torch.cat([batch["img"] for batch in batches])


def _parameters(model: Yolo) -> int:
    return sum(p.numel() for p in model.model.parameters())
