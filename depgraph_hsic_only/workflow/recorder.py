"""The record of a run: after every stage its checkpoint is written and measured, and the report brought up to date."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.data.dataset import Dataset, same_classes
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.agreement import Agreement, measure_agreement
from depgraph_hsic_only.evaluation.latency import Latency, measure_latency, onnx_run, torch_run
from depgraph_hsic_only.evaluation.onnx import OnnxParity, export_onnx
from depgraph_hsic_only.evaluation.validation import Metrics, Validation
from depgraph_hsic_only.report.environment import environment
from depgraph_hsic_only.report.page import write_html
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.report.stages import StageReport
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.progress import begin_stage, say
from depgraph_hsic_only.training.results import read_epochs
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.workflow.state import STATE, RunState
from depgraph_hsic_only.yolo.architecture import layer_widths, list_layers
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import select_device, set_seed
from depgraph_hsic_only.yolo.load import load_model, own_imgsz

FILES = {"trained": "trained.pt", "pruned": "pruned.pt", "fine_tuned": "best.pt"}
BLOCKS = {"trained": "train", "fine_tuned": "fine_tune"}  # of the configuration
ACTIVITIES = {"trained": "training", "pruned": "pruning", "fine_tuned": "fine-tuning"}
STAGES = (*ACTIVITIES.values(), "export", "latency", "pictures")  # of a run, as its display names them
TRAININGS = {"trained": "train", "fine_tuned": "finetune"}  # folders that Ultralytics' trainings write


@dataclass(frozen=True)
class Exported:
    """An exported file and the proof that it does what the model does.

    Attributes:
        path: The file, in the run folder.
        parity: The comparison with PyTorch on validation images.
    """

    path: Path
    parity: OnnxParity


class Remarks:
    """What a stage has to say beside its result, until its row is written."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.details: dict[str, Any] = {}

    def taken(self) -> tuple[list[str], dict[str, Any]]:
        """The notes and details so far, which are forgotten."""
        taken = self.notes, self.details
        self.notes, self.details = [], {}
        return taken


def check_classes(model: Any, dataset: Dataset, config: Config) -> None:
    """Refuse to prune a model for a data set of another class count without training it.

    Raises:
        ConfigError: The counts differ and there are no training epochs.
    """
    has, wants = len(model.names), len(dataset.names)
    if has != wants and config.train["epochs"] == 0:
        raise ConfigError(
            f"train.epochs: expected at least 1, since the checkpoint has {has} classes and the data set {wants}, "
            "got 0; train.epochs=50, say, transfers the model to the data set's classes"
        )


