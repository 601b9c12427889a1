"""What a cut did, as a value that shows itself."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from depgraph_hsic_only.costs import Cost, PartCost
from depgraph_hsic_only.plan import PruningPlan
from depgraph_hsic_only.recovery import Recovery

_STABLE = 0.8  # agreement above which more images change little


@dataclass(frozen=True, repr=False)
class PruningReport:
    """What was cut from a model, counted on the model itself.

    Attributes:
        plan: What was cut, with the widths before and after.
        before: Cost of the model before the cut.
        after: Cost of the model after the cut.
        scores: Importance of each channel by channel group; empty where a plan was applied that had been made before.
        stability: How well the scores of two halves of the calibration images agree, in [0, 1] (see
            `criteria.agreement`); None where it was not measured.
        recovery: What brought the cut model back; None where nothing did.
    """

    plan: PruningPlan
    before: Cost
    after: Cost
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    stability: float | None = None
    recovery: Recovery | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        return {
            "criterion": self.plan.criterion,
            "layers": list(self.plan.layers),
            "imgsz": self.before.imgsz,
            "parameters": {"before": self.before.parameters, "after": self.after.parameters},
            "gmacs": {"before": self.before.gmacs, "after": self.after.gmacs},
            "parts": {"before": [asdict(p) for p in self.before.parts], "after": [asdict(p) for p in self.after.parts]},
            "widths": {"before": self.plan.before, "after": self.plan.after},
            "scores": {name: list(scores) for name, scores in self.scores.items()},
            "stability": self.stability,
            "recovery": self.recovery.to_dict() if self.recovery else None,
        }

    def __rich__(self) -> Group:
        lines = [] if self.stability is None else [f"Calibration: {stability_text(self.stability)}"]
        lines += [f"Recovery: {self.recovery}"] if self.recovery else []
        costs = (cost_table(self.before, self.after), part_table(self.before.parts, self.after.parts))
        return Group(*costs, width_table(self.plan), *map(Text, lines))

    def __str__(self) -> str:
        return to_text(self)

    __repr__ = __str__


def cost_table(before: Cost, after: Cost) -> Table:
    """Parameters and multiply-adds before and after, in full."""
    table = Table(title="Cost", title_justify="left")
    for heading in ("", "before", "after", "left"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    b, a = before, after
    table.add_row("parameters", f"{b.parameters:,}", f"{a.parameters:,}", f"{a.parameters / b.parameters:.1%}")
    table.add_row(f"GMACs at {b.imgsz} px", f"{b.gmacs:.3f}", f"{a.gmacs:.3f}", f"{a.gmacs / b.gmacs:.1%}")
    return table


def part_table(before: Sequence[PartCost], after: Sequence[PartCost]) -> Table:
    """Parameters and multiply-adds by part of the network, before and after."""
    table = Table(title="Cost by part", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("parameters\nbefore", "\nafter", "\nleft", "GMACs\nbefore", "\nafter", "\nleft"):
        table.add_column(heading, justify="right", no_wrap=True)
    for b, a in zip(before, after, strict=True):
        parameters = (f"{b.parameters:,}", f"{a.parameters:,}", f"{a.parameters / b.parameters:.1%}")
        table.add_row(b.name, *parameters, f"{b.gmacs:.3f}", f"{a.gmacs:.3f}", f"{a.gmacs / b.gmacs:.1%}")
    return table


def width_table(plan: PruningPlan) -> Table:
    """Each width before and after, and why."""
    table = Table(title=f"Widths by {plan.criterion}", title_justify="left")
    for heading in ("layer", "width", "before", "after"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why")
    for w in plan.widths:
        table.add_row(str(w.layer), w.name, f"{w.before:,}", f"{w.after:,}", w.reason)
    return table


def stability_text(stability: float) -> str:
    """What the agreement of two halves of the calibration images means, for people."""
    return f"two halves of the images agree on {stability:.0%} of the channels that stay" + (
        "" if stability >= _STABLE else "; more images would settle the rest"
    )


def to_text(renderable: Any, width: int = 100) -> str:
    """Anything rich can draw as plain text, at a fixed width: figures are never cut off by a narrow terminal."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, legacy_windows=False).print(renderable)
    return buffer.getvalue().rstrip()
