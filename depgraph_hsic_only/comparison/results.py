"""The parts that are rows in the end: a cut model, the unpruned one, and either in a file of another precision."""

import abc
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.comparison.parts import Part, Scores, WidthChoice
from depgraph_hsic_only.comparison.study import UNPRUNED
from depgraph_hsic_only.comparison.table import Row
from depgraph_hsic_only.evaluation.bootstrap import DRAWS
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, Deployment
from depgraph_hsic_only.evaluation.latency import Run
from depgraph_hsic_only.evaluation.validation import validate_file
from depgraph_hsic_only.pruning.api import cut_in_place
from depgraph_hsic_only.report.stages import FINE_TUNED
from depgraph_hsic_only.training.train import Teacher
from depgraph_hsic_only.workflow.default import DefaultYoloPruner
from depgraph_hsic_only.workflow.stages.prune_steps import FineTuning
from depgraph_hsic_only.yolo.architecture import layer_widths
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import on_device
from depgraph_hsic_only.yolo.load import load_model, set_imgsz
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo


@dataclass(frozen=True)
class Result(Part):
    """A model at the end, measured: of this part comes one row of the table."""

    imgsz: int  # side of the images that it is recovered, trained, measured and timed at, pixels

    def row(self) -> Row:
        """Its row, without latency."""
        return replace(Row.from_dict(self.read()["row"]), imgsz=self.imgsz)

    @property
    def at(self) -> str:
        """What its name has beside that of the same at the first side."""
        return "" if self.imgsz == self.study.sides[0] else f"-{self.imgsz}px"

    @property
    def computation(self) -> str:
        """What its latency is of: equal ones have the same widths, side and precision, and are equally fast."""
        row, widths = self.row(), hashlib.sha256(json.dumps(self.read()["widths"]).encode()).hexdigest()
        return widths + self.at + ("" if row.precision == FLOAT else f"-{row.precision}")

    @abc.abstractmethod
    def prepare(self, folder: Path) -> Run:
        """What is timed of it; its file lies in a folder that lasts as long."""

    def _pruner(self, model: Yolo, **changes: Any) -> DefaultYoloPruner:
        """What trains and measures in a folder of the part's own."""
        folder = {"project": str(self.study.folder / "runs"), "name": self.name, "exist_ok": True}
        own = {**folder, "pretrained": str(self.study.trained), "seed": self.seed}
        common = self.study.config_of(model, self.imgsz).to_dict()
        pruner = DefaultYoloPruner(cfg=None, **{**common, **own, **changes})
        pruner.open_folder()
        return pruner


@dataclass(frozen=True)
class Made(Result):
    """A checkpoint."""

    def prepare(self, folder: Path) -> Run:
        model = load_model(self.study.folder / self.row().weights)
        deployment = self.study.config_of(model, self.imgsz).deployment(model)
        return deployment.prepare(on_device(model.model, self.study.config.device), folder)

    def _measured(self, row: Row, recovered: Yolo, tuned: Any, pruner: DefaultYoloPruner) -> dict[str, Any]:
        """The content of the file, of the `YOLO` after the recovery and after the fine-tuning, where there is one."""
        last = tuned or recovered
        if self.at:
            set_imgsz(last, self.imgsz)
        cost, weights = measure_cost(last.model, self.imgsz), pruner.folder.save_model(FINE_TUNED.weights, last)
        found = [pruner.evaluate(model, DRAWS) for model in (recovered, tuned) if model is not None]
        file, complete = str(weights.relative_to(self.study.folder)), all(metrics.complete for metrics in found)
        row = replace(row, imgsz=self.imgsz, parameters=cost.parameters, gmacs=cost.gmacs)
        row = replace(row, weights=file, complete=complete)
        fine_tuned, samples = None if tuned is None else found[1].map50_95, found[-1].resampled
        row = replace(row, recovered=found[0].map50_95, fine_tuned=fine_tuned, samples=samples)
        pruner.folder.clear_scratch()  # what a training that is cut off goes on from
        return {"row": row.to_dict(), "widths": layer_widths(last.model)}


