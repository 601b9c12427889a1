"""What there is to choose from: at each target, size of images and precision the criterion with the highest mAP."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from depgraph_hsic_only.comparison.table import Row
from depgraph_hsic_only.evaluation.bootstrap import Interval, paired_interval


@dataclass(frozen=True)
class Difference:
    """Of two mAP50-95, in the mean over seeds."""

    mean: float  # as measured on all validation images
    interval: Interval  # 95 %, by paired bootstrap over these

    @classmethod
    def of(cls, a: Sequence[Row], b: Sequence[Row]) -> "Difference":
        """That of the means of two models over the same seeds, a − b."""
        return cls(mean_of(a) - mean_of(b), paired_interval([row.samples for row in a], [row.samples for row in b]))

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"


@dataclass(frozen=True)
class Choice:
    """The best criterion at one target, size of images and precision, with means over seeds."""

    target: str | None  # None of the unpruned model
    imgsz: int | None  # side of the images, pixels
    precision: str
    criterion: str
    kind: str  # of the predictions whose mAP50-95 it is
    map50_95: float
    parameters: float
    gmacs: float
    latency_ms: float | None
    seeds: int
    unpruned: float | None  # mAP50-95 of the control; None, as is the loss, where it is missing or 0
    unpruned_imgsz: int | None  # side of the control's images, pixels; None where all rows are of that
    loss: Difference | None  # of the control's mAP50-95
    runner_up: str | None  # the next criterion; None where only one was compared
    lead: Difference | None  # over the next one's mAP50-95
    told_apart: bool  # whether the lead is significant
    where: str  # its target, and its size and precision where these vary, in words
    size: float  # what sizes are compared by: parameters, GMACs or milliseconds
    rows: tuple[Row, ...]  # one for each seed

    @property
    def setting(self) -> tuple[str | None, int | None, str]:
        """As of its rows."""
        return self.target, self.imgsz, self.precision

    @property
    def named(self) -> str:
        """The model in words."""
        if self.target is None:
            return f"the unpruned model at {self.where}" if self.where else "the unpruned model"
        return f"{self.criterion} at {self.where}"

    @property
    def costs(self) -> str:
        """All that it costs, in words."""
        clock = "" if self.latency_ms is None else f"{self.latency_ms:.2f} ms, "
        return f"{clock}{self.gmacs:.3f} GMACs, {self.parameters:,.0f} parameters"

    def __str__(self) -> str:
        at = f" at {self.unpruned_imgsz} px" if self.unpruned_imgsz else ""
        kept = f", {self.map50_95 / self.unpruned:.2f} of the unpruned {self.unpruned:.3f}{at}" if self.unpruned else ""
        said = f"{self.where}: {self.criterion} has the best {self.kind} mAP50-95, {self.map50_95:.3f}{kept}; "
        if self.lead is None:
            return said + "no other criterion was compared"
        if self.told_apart:
            return said + f"its lead over the next, {self.runner_up}, is significant: {self.lead}"
        return said + f"its lead over the next, {self.runner_up}, is not significant: {self.lead}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values; the mAP50-95 by its kind of prediction."""
        known = asdict(replace(self, rows=()))
        del known["rows"], known["where"]
        kind = known.pop("kind")
        return {kind if name == "map50_95" else name: value for name, value in known.items()}


def choices_in(rows: Sequence[Row], control: Sequence[Row], size: str) -> tuple[Choice, ...]:
    """The best criterion at each setting at which there is a seed that all criteria have, in the order of the rows.

    Args:
        rows: Those to choose from.
        control: Those of the unpruned model that losses are of.
        size: Field of a row that sizes are compared by.
    """
    settings = list(dict.fromkeys(row.setting for row in rows))
    several = [len({setting[k] for setting in settings}) > 1 for k in (1, 2)]
    imgsz_of_control = control[0].imgsz if control and several[0] else None
    found = []
    for target, imgsz, precision in settings:
        axes = [word for word, told in zip((f"{imgsz} px", precision), several, strict=True) if told]
        where = ", ".join([target, *axes] if target else axes)
        cell = [row for row in rows if row.setting == (target, imgsz, precision)]
        if (choice := _choose(cell, control, imgsz_of_control, size, where)) is not None:
            found.append(choice)
    return tuple(found)


def _choose(
    rows: Sequence[Row], control: Sequence[Row], imgsz_of_control: int | None, size: str, where: str
) -> Choice | None:
    """The best criterion of the rows of one setting; None where there is no seed that all criteria have."""
    by_criterion: dict[str, dict[int | None, Row]] = {}
    for row in rows:
        by_criterion.setdefault(row.criterion, {})[row.seed] = row
    first, *others = by_criterion.values()
    seeds = [seed for seed in first if all(seed in found for found in others)]
    if not seeds:
        return None
    cells = {criterion: [found[seed] for seed in seeds] for criterion, found in by_criterion.items()}
    best, *rest = sorted(cells, key=lambda criterion: -mean_of(cells[criterion]))  # stable: of equal ones the first
    lead, ahead = Difference.of(cells[best], cells[rest[0]]) if rest else None, False
    if lead is not None:
        pairs = zip(cells[best], cells[rest[0]], strict=True)
        ahead = lead.interval[0] > 0 and all(own.primary > other.primary for own, other in pairs)
    unpruned = [row for row in control if row.seed is None or row.seed in seeds]
    works = any(row.primary > 0 for row in unpruned)  # a share or a loss of nothing means nothing
    reference, loss = (mean_of(unpruned), Difference.of(unpruned, cells[best])) if works else (None, None)
    own = tuple(cells[best])
    return Choice(
        *own[0].setting,
        best,
        own[0].kinds[-1],
        mean_of(own),
        _cost(own, "parameters") or 0.0,
        _cost(own, "gmacs") or 0.0,
        _cost(own, "latency_ms"),
        len(seeds),
        reference,
        imgsz_of_control,
        loss,
        rest[0] if rest else None,
        lead,
        ahead,
        where,
        _cost(own, size) or 0.0,
        own,
    )


def mean_of(rows: Sequence[Row]) -> float:
    """Mean of the primary mAP50-95."""
    return statistics.mean(row.primary for row in rows)


def _cost(rows: Sequence[Row], name: str) -> float | None:
    """Mean of a cost; None where one was not measured."""
    known = [value for row in rows if (value := getattr(row, name)) is not None]
    return statistics.mean(known) if len(known) == len(rows) else None
