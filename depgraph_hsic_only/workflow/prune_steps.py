"""A cut in several steps, with fine-tuning in between: what each is given, and what is kept on the disk after each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from depgraph_hsic_only.channels.cut import Kept
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.report.stage import FINE_TUNED
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.training.train import Teacher
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.yolo.load import load_model

_NAME = "steps"


@dataclass(frozen=True, eq=False)
class FineTuning:
    """What a fine-tuning is given beside the model.

    Attributes:
        epochs: To train for.
        teacher: The model before the cut; None where there is none.
        after: Number of the step that it follows, where the cut goes on; None for the last one.
    """

    epochs: int
    teacher: Teacher | None
    after: int | None = None

    @property
    def name(self) -> str:
        """Name of the folder of its training in the run folder, once the cut goes on."""
        return FINE_TUNED.folder if self.after is None else f"{FINE_TUNED.folder}-{self.after}"


def epochs_of(total: int, steps: int, *, between: bool) -> int:
    """The epochs of a fine-tuning, of all together: the last one has twice the share of those between the steps."""
    share = total // (steps + 1) or int(total >= steps > 1)
    return share if between else total - share * (steps - 1)


@dataclass(frozen=True, eq=False)
class Step:
    """Where the cut is.

    Attributes:
        number: The steps that are done.
        model: The `YOLO` after the last of them.
        plan: All that was cut by then; None for nothing.
        kept: What is left of the unpruned model.
        details: What was measured of the last of them, for the report.
    """

    number: int
    model: Any
    plan: PruningPlan | None = None
    kept: Kept = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def then(self, model: Any, plan: PruningPlan, kept: Kept, details: Mapping[str, Any]) -> "Step":
        """The next step.

        Args:
            model: The `YOLO` after it.
            plan: What it has cut.
            kept: What its convolutions have kept of those before it.
            details: What was measured.
        """
        whole = plan if self.plan is None else self.plan.then(plan)
        before = self.kept
        both = {p: tuple(before[p][k] for k in channels) if p in before else channels for p, channels in kept.items()}
        return Step(self.number + 1, model, whole, both, details)


def keep_step(folder: RunFolder, step: Step, trajectory: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Step:
    """Write a step, in place of what was kept before, and return it with its model as the file has it.

    Args:
        folder: The run folder.
        step: The step.
        trajectory: The way there, as the report has it.
        notes: What the stage has said by then.
    """
    place = folder.scratch / _NAME
    place.mkdir(parents=True, exist_ok=True)
    weights = place / f"{step.number}.pt"
    write_atomically(weights, step.model.save)
    plan = None if step.plan is None else step.plan.to_dict()
    content: dict[str, Any] = {"number": step.number, "plan": plan, "kept": step.kept, "details": step.details}
    content |= {"trajectory": list(trajectory), "notes": list(notes)}
    folder.write_json(str(_file(folder).relative_to(folder.path)), content)
    folder.clear_scratch(but=[_NAME])
    return replace(step, model=load_model(weights))


def read_step(folder: RunFolder) -> tuple[Step, list[dict[str, Any]], list[str]] | None:
    """The last step that was kept, the way there, and what was said; None where the cut had not come to one's end."""
    if not _file(folder).is_file():
        return None
    content = json.loads(_file(folder).read_text(encoding="utf-8"))
    model = load_model(folder.scratch / _NAME / f"{content['number']}.pt")
    plan = None if content["plan"] is None else PruningPlan.from_dict(content["plan"])
    kept = {path: tuple(channels) for path, channels in content["kept"].items()}
    return Step(content["number"], model, plan, kept, content["details"]), content["trajectory"], content["notes"]


def _file(folder: RunFolder) -> Path:
    return folder.scratch / _NAME / f"{_NAME}.json"
