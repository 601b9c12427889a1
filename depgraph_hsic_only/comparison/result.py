"""What a comparison found, as a value that shows itself."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Group
from rich.text import Text

from depgraph_hsic_only.comparison.recommendation import Recommendation
from depgraph_hsic_only.comparison.table import Row, Summary, row_table, summarize, summary_table, varies
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT
from depgraph_hsic_only.evaluation.validation import Validation
from depgraph_hsic_only.report.tables import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What a comparison found.

    Attributes:
        folder: Its folder.
        args: What all models have in common.
        rows: A row for each model, the unpruned ones first.
        recommendation: Which criterion, and how far.
        validation: The arguments that the mAPs were measured with, at the first size; at others it is theirs, and of a
            file they are those of `validation.validate_file`.
        failures: What went wrong, in one line, by the part that failed.
    """

    folder: Path
    args: Mapping[str, Any]
    rows: tuple[Row, ...]
    recommendation: Recommendation
    validation: Validation
    failures: Mapping[str, str]

    columns: ClassVar[int] = 140

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """Means and spreads over the seeds, for each criterion at each target, image size and precision."""
        return summarize(self.rows, self.validation.imgsz)

    def to_dict(self) -> dict[str, Any]:
        """The content of `comparison.json`."""
        return {
            "args": dict(self.args),
            "validation": asdict(self.validation),
            "rows": [row.to_dict() for row in self.rows],
            "summary": [summary.to_dict() for summary in self.summaries],
            "recommendation": self.recommendation.to_dict(),
            "failures": dict(self.failures),
        }

    def summary(self) -> str:
        """The recommendation."""
        return self.recommendation.lines[0]

    def plot(self) -> "Figure":
        """The primary mAP50-95 against parameters, multiply-adds and latency: see `utils.plots.plot_pareto`."""
        from depgraph_hsic_only.report.figures.pareto import plot_pareto  # matplotlib takes a while to import

        return plot_pareto([summary.to_dict() for summary in self.summaries])

    def __rich__(self) -> Group:
        tables = [row_table(self.rows, self.validation)]
        if len({row.seed for row in self.rows if row.target is not None}) > 1:
            tables.append(summary_table(self.summaries))
        lines = list(self.recommendation.lines)
        if "timed" in self.args:
            lines.append(f"Latency is of {self.args['timed']}" + "; of other rows at their own" * varies(self.rows))
        if any(row.precision != FLOAT for row in self.rows):
            lines.append("mAP at the end is of the files, on square images: a little other than of the checkpoints.")
        lines += [
            f"{row.weights}: NMS ran out of time on this machine, so its mAP is too low: remove its part and go on"
            for row in self.rows
            if not row.complete
        ]
        lines += [f"Failed: {name}: {error}" for name, error in self.failures.items()]
        lines.append(f"Everything is in {self.folder}")
        return Group(*tables, *(Text(line, overflow="fold") for line in lines))
