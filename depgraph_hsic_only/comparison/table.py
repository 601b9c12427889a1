"""The table of a comparison: a row for each model, and a summary over the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from depgraph_hsic_only.evaluation.validation import Validation


@dataclass(frozen=True)
class Row:
    """One model. A figure that was not measured is None.

    Attributes:
        criterion: What ranked its channels; "unpruned" for the control.
        target: How much was cut, such as "params=0.8" or "ratio=0.25"; None for the control.
        seed: Of its random choices; None for a control that was not trained, which is the same for all.
        parameters: Number of parameters.
        gmacs: Multiply-adds for one image, in units of 10^9.
        recovered_map50_95_box: Box mAP50-95 after the recovery, of the control as it is, in [0, 1].
        recovered_map50_95_mask: The same of the masks.
        fine_tuned_map50_95_box: Box mAP50-95 after the fine-tuning.
        fine_tuned_map50_95_mask: The same of the masks.
        latency_ms: Median milliseconds for one image, in onnxruntime on the CPU.
        seconds: Time for scores, cut, recovery and fine-tuning.
        weights: The model, relative to the comparison's folder.
        samples: Its last mask mAP50-95 on samples of the validation images, the same samples for all rows.
        complete: Whether every validation image was counted (see `evaluation.Metrics`).
    """

    criterion: str
    target: str | None
    seed: int | None
    parameters: int = 0
    gmacs: float = 0.0
    recovered_map50_95_box: float = 0.0
    recovered_map50_95_mask: float = 0.0
    fine_tuned_map50_95_box: float | None = None
    fine_tuned_map50_95_mask: float | None = None
    latency_ms: float | None = None
    seconds: float = 0.0
    weights: str = ""
    samples: tuple[float, ...] = ()
    complete: bool = True

    @property
    def mask(self) -> float:
        """Mask mAP50-95 at the end."""
        tuned = self.fine_tuned_map50_95_mask
        return self.recovered_map50_95_mask if tuned is None else tuned

    @property
    def box(self) -> float:
        """Box mAP50-95 at the end."""
        tuned = self.fine_tuned_map50_95_box
        return self.recovered_map50_95_box if tuned is None else tuned

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Row":
        """A row as JSON holds it."""
        return cls(**{**data, "samples": tuple(data["samples"])})

    def csv_row(self) -> dict[str, Any]:
        """All of it but the samples."""
        return {key: value for key, value in asdict(self).items() if key != "samples"}


@dataclass(frozen=True)
class Summary:
    """All seeds of a criterion at one target. Figures are means; spreads are standard deviations, None of one seed.

    Attributes:
        criterion: As in the rows.
        target: As in the rows.
        seeds: How many.
        parameters: Number of parameters.
        gmacs: Multiply-adds, in units of 10^9.
        map50_95_box: Box mAP50-95 at the end.
        box_spread: Its spread.
        map50_95_mask: Mask mAP50-95 at the end.
        mask_spread: Its spread.
        kept: Mask mAP50-95 as a share of the control's; None where the control is missing or 0.
        latency_ms: Milliseconds for one image; None where it was not measured.
        seconds: Time.
    """

    criterion: str
    target: str | None
    seeds: int
    parameters: float
    gmacs: float
    map50_95_box: float
    box_spread: float | None
    map50_95_mask: float
    mask_spread: float | None
    kept: float | None
    latency_ms: float | None
    seconds: float


def summarize(rows: Sequence[Row]) -> tuple[Summary, ...]:
    """A summary for each criterion at each target, in the order in which they come."""
    cells: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.criterion, row.target), []).append(row)
    control = [row.mask for row in rows if row.target is None]
    reference = statistics.mean(control) if control else 0.0
    return tuple(_summary(criterion, target, cell, reference) for (criterion, target), cell in cells.items())


def _summary(criterion: str, target: str | None, rows: Sequence[Row], reference: float) -> Summary:
    def spread(values: list[float]) -> float | None:
        return statistics.stdev(values) if len(values) > 1 else None

    box, mask = [row.box for row in rows], [row.mask for row in rows]
    latencies = [row.latency_ms for row in rows if row.latency_ms is not None]
    return Summary(
        criterion,
        target,
        len(rows),
        statistics.mean(row.parameters for row in rows),
        statistics.mean(row.gmacs for row in rows),
        statistics.mean(box),
        spread(box),
        statistics.mean(mask),
        spread(mask),
        statistics.mean(mask) / reference if reference > 0 else None,
        statistics.mean(latencies) if len(latencies) == len(rows) else None,
        statistics.mean(row.seconds for row in rows),
    )


def row_table(rows: Sequence[Row], validation: Validation) -> Table:
    """Every model; "-" where a figure was not measured."""
    conditions = f"imgsz={validation.imgsz}, batch={validation.batch}, rect={validation.rect}, {validation.split}"
    table = _table(f"Models ({conditions})", ("criterion", "target"))
    tuned = any(row.fine_tuned_map50_95_mask is not None for row in rows)
    headings = ["seed", "parameters", "GMACs", "recovered\nbox", "recovered\nmask"]
    headings += ["fine-tuned\nbox", "fine-tuned\nmask"] if tuned else []
    for heading in (*headings, "onnxruntime\nms", "time\ns"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        maps = [row.recovered_map50_95_box, row.recovered_map50_95_mask]
        after = [row.fine_tuned_map50_95_box, row.fine_tuned_map50_95_mask] if tuned else []
        table.add_row(
            row.criterion,
            row.target or "-",
            "-" if row.seed is None else str(row.seed),
            f"{row.parameters:,}",
            f"{row.gmacs:.3f}",
            *(_figure(value, 4) for value in [*maps, *after]),
            _figure(row.latency_ms, 1),
            f"{row.seconds:,.1f}",
        )
    return table


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Means over the seeds, with their standard deviations."""
    table = _table("Means over the seeds ± standard deviation", ("criterion", "target"))
    for heading in ("seeds", "parameters", "GMACs", "box\nmAP50-95", "mask\nmAP50-95", "of the\nunpruned", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in summaries:
        spreads = ("" if spread is None else f" ± {spread:.4f}" for spread in (s.box_spread, s.mask_spread))
        maps = (
            f"{value:.4f}{spread}" for value, spread in zip((s.map50_95_box, s.map50_95_mask), spreads, strict=True)
        )
        costs = (f"{s.parameters:,.0f}", f"{s.gmacs:.3f}")
        kept, latency = _figure(s.kept, 3), _figure(s.latency_ms, 1)
        table.add_row(s.criterion, s.target or "-", str(s.seeds), *costs, *maps, kept, latency)
    return table


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
