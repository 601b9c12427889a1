"""What a cut did, as a value that shows itself."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from depgraph_hsic_only.costs import Cost
from depgraph_hsic_only.plan import PruningPlan


@dataclass(frozen=True, repr=False)
class PruningReport:
    """What was cut from a model, counted on the model itself.

    Attributes:
        plan: What was cut, with the widths before and after.
        before: Cost of the model before the cut.
        after: Cost of the model after the cut.
        scores: Importance of each channel by channel group; empty where a plan was applied that had been made before.
    """

    plan: PruningPlan
    before: Cost
    after: Cost
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        return {
            "criterion": self.plan.criterion,
            "layers": list(self.plan.layers),
            "imgsz": self.before.imgsz,
            "parameters": {"before": self.before.parameters, "after": self.after.parameters},
            "gmacs": {"before": self.before.gmacs, "after": self.after.gmacs},
            "widths": {"before": self.plan.before, "after": self.plan.after},
            "scores": {name: list(scores) for name, scores in self.scores.items()},
        }

    def __rich__(self) -> Group:
        return Group(cost_table(self.before, self.after), width_table(self.plan))

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


def width_table(plan: PruningPlan) -> Table:
    """Each width before and after, and why."""
    table = Table(title=f"Widths by {plan.criterion}", title_justify="left")
    for heading in ("layer", "width", "before", "after"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why")
    for w in plan.widths:
        table.add_row(str(w.layer), w.name, f"{w.before:,}", f"{w.after:,}", w.reason)
    return table


def to_text(renderable: Any, width: int = 100) -> str:
    """Anything rich can draw as plain text, at a fixed width: figures are never cut off by a narrow terminal."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, legacy_windows=False).print(renderable)
    return buffer.getvalue().rstrip()
