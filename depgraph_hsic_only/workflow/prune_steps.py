"""Where a cut in several steps is: kept on the disk after every step, for a run that is cut off to go on from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.yolo.load import load_model

_NAME = "steps"


@dataclass(frozen=True, eq=False)
class Step:
    """Where the cut is.

    Attributes:
        number: The steps that are done.
        model: The `YOLO` after the last of them.
        plan: All that was cut by then; None for nothing.
        trajectory: The way there, as the report has it.
        notes: What the stage has said by then.
        details: The stage's figures by then.
    """

    number: int
    model: Any
    plan: PruningPlan | None
    trajectory: list[dict[str, Any]]
    notes: list[str]
    details: Mapping[str, Any]


def keep_step(folder: RunFolder, step: Step) -> Any:
    """Write a step, in place of what was kept before, and return its model as the file has it."""
    place = folder.scratch / _NAME
    place.mkdir(parents=True, exist_ok=True)
    weights = place / f"{step.number}.pt"
    write_atomically(weights, step.model.save)
    plan = None if step.plan is None else step.plan.to_dict()
    kept: dict[str, Any] = {"number": step.number, "plan": plan, "trajectory": step.trajectory}
    kept |= {"notes": step.notes, "details": step.details}
    folder.write_json(str(_file(folder).relative_to(folder.path)), kept)
    folder.clear_scratch(but=[_NAME])
    return load_model(weights)


def read_step(folder: RunFolder) -> Step | None:
    """The last step that was kept; None where the cut had not come to the end of one."""
    if not _file(folder).is_file():
        return None
    kept = json.loads(_file(folder).read_text(encoding="utf-8"))
    model = load_model(folder.scratch / _NAME / f"{kept['number']}.pt")
    plan = None if kept["plan"] is None else PruningPlan.from_dict(kept["plan"])
    return Step(kept["number"], model, plan, kept["trajectory"], kept["notes"], kept["details"])


def _file(folder: RunFolder) -> Path:
    return folder.scratch / _NAME / f"{_NAME}.json"