class Recorder:
    """Measures the stages of one run and writes what the run folder holds of them.

    Args:
        folder: The run folder.
        dataset: The data set.
        config: The configuration.
        state: How far the run is; the rows of what is done are taken from the report in the folder.
        model: The loaded `YOLO`, which becomes the baseline.
        remarks: Where stages leave what goes into their rows.
        evaluate: Measures a model's mAP.
    """

    def __init__(
        self,
        folder: RunFolder,
        dataset: Dataset,
        config: Config,
        state: RunState,
        model: Any,
        remarks: Remarks,
        evaluate: Callable[[Any], Metrics],
    ) -> None:
        self._state = state
        self._folder, self._config, self._dataset, self._remarks = folder, config, dataset, remarks
        self._evaluate = evaluate
        self._validation = Validation(imgsz_of(model, config), config.batch)
        self._widths, self._environment = layer_widths(model.model), environment()
        self._images = {split: len(dataset.images(split)) for split in ("train", "val")}
        self._stages: list[StageReport] = []
        if state.done:
            rows = RunReport.load(folder.path).stages
            self._stages = [row for row in rows if row.name in ("baseline", *state.done)]
        else:
            self._add("baseline", model, Path(model.ckpt_path).resolve() if model.ckpt_path else None, 0.0)
            self._write(model)

    def stage(self, name: str, run: Callable[[Any], Any], model: Any) -> Any:
        """Run a stage, write its checkpoint and measure it; one that did and said nothing is left out of the report.

        Every stage has the same random state at its start, and takes the model as the file before it holds it, so that
        a run that was cut off between two stages goes on to the same result.

        Args:
            name: "trained", "pruned" or "fine_tuned".
            run: The stage.
            model: What the stage takes.

        Returns:
            What the stage returned, as its checkpoint holds it.
        """
        begin_stage(ACTIVITIES[name])
        if name in self._state.done:
            say("done before")
            return load_model(self._folder.weights / FILES[name])
        set_seed(self._config.seed)
        before, start = fingerprint(model.model), time.perf_counter()
        result = run(model)
        seconds = time.perf_counter() - start
        weights = self._folder.save_model(FILES[name], result)
        if name == "pruned":
            self._folder.write_yaml("weights/pruned.yaml", result.model.yaml)
        if fingerprint(result.model) != before or self._remarks.notes:
            self._add(name, result, weights, seconds)
        self._write(result)
        self._finished(name)
        return load_model(weights)

    def finish(self, model: Any, export: Callable[[Any], Exported]) -> RunReport:
        """Export the result, measure latency, compare it with the model before, and write the report and the page."""
        begin_stage("export")
        exported = export(model)
        begin_stage("latency")
        self._measure_latency(exported.path)
        begin_stage("pictures")
        report = self._write(model, exported, self._compare())
        write_html(self._folder.path)
        self._finished("exported")
        return report

    def _finished(self, stage: str) -> None:
        """Note that everything of a stage is written; what it could have gone on from is not needed any more."""
        self._state = self._state.finished(stage)
        self._folder.write_json(STATE, self._state.to_dict())
        self._folder.clear_scratch()

    def _add(self, name: str, model: Any, weights: Path | None, seconds: float) -> None:
        """Measure a model and add its row."""
        cost = measure_cost(model.model, self._validation.imgsz)
        notes, details = self._remarks.taken()
        row = StageReport(name, seconds, cost.parameters, cost.gmacs, parts=cost.parts, details=details)
        if weights is None:
            notes.append("built from its YAML and not trained, so its mAP was not measured")
        elif not same_classes(model.names, self._dataset.names):
            notes.append("it has other classes than the data set, so its mAP was not measured")
        else:
            say(f"validating {weights.name}")
            found = self._evaluate(model)
            if not found.complete:
                notes.append("NMS ran out of time on this machine, so the mAP is too low: measure it again")
            row = replace(row, **vars(found))
        if weights is not None:
            inside = weights.is_relative_to(self._folder.path)
            shown = weights.relative_to(self._folder.path) if inside else weights
            row = replace(row, weights=str(shown), size_mb=weights.stat().st_size / 1e6)
        if name in TRAININGS:
            row = replace(row, epochs=tuple(read_epochs(self._folder.path / TRAININGS[name])))
        self._stages.append(replace(row, notes=tuple(notes)))

    def _measure_latency(self, onnx: Path) -> None:
        """Median latency of every stage with a checkpoint, all in turns."""
        imgsz, runs = self._validation.imgsz, {}
        with tempfile.TemporaryDirectory() as scratch:
            for row in self._stages:
                if row.weights is not None:
                    trust = self._config.trust and row.name == "baseline"
                    model = load_model(self._folder.path / row.weights, trust=trust)
                    last = row is self._stages[-1]
                    file = onnx if last else export_onnx(model, Path(scratch) / f"{row.name}.onnx", imgsz=imgsz)
                    runs[f"{row.name}/torch"] = torch_run(model, imgsz, self._config.device)
                    runs[f"{row.name}/onnxruntime"] = onnx_run(file)
            found = measure_latency(runs)
        self._stages = [row.with_latency(_of_stage(found, row.name)) for row in self._stages]

    def _compare(self) -> Agreement:
        """Measure the agreement of the model before the cut and the result, and write the pictures."""
        from depgraph_hsic_only.report.figures.photographs import plot_pair, save_photograph  # matplotlib loads slowly

        before, after = (load_model(self._folder.weights / FILES[name]) for name in ("trained", "fine_tuned"))
        device = select_device(self._config.device)
        images = self._dataset.images("val")
        agreement, pairs = measure_agreement(before, after, images, imgsz=self._validation.imgsz, device=device)
        for name, pair in pairs.items():
            titles = f"before: {pair.found.before} found", f"after: {pair.found.after} found"
            figure = plot_pair(pair.before, pair.after, titles)
            write_atomically(self._folder.plots / f"{name}.png", partial(save_photograph, figure))
        return agreement

    def _write(self, model: Any, exported: Exported | None = None, agreement: Agreement | None = None) -> RunReport:
        """Bring `report.json` and `results.csv` up to date."""
        onnx = None
        if exported is not None:
            onnx = str(exported.path.relative_to(self._folder.path)), exported.parity
        report = RunReport(
            self._folder.path,
            self._config.to_dict(),
            tuple(self._stages),
            self._validation,
            self._widths,
            layer_widths(model.model),
            onnx,
            self._images,
            self._state.sources,
            agreement,
            self._environment,
            layers=list_layers(model.model),
        )
        self._folder.write_text("report.json", report.to_json())
        self._folder.write_csv("results.csv", [row.csv_row() for row in report.stages])
        return report


def _of_stage(found: Mapping[str, Latency], name: str) -> dict[str, Latency]:
    """The latencies of one stage by runtime, of those by stage and runtime."""
    return {key.removeprefix(f"{name}/"): latency for key, latency in found.items() if key.startswith(f"{name}/")}


def imgsz_of(model: Any, config: Config) -> int:
    """Side of the input image of a run, pixels: the configuration's, or the checkpoint's own."""
    return config.imgsz or own_imgsz(model)


def fingerprint(network: Any, *others: Sequence[torch.Tensor] | str) -> str:
    """A digest of names, shapes and values of a network's tensors, and of other tensors and texts."""
    digest = hashlib.sha256()
    named = list(network.state_dict().items())
    for part in others:
        named += [(part, torch.empty(0))] if isinstance(part, str) else [("", tensor) for tensor in part]
    for name, tensor in named:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
