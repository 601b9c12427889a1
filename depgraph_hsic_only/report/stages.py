"""The stages of a run, one table for workflow, folder and report; and a row of the report: the model after a stage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from depgraph_hsic_only.evaluation.latency import Latency
from depgraph_hsic_only.evaluation.validation import Accuracy, ClassMetrics, Validation
from depgraph_hsic_only.report.tables import Sheet, figure_text
from depgraph_hsic_only.yolo.cost import PartCost
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.tasks import TASKS, map_column


@dataclass(frozen=True)
class Stage:
    """A stage that changes the model."""

    name: str  # of the stage and of the model after it, in reports
    title: str  # the same for people
    activity: str  # what is said while it runs
    weights: str  # checkpoint after it, in the run folder's `weights`
    folder: str = ""  # of its training in the run folder; empty where it trains nothing
    block: str = ""  # of the settings that it goes by, where it trains


BASELINE: Final = "baseline"  # the loaded model, before all stages
TRAINED: Final = Stage("trained", "trained", "training", "trained.pt", "train", "train")
PRUNED: Final = Stage("pruned", "pruned", "pruning", "pruned.pt")
FINE_TUNED: Final = Stage("fine_tuned", "fine-tuned", "fine-tuning", "best.pt", "finetune", "fine_tune")
STAGES: Final = (TRAINED, PRUNED, FINE_TUNED)
ACTIVITIES: Final = (*(stage.activity for stage in STAGES), "export", "latency", "pictures")  # of a whole run
EXPORTED: Final = "exported"  # what is done in the end
TITLES = {BASELINE: BASELINE, **{stage.name: stage.title for stage in STAGES}}
RUNTIMES = {"torch": "PyTorch", "onnxruntime": "onnxruntime"}


@dataclass(frozen=True)
class StageReport:
    """The model after one stage. A figure that was not measured is None, and `notes` says why.

    Attributes:
        name: "baseline", "trained", "pruned" or "fine_tuned".
        seconds: Time the stage took, without measuring.
        parameters: Number of parameters.
        gmacs: Multiply-adds for one image, in units of 10^9.
        imgsz: Side of the image that these and the mAPs are of, pixels; None in the report of an older version.
        size_mb: Size of the checkpoint, 10^6 bytes.
        weights: Path of the checkpoint, relative to the run folder where it is in it.
        metrics: The mAPs on the validation split by kind of prediction, such as "mask"; empty where not measured.
        complete: Whether all images count in the mAPs (see `validation.Metrics`).
        classes: The mAPs by class.
        resampled: The primary mAP50-95 on samples of the validation images (see `bootstrap.py`).
        latency_ms: Median milliseconds for what the exported file takes at once: "torch" on the run's device,
            "onnxruntime" on the CPU, and by its own name what the settings say instead (see `deployment.Timed`).
        latency_spread_ms: For the same, the 10th and the 90th percentile of the rounds.
        deployed: What the latency of the model as it is deployed is by, such as "onnxruntime int8".
        notes: What a reader must know.
        parts: Parameters and multiply-adds by part of the network.
        epochs: Losses, mAPs and learning rates of each epoch, where the stage trained.
        details: What the stage itself measured: of pruning "as_cut" (mAPs before the recovery), "recovery", "scores" by
            channel group and "stability".
        task: Of the model, as Ultralytics calls it: its kinds of predictions are those of `tasks.TASKS`.
    """

    name: str
    seconds: float
    parameters: int
    gmacs: float
    imgsz: int | None = None
    size_mb: float | None = None
    weights: str | None = None
    metrics: Mapping[str, Accuracy] = field(default_factory=dict)
    complete: bool | None = None
    classes: tuple[ClassMetrics, ...] = ()
    resampled: tuple[float, ...] = ()
    latency_ms: Mapping[str, float | None] = field(default_factory=lambda: dict.fromkeys(RUNTIMES))
    latency_spread_ms: Mapping[str, tuple[float, float] | None] = field(default_factory=lambda: dict.fromkeys(RUNTIMES))
    deployed: str = "onnxruntime"
    notes: tuple[str, ...] = ()
    parts: tuple[PartCost, ...] = ()
    epochs: tuple[Mapping[str, float | None], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    task: str = "segment"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], task: str = "segment") -> "StageReport":
        """The inverse of `to_dict`, of a task; what an older version did not measure is left out."""
        asked = [key for key in data.get("latency_ms", ()) if key not in RUNTIMES]  # what counted in older versions
        older = {"latency_spread_ms": dict.fromkeys(RUNTIMES), "deployed": asked[-1] if asked else "onnxruntime"}
        row = {"notes": (), "epochs": (), **older, **data}
        kinds, primary = TASKS[task].kinds, TASKS[task].primary
        maps = {kind: (row.pop(f"map50_{kind}", None), row.pop(f"map50_95_{kind}", None)) for kind in kinds}
        row["metrics"] = {kind: Accuracy(*pair) for kind, pair in maps.items() if None not in pair}
        row["classes"] = tuple(
            ClassMetrics(c["name"], c["instances"], {kind: c[f"map50_95_{kind}"] for kind in kinds}, c.get("index"))
            for c in row.get("classes", ())
        )
        row["resampled"] = tuple(row.pop(f"resampled_{primary}", ()))
        row["parts"] = tuple(PartCost(**part) for part in row["parts"])
        row |= {name: tuple(row[name]) for name in ("notes", "epochs")}
        row["latency_spread_ms"] = {name: pair and tuple(pair) for name, pair in row["latency_spread_ms"].items()}
        return cls(**row, task=task)

    def to_dict(self) -> dict[str, Any]:
        """A row of `report.json`'s `stages`: an mAP has its kind of prediction in its key, as in "map50_95_mask".

        The task, which is that of all rows, is not in it.
        """
        row = asdict(self)
        for kind in self.kinds:
            found = row["metrics"].get(kind, {})
            row |= {f"{name}_{kind}": found.get(name) for name in ("map50_95", "map50")}
        row["classes"] = [
            {
                "name": c.name,
                "index": c.index,
                "instances": c.instances,
                **{f"map50_95_{kind}": c.map50_95[kind] for kind in self.kinds},
            }
            for c in self.classes
        ]
        row[f"resampled_{self.primary}"] = row.pop("resampled")
        del row["metrics"], row["task"]
        return row

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of predictions of its task, in the order in which tables have them."""
        return TASKS[self.task].kinds

    @property
    def primary(self) -> str:
        """The kind that counts most."""
        return TASKS[self.task].primary

    @property
    def map50_95(self) -> dict[str, float]:
        """mAP50-95 by kind of prediction, in [0, 1]; empty where not measured."""
        return {kind: accuracy.map50_95 for kind, accuracy in self.metrics.items()}

    @property
    def deployed_ms(self) -> float | None:
        """Median latency of what is deployed."""
        return self.latency_ms[self.deployed]

    def with_latency(self, found: Mapping[str, Latency | None], deployed: str) -> "StageReport":
        """The row with what was measured by runtime, and the one that it is `deployed` in."""
        medians = {runtime: one.median if one else None for runtime, one in found.items()}
        spreads = {runtime: (one.p10, one.p90) if one else None for runtime, one in found.items()}
        return replace(self, latency_ms=medians, latency_spread_ms=spreads, deployed=deployed)

    def csv_row(self) -> dict[str, Any]:
        """The row of `results.csv`, with Ultralytics' names for the mAPs."""
        return {
            "stage": self.name,
            "parameters": self.parameters,
            "gmacs": round(self.gmacs, 4),
            "size_mb": self.size_mb,
            **{map_column(kind): self.map50_95.get(kind) for kind in self.kinds},
            "latency_ms": self.latency_ms["torch"],
            "latency_onnxruntime_ms": self.latency_ms["onnxruntime"],
            **{
                f"latency_{key.replace(' ', '_')}_ms": self.latency_ms[key] for key in self.latency_ms.keys() - RUNTIMES
            },
            "seconds": round(self.seconds, 2),
            "imgsz": self.imgsz,
        }


