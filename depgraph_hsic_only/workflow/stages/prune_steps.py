"""A cut, in several steps with fine-tuning in between: what each is given, tells callbacks, and leaves on the disk."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.cut import Kept, kept_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.criteria.registry import Measured
from depgraph_hsic_only.pruning.planner import Planner, Scored
from depgraph_hsic_only.report.pruning_report import PruningReport
from depgraph_hsic_only.report.stages import FINE_TUNED
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.fingerprint import fingerprint
from depgraph_hsic_only.training.train import Teacher
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.types import Network, Yolo

PLAN = "plan.json"
_NAME = "steps"
_SCORES, _SENSITIVITY = "scores.pt", "sensitivity.json"


@dataclass(frozen=True, eq=False)
class PruneEvent:
    """What a callback of a cut is given.

    Attributes:
        step: Number of the cut, from 1.
        steps: How many cuts there will be.
        model: The `YOLO`: before the cut for on_prune_start, after it for on_prune_end.
        plan: What is cut in this step.
        report: What the cut did; None for on_prune_start.
    """

    step: int
    steps: int
    model: Yolo
    plan: PruningPlan
    report: PruningReport | None


@dataclass(frozen=True, eq=False)
class FineTuning:
    """What a fine-tuning is given beside the model.

    Attributes:
        epochs: To train for.
        teacher: The model before the cut; None where there is none.
        name: Of the folder of what it goes on from when it is cut off, and of its training folder until it is the last.
        last: Whether it is the one after the cut, and in no other stage.
        finalist: Whether it is that of one of several candidates.
    """

    epochs: int
    teacher: Teacher | None
    name: str = FINE_TUNED.folder
    last: bool = True
    finalist: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """Where the cut is, after so many steps."""

    number: int
    model: Yolo  # the `YOLO`
    plan: PruningPlan | None = None  # all that was cut by then; None for nothing
    kept: Kept = field(default_factory=dict)  # what is left of the unpruned model
    details: Mapping[str, Any] = field(default_factory=dict)  # what was measured of the last step, for the report

    def then(self, model: Yolo, plan: PruningPlan, kept: Kept, details: Mapping[str, Any]) -> "Step":
        """The next step, of which the plan and what its convolutions have kept are against this one."""
        whole, own = plan if self.plan is None else self.plan.then(plan), self.kept
        both = {p: tuple(own[p][k] for k in channels) if p in own else channels for p, channels in kept.items()}
        return Step(self.number + 1, model, whole, both, details)


def keep_step(folder: RunFolder, step: Step, trajectory: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Step:
    """Write a step, the way there and what was said, and return the step with its model as the file has it."""
    weights = _file(folder).with_name(f"{step.number}.pt")
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(weights, step.model.save)
    plan = step.plan and step.plan.to_dict()
    content: dict[str, Any] = {"number": step.number, "plan": plan, "details": step.details}
    content |= {"trajectory": list(trajectory), "notes": list(notes)}
    _write(folder, _file(folder), content)
    folder.clear_scratch(but=[_NAME])
    return replace(step, model=load_model(weights))


def read_step(folder: RunFolder, unpruned: Yolo) -> tuple[Step, list[dict[str, Any]], list[str]] | None:
    """The last step that was kept, the way there, and what was said; None where the cut had not come to one's end.

    The step has what is left of `unpruned`, the model that it began with.
    """
    file = _file(folder)
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    model = load_model(file.with_name(f"{content['number']}.pt"))
    plan = content["plan"] and PruningPlan.from_dict(content["plan"])
    kept = {} if plan is None else kept_channels(unpruned.model, plan)
    return Step(content["number"], model, plan, kept, content["details"]), content["trajectory"], content["notes"]


def _file(folder: RunFolder) -> Path:
    return folder.scratch / _NAME / f"{_NAME}.json"


def kept_plan(folder: RunFolder, name: str, network: Network, make: Callable[[], PruningPlan]) -> PruningPlan:
    """The plan of a cut: that of a run that was cut off after it, in a training of just these widths; else made.

    Two plans for a latency, which is measured, are hardly ever the same.
    """
    file, key = _file(folder).with_name(f"plan-{name}.json"), fingerprint(network)
    if (kept := _read_of(key, file)) is not None:
        return PruningPlan.from_dict(kept["plan"])
    plan = make()
    _write(folder, file, {"key": key, "plan": plan.to_dict()})
    return plan


def kept_scores(
    folder: RunFolder, planner: Planner, network: Network, batches: Sequence[Mapping[str, Any]]
) -> tuple[Scored, bool]:
    """A network with its channels ranked, and whether that was in the run folder, where it was done before on the same.

    Only what reads images is kept.
    """
    path = folder.path / _SCORES
    if planner.amount.is_nothing or not planner.scorer.needs_batches:
        return planner.ranked(network, batches), False
    settings = repr((planner.criterion, planner.options, planner.layers, planner.seed))
    unranked = planner.with_scores(network, {})
    groups = [group.name for group in unranked.graph.ranked.groups]
    key = fingerprint(network, [batch["img"] for batch in batches], settings, repr(groups))
    if path.is_file() and (kept := torch.load(path, weights_only=True))["key"] == key:
        return replace(unranked, measured=Measured(kept["scores"], kept["halves"])), True
    scored = planner.ranked(network, batches)
    kept = {"key": key, "scores": scored.measured.scores, "halves": scored.measured.halves}
    write_atomically(path, lambda file: torch.save(kept, file))
    return scored, False


def kept_sensitivity(
    folder: RunFolder, planner: Planner, scored: Scored, images: torch.Tensor
) -> tuple[Sensitivity, bool]:
    """How much each width hurts, and whether that was in the run folder, where it was measured before on the same."""
    settings = repr((planner.limits, planner.depth, scored.graph.full))
    key = fingerprint(scored.network, list(scored.measured.scores.values()), [images], settings)
    path = folder.path / _SENSITIVITY
    if (found := _read_of(key, path)) is not None:
        return Sensitivity.from_dict(found), True
    measured = planner.sensitivity(scored, images)
    _write(folder, path, {"key": key, **measured.to_dict()})
    return measured, False


def _read_of(key: str, path: Path) -> dict[str, Any] | None:
    """What was written to a JSON file with a key; None where there is no such file, or it is of another key."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if found.get("key") == key else None


def _write(folder: RunFolder, path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file somewhere in a run folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.write_json(str(path.relative_to(folder.path)), content)
