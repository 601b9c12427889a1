"""What a run measured, stage by stage, as a value that shows itself."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
import torch_pruning
import ultralytics
from rich.console import Group
from rich.table import Table
from rich.text import Text

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.costs import PartCost
from depgraph_hsic_only.evaluation import Validation
from depgraph_hsic_only.report import part_table, to_text
from depgraph_hsic_only.utils.conversion import OnnxParity

TITLES = {"baseline": "baseline", "trained": "trained", "pruned": "pruned", "fine_tuned": "fine-tuned"}


@dataclass(frozen=True)
class StageReport:
    """The model after one stage. A figure that was not measured is None, and `notes` says why.

    Attributes:
        name: "baseline", "trained", "pruned" or "fine_tuned".
        seconds: Time the stage took, without measuring.
        parameters: Number of parameters.
        gmacs: Multiply-adds for one image, in units of 10^9.
        size_mb: Size of the checkpoint, 10^6 bytes.
        map50_95_box: Box mAP50-95 on the validation split, in [0, 1].
        map50_95_mask: Mask mAP50-95 on the validation split, in [0, 1].
        map50_box: Box mAP50.
        map50_mask: Mask mAP50.
        latency_ms: Median milliseconds for one image: "torch" on the run's device, "onnxruntime" on the CPU.
        weights: Path of the checkpoint, relative to the run folder where it is in it.
        notes: What a reader must know.
        parts: Parameters and multiply-adds by part of the network.
        epochs: Losses, mAPs and learning rates of each epoch, where the stage trained.
        details: What the stage itself measured: of pruning "as_cut" (mAPs before the recovery), "recovery", "scores" by
            channel group and "stability".
    """

    name: str
    seconds: float
    parameters: int
    gmacs: float
    size_mb: float | None = None
    weights: str | None = None
    map50_95_box: float | None = None
    map50_95_mask: float | None = None
    map50_box: float | None = None
    map50_mask: float | None = None
    latency_ms: Mapping[str, float | None] = field(default_factory=lambda: {"torch": None, "onnxruntime": None})
    notes: tuple[str, ...] = ()
    parts: tuple[PartCost, ...] = ()
    epochs: tuple[Mapping[str, float | None], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "StageReport":
        """A row of `report.json`."""
        parts = tuple(PartCost(**part) for part in data["parts"])
        return cls(**{**data, "notes": tuple(data["notes"]), "parts": parts, "epochs": tuple(data["epochs"])})

    def csv_row(self) -> dict[str, Any]:
        """The row of `results.csv`, with Ultralytics' names for the mAPs."""
        return {
            "stage": self.name,
            "parameters": self.parameters,
            "gmacs": round(self.gmacs, 4),
            "size_mb": self.size_mb,
            "metrics/mAP50-95(B)": self.map50_95_box,
            "metrics/mAP50-95(M)": self.map50_95_mask,
            "latency_ms": self.latency_ms["torch"],
            "latency_onnxruntime_ms": self.latency_ms["onnxruntime"],
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, repr=False)
class RunReport:
    """What a run measured.

    Attributes:
        folder: The run folder.
        args: The resolved configuration.
        stages: The stages that changed the model, and the baseline.
        validation: The arguments that the mAPs were measured with.
        widths_before: All widths of the unpruned model, by width group.
        widths_after: All widths of the result.
        onnx: Path of the exported file relative to the run folder, and what its proof found; None before the export.
    """

    folder: Path
    args: Mapping[str, Any]
    stages: tuple[StageReport, ...]
    validation: Validation
    widths_before: Mapping[str, int]
    widths_after: Mapping[str, int]
    onnx: tuple[str, OnnxParity] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`."""
        return {
            "version": __version__,
            "environment": environment(),
            "args": dict(self.args),
            "stages": [asdict(stage) for stage in self.stages],
            "widths": {"before": dict(self.widths_before), "after": dict(self.widths_after)},
            "onnx": {"path": self.onnx[0], **asdict(self.onnx[1])} if self.onnx else None,
            "validation": asdict(self.validation),
        }

    def __rich__(self) -> Group:
        notes = [f"{TITLES[stage.name]}: {note}" for stage in self.stages for note in stage.notes]
        proof = [f"ONNX: {self.onnx[1]}"] if self.onnx else []
        lines = [*notes, *proof, f"Everything is in {self.folder}"]
        parts = part_table(self.stages[0].parts, self.stages[-1].parts)
        texts = (Text(line, overflow="fold") for line in lines)
        return Group(stage_table(self.stages, self.validation), parts, *texts)

    def __str__(self) -> str:
        return to_text(self, width=140)

    __repr__ = __str__


def read_report(folder: Path) -> RunReport:
    """The report of a run from the `report.json` in its folder."""
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    stages = tuple(StageReport.from_dict(row) for row in data["stages"])
    widths, validation, onnx = data["widths"], Validation(**data["validation"]), None
    if data["onnx"] is not None:
        onnx = data["onnx"].pop("path"), OnnxParity(**data["onnx"])
    return RunReport(folder, data["args"], stages, validation, widths["before"], widths["after"], onnx)


def stage_table(stages: tuple[StageReport, ...], validation: Validation) -> Table:
    """The stages side by side; "-" where a figure was not measured."""
    conditions = f"imgsz={validation.imgsz}, batch={validation.batch}, rect={validation.rect}, {validation.split}"
    table = Table(title=f"Stages ({conditions})", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for heading in (
        "parameters",
        "GMACs",
        "MB",
        "box\nmAP50-95",
        "mask\nmAP50-95",
        "PyTorch\nms",
        "onnxruntime\nms",
        "time\ns",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in stages:
        measured = (s.map50_95_box, s.map50_95_mask), (s.latency_ms["torch"], s.latency_ms["onnxruntime"])
        table.add_row(
            TITLES[s.name],
            f"{s.parameters:,}",
            f"{s.gmacs:.3f}",
            "-" if s.size_mb is None else f"{s.size_mb:.2f}",
            *("-" if figure is None else f"{figure:.4f}" for figure in measured[0]),
            *("-" if figure is None else f"{figure:.1f}" for figure in measured[1]),
            f"{s.seconds:,.1f}",
        )
    return table


def environment() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "ultralytics": ultralytics.__version__,
        "torch-pruning": torch_pruning.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