def runtimes_of(stage: StageReport) -> dict[str, str]:
    """What the latencies of a stage are measured in, by key: for people."""
    return {key: RUNTIMES.get(key, key) for key in stage.latency_ms}


def stage_table(stages: Sequence[StageReport], validation: Validation, timed: InputShape | None = None) -> Sheet:
    """The stages side by side, and the cut model before its recovery; "-" where a figure was not measured.

    The title says how the mAPs were measured, and what was `timed`, where that is known.
    """
    kinds, runtimes, rows = stages[0].kinds, runtimes_of(stages[-1]), []
    sizes = len({s.imgsz for s in stages}) > 1
    for s in stages:
        cost = (*[f"{s.imgsz}"] * sizes, f"{s.parameters:,}", f"{s.gmacs:.3f}")
        as_cut = s.details.get("as_cut")
        if as_cut is not None and as_cut.get("parameters", s.parameters) == s.parameters:  # else of a step undone
            maps = (figure_text(as_cut[f"map50_95_{kind}"], ".4f") for kind in kinds)
            rows.append(("as cut", *cost, "-", *maps, *("-" for _ in runtimes), "-"))
        maps = (figure_text(s.map50_95.get(kind), ".4f") for kind in kinds)
        latencies = (figure_text(s.latency_ms[runtime], ".1f") for runtime in runtimes)
        rows.append((TITLES[s.name], *cost, figure_text(s.size_mb, ".2f"), *maps, *latencies, f"{s.seconds:,.1f}"))
    figures = (*["px"] * sizes, "parameters", "GMACs", "MB", *(f"{kind}\nmAP50-95" for kind in kinds))
    headings = ("stage", *figures, *(f"{title}\nms" for title in runtimes.values()), "time\ns")
    latency = "" if timed is None else f"; latency of {timed}{_own_size(stages[0], stages[-1])}"
    return Sheet(f"Stages ({validation}{latency})", headings, tuple(rows), "l" + "r" * (len(headings) - 1))


