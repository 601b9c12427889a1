"""The table of a comparison: a row for each model, and a summary over the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT
from depgraph_hsic_only.evaluation.validation import Validation
from depgraph_hsic_only.report.tables import Sheet, figure_text, kinds_in

_STAGES = ("recovered", "fine_tuned")  # after which a row has mAPs
_AXES = ("imgsz", "precision")  # headings


@dataclass(frozen=True)
class Row:
    """One model. A figure that was not measured is None."""

    criterion: str  # what ranked its channels; "unpruned" for the control
    target: str | None  # how much was cut, such as "params=0.8" or "ratio=0.25"; None for the control
    seed: int | None  # of its random choices; None for a control that was not trained, which is the same for all
    imgsz: int | None = None  # side of its images, pixels; None where an older version measured it, at one for all
    precision: str = FLOAT  # of what was measured: the model itself, or its file (see `deployment.PRECISIONS`)
    parameters: int = 0
    gmacs: float = 0.0  # multiply-adds for one image, in units of 10^9
    # mAP50-95 after the recovery, of the control as it is, in [0, 1], by kind of prediction, the one that counts most
    # last; and after the fine-tuning. A file is measured once, at the end.
    recovered: Mapping[str, float] | None = None
    fine_tuned: Mapping[str, float] | None = None
    latency_ms: float | None = None  # median, of what the settings say (`latency`)
    seconds: float = 0.0  # for scores, cut, recovery and fine-tuning
    weights: str = ""  # the model, relative to the comparison's folder
    samples: tuple[float, ...] = ()  # its last primary mAP50-95 on samples of the images, the same ones for all rows
    complete: bool = True  # whether every validation image was counted (see `validation.Metrics`)

    @property
    def setting(self) -> tuple[str | None, int | None, str]:
        """What criteria are compared at: target, side of the images in pixels, precision."""
        return self.target, self.imgsz, self.precision

    @property
    def map50_95(self) -> Mapping[str, float]:
        """mAP50-95 at the end, by kind of prediction."""
        return self.fine_tuned or self.recovered or {}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of predictions that were measured, the one that counts most last."""
        return tuple(self.map50_95)

    @property
    def primary(self) -> float:
        """mAP50-95 at the end of the kind that counts most."""
        return self.map50_95[self.kinds[-1]]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Row":
        """The inverse of `to_dict`, from JSON too."""
        row, kinds = dict(data), kinds_in(data, f"{_STAGES[0]}_map50_95_")
        stages = {stage: {kind: row.pop(f"{stage}_map50_95_{kind}") for kind in kinds} for stage in _STAGES}
        maps: Any = {stage: None if None in found.values() else found for stage, found in stages.items()}
        return cls(**{**row, "samples": tuple(row["samples"])}, **maps)

    def to_dict(self) -> dict[str, Any]:
        """A row of `comparison.json`: an mAP has its kind of prediction in its key, as in "recovered_map50_95_mask"."""
        row: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name in _STAGES:
                row |= {f"{name}_map50_95_{kind}": value and value[kind] for kind in self.kinds}
            else:
                row[name] = value
        return row | {"samples": list(self.samples)}

    def csv_row(self) -> dict[str, Any]:
        """All of it but the samples."""
        return {key: value for key, value in self.to_dict().items() if key != "samples"}


@dataclass(frozen=True)
class Summary:
    """All seeds of a criterion at one target, size of images and precision.

    Figures are means; spreads are standard deviations, None of one seed.
    """

    criterion: str
    target: str | None
    imgsz: int | None
    precision: str
    seeds: int
    parameters: float
    gmacs: float
    map50_95: Mapping[str, float]
    spread: Mapping[str, float | None]
    kept: float | None  # the primary mAP50-95 as a share of the control's; None where that is missing or 0
    latency_ms: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """An entry of `comparison.json`'s `summary`, with the kinds of prediction in the keys, as in "mask_spread"."""
        found = asdict(self)
        maps, spreads = found.pop("map50_95"), found.pop("spread")
        for kind in maps:
            found |= {f"map50_95_{kind}": maps[kind], f"{kind}_spread": spreads[kind]}
        return found


