"""What a run measured, stage by stage, as a value that shows itself."""

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from rich.console import Group
from rich.text import Text

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.errors import DataError, one_line
from depgraph_hsic_only.evaluation.agreement import Agreement
from depgraph_hsic_only.evaluation.deployed.deployment import Timed
from depgraph_hsic_only.evaluation.parity import OnnxParity
from depgraph_hsic_only.evaluation.validation import Validation
from depgraph_hsic_only.report.exported import ExportedFile, exported_table, loss_text, other_texts
from depgraph_hsic_only.report.pruning_report import part_table, repeats_text
from depgraph_hsic_only.report.rivals import Rival, better_rival, rival_table
from depgraph_hsic_only.report.search import search_table, searched
from depgraph_hsic_only.report.stages import TITLES, StageReport, stage_table
from depgraph_hsic_only.report.tables import Shown
from depgraph_hsic_only.report.warnings import SAME_SPEED, before_stage, headline, missed_by
from depgraph_hsic_only.support.visible import visible
from depgraph_hsic_only.yolo.architecture import Layer
from depgraph_hsic_only.yolo.input_shape import InputShape

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class RunReport(Shown):
    """What a run measured.

    Attributes:
        folder: The run folder.
        args: The resolved configuration.
        stages: The stages that changed the model, and the baseline.
        validation: The arguments that the mAPs were measured with.
        widths_before: All widths of the unpruned model, by width group, and those repeats that the result has fewer of.
        widths_after: The same of the result; 0 of what was in nothing but blocks that are left out.
        onnx: Path of the exported file relative to the run folder, and what its proof found; None before the export.
        images: Number of images by split, "train" and "val".
        sources: Digests of what was read: "checkpoint" (the network) and "data" (names, images' sizes, labels).
        agreement: Of the models before and after on the same images; None before the export.
        environment: The machine and the versions that the figures depend on (see `environment`).
        version: Of this package.
        layers: All layers of the network; empty in the report of an older version.
        files: The exported files; empty before the export, and in the report of an older version.
        notes: What a reader must know of the export.
        timed: What is timed and how, by the settings; None before the export, and in the report of an older version.
        rivals: What else costs as little as the result; empty where nothing was cut, or it was not asked for.
        dataset: What plain Ultralytics takes as `data`; empty in the report of an older version.
    """

    folder: Path
    args: Mapping[str, Any]
    stages: tuple[StageReport, ...]
    validation: Validation
    widths_before: Mapping[str, int]
    widths_after: Mapping[str, int]
    onnx: tuple[str, OnnxParity] | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    agreement: Agreement | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__
    layers: tuple[Layer, ...] = ()
    files: tuple[ExportedFile, ...] = ()
    notes: tuple[str, ...] = ()
    timed: Timed | None = None
    rivals: tuple[Rival, ...] = ()
    dataset: str = ""

    columns: ClassVar[int] = 140

    @classmethod
    def load(cls, run_folder: str | Path) -> "RunReport":
        """Read the report that a run wrote into its folder.

        Raises:
            DataError: The folder holds no report.
        """
        folder = Path(run_folder).expanduser().resolve()
        try:
            data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            task, validation = data.get("task", "segment"), Validation(**data["validation"])  # once the only task
            stages = tuple(StageReport.from_dict(row, task) for row in data["stages"])
            before, after, onnx = data["widths"]["before"], data["widths"]["after"], dict(data["onnx"] or {})
            proved = (onnx.pop("path"), OnnxParity(**onnx)) if onnx else None
            found = {"environment": data["environment"], "version": data["version"]}
            found |= {key: data[key] for key in ("images", "sources") if key in data}
            agreement = Agreement.from_dict(data["comparison"]) if data.get("comparison") else None
            layers = tuple(map(Layer.from_dict, data.get("layers", ())))
            files = tuple(map(ExportedFile.from_dict, data.get("files", ())))
            known = {"onnx": proved, "agreement": agreement, "layers": layers, "files": files, **found}
            known["notes"] = tuple(data.get("notes", ()))
            known["timed"] = Timed.from_dict(data["latency"]) if data.get("latency") else None
            known["rivals"] = tuple(Rival(**row) for row in data.get("rivals", ()))
            known["dataset"] = data.get("dataset", "")
            return cls(folder, data["args"], stages, validation, before, after, **known)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder}: expected a run folder with a report.json, got {type(error).__name__} ({one_line(error)}); "
                "pass a run's folder"
            ) from error

    @property
    def task(self) -> str:
        """The task of the model, as Ultralytics calls it."""
        return self.after.task

    @property
    def before(self) -> StageReport:
        """The model before the cut: as trained, else as loaded."""
        return before_stage(self.stages)

    @property
    def after(self) -> StageReport:
        """The result."""
        return self.stages[-1]

    @property
    def measured_on(self) -> InputShape | None:
        """What every latency is of; None where none was measured, or an older version did not say."""
        return self.timed.input if self.timed else self.files[0].input if self.files else None

    @property
    def worth(self) -> Mapping[str, float]:
        """mAP50-95 of the result as deployed, by kind of prediction: of its file, where that is in less than float32.

        Empty where it was not measured.
        """
        reduced = {"half": "float16", "int8": "int8"}.get(self.timed.precision if self.timed else "")
        files = (file.map50_95 for file in self.files if file.precision == reduced and file.map50_95)
        return next(files, self.after.map50_95)

    def losses(self, least: float = -1.0) -> list[str]:
        """What the files of less than float32 lose, a line for each that loses more than the `least` of mAP50-95."""
        files = [file for file in self.files if file.loss is not None and file.loss > least]
        return [loss_text(file, self.args["export"]["max_map_drop"], self.after.primary) for file in files]

    def summary(self) -> str:
        """What the run cost and gained, in one line, and whether it missed its latency or a rival is better."""
        better = better_rival(self.after, self.worth, self.rivals)
        said = [headline(self.before, self.after, self.worth), *self._missed(), *([better] if better else [])]
        return "; ".join(said)

    def _missed(self) -> list[str]:
        """What to say where the target's latency was clearly missed."""
        target = self.args["prune"]["target"]
        if target is None or (budget := Amount.target(target).budget("latency")) is None:
            return []
        missed = missed_by(budget, self.before, self.after)
        if missed is None or missed <= SAME_SPEED * budget.value:
            return []
        return [f"the target {budget} is missed by {budget.figure(missed, 1.0)}"]

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`."""
        return {
            "version": self.version,
            "task": self.task,
            "environment": dict(self.environment),
            "args": dict(self.args),
            "stages": [stage.to_dict() for stage in self.stages],
            "widths": {"before": dict(self.widths_before), "after": dict(self.widths_after)},
            "onnx": {"path": self.onnx[0], **asdict(self.onnx[1])} if self.onnx else None,
            "validation": asdict(self.validation),
            "images": dict(self.images),
            "sources": dict(self.sources),
            "comparison": asdict(self.agreement) if self.agreement else None,
            "layers": [asdict(layer) for layer in self.layers],
            "files": [asdict(file) for file in self.files],
            "notes": list(self.notes),
            "latency": asdict(self.timed) if self.timed else None,
            "rivals": [asdict(rival) for rival in self.rivals],
            "dataset": self.dataset,
        }

    def plot(self) -> "Figure":
        """Cost, mAP and latency after each stage; `utils.plots` draws the rest."""
        from depgraph_hsic_only.report.figures.run import plot_stages  # matplotlib takes a while to import

        return plot_stages(self.to_dict()["stages"])

    def __rich__(self) -> Group:
        lines = [f"{TITLES[stage.name]}: {note}" for stage in self.stages for note in stage.notes]
        lines += [f"export: {note}" for note in self.notes]
        repeats = repeats_text(self.widths_before, self.widths_after)
        lines += [f"Repeats of {repeats}"] if repeats else []
        lines += [f"ONNX: {self.onnx[1]}"] if self.onnx else []
        lines += [*self.losses(), *other_texts(self.files)]
        lines += [f"Latency of what is deployed: {self.timed}"] if self.timed else []
        lines += [self.timed.warning] if self.timed and self.timed.warning else []
        lines += [f"In short: {self.summary()}"]
        lines += [f"Everything is in {self.folder}, the report in {self.folder / 'report.html'}"]
        parts = part_table(self.stages[0].parts, self.stages[-1].parts)
        texts = (Text(visible(line), overflow="fold") for line in lines)
        files = [exported_table(self.files, self.task)] if len(self.files) > 1 else []
        if (search := searched(self.stages)) is not None:
            files.append(search_table(search, self.after.primary))
        files += [rival_table(self.after, self.worth, self.validation.imgsz, self.rivals)] if self.rivals else []
        return Group(stage_table(self.stages, self.validation, self.measured_on), parts, *files, *texts)


def environment() -> dict[str, Any]:
    """The machine and the versions that figures depend on, as plain values; asks git for the commit."""
    import onnx  # either takes a while to import
    import onnxruntime

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "ultralytics": version("ultralytics"),
        "torch-pruning": version("torch-pruning"),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of this package's checkout, with "-dirty" where it was changed; None where it is installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        described = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
