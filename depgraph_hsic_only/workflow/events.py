"""What callbacks of a cut are told."""

from dataclasses import dataclass
from typing import Any

from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.report.pruning_report import PruningReport


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
    model: Any
    plan: PruningPlan
    report: PruningReport | None