def summarize(rows: Sequence[Row], imgsz: int | None = None) -> tuple[Summary, ...]:
    """A summary for each criterion at each target, size and precision, in the order in which they come.

    `imgsz` is the side of the control's images.
    """
    cells: dict[tuple[str, str | None, int | None, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.criterion, *row.setting), []).append(row)
    control = [row.primary for row in controls(rows, imgsz)]
    reference = statistics.mean(control) if control else 0.0
    found = []
    for key, cell in cells.items():
        maps = {kind: [row.map50_95[kind] for row in cell] for kind in cell[0].kinds}
        means = {kind: statistics.mean(values) for kind, values in maps.items()}
        spread = {kind: statistics.stdev(values) if len(values) > 1 else None for kind, values in maps.items()}
        kept = statistics.mean(row.primary for row in cell) / reference if reference > 0 else None
        names = ("parameters", "gmacs", "latency_ms", "seconds")
        cost: dict[str, Any] = {name: _mean([getattr(row, name) for row in cell]) for name in names}
        found.append(Summary(*key, len(cell), map50_95=means, spread=spread, kept=kept, **cost))
    return tuple(found)


def controls(rows: Sequence[Row], imgsz: int | None) -> list[Row]:
    """The rows that all others are compared with: the unpruned model in float, on images of a side."""
    return [row for row in rows if row.setting == (None, imgsz, FLOAT)]


def _mean(figures: Sequence[float | None]) -> float | None:
    """The mean; None where one was not measured."""
    known = [figure for figure in figures if figure is not None]
    return statistics.mean(known) if len(known) == len(figures) else None


def varies(rows: Sequence[Row]) -> bool:
    """Whether rows are of several sizes of images or precisions."""
    return len({row.setting[1:] for row in rows}) > 1


def row_table(rows: Sequence[Row], validation: Validation) -> Sheet:
    """Every model; "-" where a figure was not measured."""
    tuned = any(row.fine_tuned is not None for row in rows)
    stages, kinds = _STAGES if tuned else _STAGES[:1], rows[0].kinds if rows else ()
    cells = []
    for row in rows:
        found = (figure_text((getattr(row, stage) or {}).get(kind), ".4f") for stage in stages for kind in kinds)
        axes = (figure_text(row.imgsz, "d"), row.precision)
        figures = (figure_text(row.seed, "d"), *axes, f"{row.parameters:,}", f"{row.gmacs:.3f}", *found)
        times = (figure_text(row.latency_ms, ".1f"), f"{row.seconds:,.1f}")
        cells.append((row.criterion, row.target or "-", *figures, *times))
    maps = (f"{stage.replace('_', '-')}\n{kind}" for stage in stages for kind in kinds)
    headings = ("criterion", "target", "seed", *_AXES, "parameters", "GMACs", *maps, "latency\nms", "time\ns")
    how = str(validation).partition(", ")[2] if varies(rows) else str(validation)  # sizes have a column
    return Sheet(f"Models ({how})", headings, tuple(cells), "llrrl" + "r" * (len(headings) - 5))


def summary_table(summaries: Sequence[Summary]) -> Sheet:
    """Means over the seeds, with their standard deviations."""
    rows = []
    for s in summaries:
        spreads = ("" if spread is None else f" ± {spread:.4f}" for spread in s.spread.values())
        maps = (f"{value:.4f}{spread}" for value, spread in zip(s.map50_95.values(), spreads, strict=True))
        axes = (figure_text(s.imgsz, "d"), s.precision)
        figures = (str(s.seeds), *axes, f"{s.parameters:,.0f}", f"{s.gmacs:.3f}", *maps)
        shares = (figure_text(s.kept, ".3f"), figure_text(s.latency_ms, ".1f"))
        rows.append((s.criterion, s.target or "-", *figures, *shares))
    titles = (f"{kind}\nmAP50-95" for kind in summaries[0].map50_95)
    headings = ("criterion", "target", "seeds", *_AXES, "parameters", "GMACs", *titles, "of the\nunpruned", "ms")
    align = "llrrl" + "r" * (len(headings) - 5)
    return Sheet("Means over the seeds ± standard deviation", headings, tuple(rows), align)