def primary_first(stage: StageReport) -> tuple[str, ...]:
    """The kinds of predictions of a stage, the one that counts most before the others."""
    return stage.primary, *(kind for kind in stage.kinds if kind != stage.primary)


def latency_table(before: StageReport, after: StageReport, timed: InputShape | None = None) -> Sheet:
    """Median and spread by runtime, before and after, of what was `timed`."""
    rows = []
    for runtime, title in runtimes_of(after).items():
        cells = []
        for stage in (before, after):
            spread = stage.latency_spread_ms[runtime]
            cells.append(figure_text(stage.latency_ms[runtime], ".1f"))
            cells.append("-" if spread is None else f"{spread[0]:.1f} – {spread[1]:.1f}")
        b, a = before.latency_ms[runtime], after.latency_ms[runtime]
        rows.append((title, *cells, f"{a / b:.1%}" if b and a is not None else "-"))
    headings = ("", "before\nmedian, ms", "\n10 – 90 %", "after\nmedian, ms", "\n10 – 90 %", "\nleft")
    return Sheet(f"Latency of {timed or '1 image'}{_own_size(before, after)}", headings, tuple(rows), "lrrrrr")


def _own_size(before: StageReport, after: StageReport) -> str:
    """What to say of the images that the model before the cut was timed on, where they were of another size."""
    return "" if before.imgsz == after.imgsz else f", before the cut by imgsz={before.imgsz}"


def class_table(before: StageReport, after: StageReport, *, exact: bool = True) -> Sheet:
    """The mAPs of each class before and after, the greatest loss of the primary one first.

    Where what is deployed is less than `exact`, the title says that these are of the model in float.
    """
    known, kinds = {row.name: row for row in before.classes}, primary_first(after)
    pairs = sorted(
        ((known[row.name], row) for row in after.classes if row.name in known),
        key=lambda pair: pair[1].map50_95[kinds[0]] - pair[0].map50_95[kinds[0]],
    )
    rows = []
    for b, a in pairs:
        cells = []
        for kind in kinds:
            was, now = b.map50_95[kind], a.map50_95[kind]
            cells += [f"{was:.3f}", f"{now:.3f}", f"{now - was:+.3f}"]
        rows.append((a.name, figure_text(a.index, "d"), f"{a.instances:,}", *cells))
    maps = (heading for kind in kinds for heading in (f"{kind}\nbefore", "\nafter", "\nchange"))
    headings = ("class", "number", "instances", *maps)
    return Sheet(
        "mAP50-95 by class" + ("" if exact else ", in float"), headings, tuple(rows), "l" + "r" * (len(headings) - 1)
    )