@dataclass(frozen=True)
class Cut(Made):
    """A criterion's channels, cut to the widths of an amount, recovered, and fine-tuned where the study says so."""

    criterion: str
    amount: Amount

    pattern = "{0.criterion}-{0.amount}-seed{0.seed}{0.at}"

    def measure(self) -> Mapping[str, Any]:
        scored, widths = Scores(self.study, self.seed, self.criterion), WidthChoice(self.study, self.seed, self.amount)
        scores, chosen, scoring = scored.scores(), widths.read(), float(scored.read()["seconds"])
        model, settings = self._model(), self.study.config.prune
        pruner = self._pruner(model, prune={**asdict(settings), "criterion": self.criterion, "options": {}})
        images = torch.empty(0) if settings.recover == "none" else self._images(model, self.imgsz)
        start = time.perf_counter()
        graph = self._planner(model, self.criterion).with_scores(model.model, scores).graph
        plan = make_plan(graph, scores, chosen["widths"], criterion=self.criterion, reasons=chosen["reasons"])
        given = {"images": images, "seed": self.seed}
        _, kept = cut_in_place(model, model.model, plan, graph, settings.recover, **given)
        pruner.folder.write_json("plan.json", plan.to_dict())
        tuned = None
        if self.study.epochs:
            teacher = Teacher(self.study.trained, load_model(self.study.trained), kept)
            pruner.tuning = FineTuning(self.study.epochs, teacher)
            tuned = pruner.fine_tune(model)
        seconds = scoring + time.perf_counter() - start
        row = Row(self.criterion, str(self.amount), self.seed, seconds=seconds)
        return self._measured(row, model, tuned, pruner)


@dataclass(frozen=True)
class Control(Made):
    """The unpruned model: trained on as the cut ones are, where these are; as it is otherwise, for all seeds alike."""

    pattern = UNPRUNED + "-seed{0.seed}{0.at}"

    def measure(self) -> Mapping[str, Any]:
        model = self._model()
        pruner = self._pruner(model, train=dict(self.study.config.fine_tune))  # training on from one that was not cut
        start = time.perf_counter()
        tuned = pruner.train(model) if self.study.epochs else None
        row = Row(UNPRUNED, None, self.seed if self.study.epochs else None, seconds=time.perf_counter() - start)
        return self._measured(row, model, tuned, pruner)


@dataclass(frozen=True)
class InFile(Result):
    """A model that another part has made, in a file of a precision: the mAP is the file's own."""

    made: Made
    precision: str

    pattern = "{0.made.name}-{0.precision}"

    def prepare(self, folder: Path) -> Run:
        deployment, model = self._deployed()
        network = on_device(model.model, self.study.config.device)
        return deployment.prepare(network, folder, self.study.folder / self.row().weights)

    def measure(self) -> Mapping[str, Any]:
        deployment, model = self._deployed()
        pruner, row = self._pruner(model), self.made.row()
        network, images = on_device(model.model, self.study.config.device), self._drawn(model).images("train")
        written = deployment.write(network, pruner.folder.scratch / "file", images)
        file = written.replace(pruner.folder.weights / f"best_{self.precision}{written.suffix}")
        pruner.folder.clear_scratch()
        data, single = pruner.dataset.write_keys(pruner.folder.path), pruner.validation_of(model).single_cls
        task = task_of(model.model).name
        metrics = validate_file(file, data, deployment.shape, task, single_cls=single, draws=DRAWS)
        own = {"recovered": metrics.map50_95, "fine_tuned": None}
        maps: Any = own if row.fine_tuned is None else {"recovered": None, "fine_tuned": metrics.map50_95}
        row = replace(row, **maps, samples=metrics.resampled, complete=metrics.complete)
        row = replace(row, precision=self.precision, weights=str(file.relative_to(self.study.folder)))
        return {"row": row.to_dict(), "widths": self.made.read()["widths"]}

    def _deployed(self) -> tuple[Deployment, Yolo]:
        """How it is deployed, and the `YOLO` that its file is made of."""
        model = load_model(self.study.folder / self.made.row().weights)
        return self.study.config_of(model, self.imgsz, self.precision).deployment(model), model
