"""The parts of a comparison: each is measured once, on its own, and leaves one small JSON file.

Scores of a criterion, the damage of the widths, the widths of an amount, a cut model, the control. A part reads the
files of those that it needs, so that any process that sees the folder can do it.
"""

import abc
import hashlib
import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import NOTHING, Amount
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.comparison.study import REFERENCE, UNPRUNED, Study
from depgraph_hsic_only.comparison.table import Row
from depgraph_hsic_only.data.dataset import find_dataset, labelled_batches
from depgraph_hsic_only.errors import ComparisonError, PruningError, one_line
from depgraph_hsic_only.evaluation.bootstrap import DRAWS
from depgraph_hsic_only.pruning.api import cut_in_place
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.report.stages import FINE_TUNED
from depgraph_hsic_only.support.files import write_text_atomically
from depgraph_hsic_only.training.train import Teacher
from depgraph_hsic_only.workflow.default import DefaultYoloPruner
from depgraph_hsic_only.workflow.fit import single_cls
from depgraph_hsic_only.workflow.prune_steps import FineTuning
from depgraph_hsic_only.yolo.architecture import layer_widths
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.input_shape import input_side
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo


@dataclass(frozen=True)
class Part(abc.ABC):
    """One part, which can be sent to another process."""

    study: Study
    seed: int  # of its random choices

    pattern: ClassVar[str]  # of its name
    local: ClassVar[bool] = False  # whether it belongs into the process that asks for it

    @abc.abstractmethod
    def measure(self) -> Mapping[str, Any]:
        """Do it; what comes back is written."""

    @property
    def name(self) -> str:
        """Its name, which is that of its file."""
        return self.pattern.format(**vars(self))

    @property
    def file(self) -> Path:
        """Its file, which is there when it is done."""
        return self.study.folder / "parts" / f"{self.name}.json"

    def read(self) -> dict[str, Any]:
        """What it has measured; a `ComparisonError` where it has not been done."""
        if not self.file.is_file():
            raise ComparisonError(f"{self.name}, which it needs, has failed")
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found

    def attempt(self) -> str | None:
        """Do it and write its file; or say what went wrong in one line, with the traceback in the folder `errors`."""
        log = self.study.folder / "errors" / f"{self.name}.txt"
        log.unlink(missing_ok=True)
        try:
            text = json.dumps(self.measure(), allow_nan=False) + "\n"
        except Exception as error:  # whatever it is, the other parts go on
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc(), encoding="utf-8")
            kind = "" if isinstance(error, PruningError) else f"{type(error).__name__}: "
            return kind + one_line(error, 1000)
        _write(self.file, text)
        return None

    def _model(self) -> Yolo:
        """The trained `YOLO`, on the device of the study."""
        model = load_model(self.study.trained)
        model.model.to(select_device(self.study.config.device))
        return model

    def _planner(self, model: Yolo, criterion: str, amount: Amount = NOTHING) -> Planner:
        return self.study.planner(criterion, self.seed, model, amount)

    def _imgsz(self, model: Yolo) -> int:
        return input_side(model, self.study.config.imgsz)

    def _batches(self, model: Yolo) -> list[dict[str, Any]]:
        """Calibration images drawn by the seed from the training split, with labels, letterboxed as in validation."""
        config = self.study.config
        dataset, count = find_dataset(config.data, task_of(model.model).name), config.calibration["images"]
        files = dataset.images("train")
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(self.seed)).tolist()
        chosen = [files[k] for k in sorted(order[:count])]
        _write(self.file.with_name(f"images-seed{self.seed}.txt"), "\n".join(map(str, chosen)))
        drawn = dataset.with_training_images(chosen)
        settings: dict[str, Any] = {"imgsz": self._imgsz(model), "single_cls": single_cls(model, config)}
        return list(labelled_batches(drawn, images=count, batch=min(config.batch, count), **settings))

    def _images(self, model: Yolo) -> torch.Tensor:
        return torch.cat([batch["img"] for batch in self._batches(model)])


@dataclass(frozen=True)
class Scores(Part):
    """The scores of a criterion, for all amounts."""

    criterion: str

    pattern = "scores-{criterion}-seed{seed}"

    def measure(self) -> Mapping[str, Any]:
        """Seconds, and a score for each channel of each group."""
        model = self._model()
        planner = self._planner(model, self.criterion)
        start = time.perf_counter()
        scored = planner.score(model.model, self._batches(model) if planner.scorer.needs_batches else None)
        seconds, scores = time.perf_counter() - start, scored.measured.scores
        return {"seconds": seconds, "scores": {name: score.double().tolist() for name, score in scores.items()}}

    def scores(self) -> dict[str, torch.Tensor]:
        """What it has measured, by channel group."""
        return {name: torch.tensor(score, dtype=torch.float64) for name, score in self.read()["scores"].items()}


@dataclass(frozen=True)
class Scan(Part):
    """The damage of each width, with the channels of the reference criterion: widths are chosen by it for all."""

    pattern = "sensitivity-seed{seed}"

    def measure(self) -> Mapping[str, Any]:
        """The damage: see `sensitivity.Sensitivity`."""
        model, scores = self._model(), Scores(self.study, self.seed, REFERENCE).scores()
        planner = self._planner(model, REFERENCE)
        return planner.sensitivity(planner.with_scores(model.model, scores), self._images(model)).to_dict()


@dataclass(frozen=True)
class WidthChoice(Part):
    """The widths of an amount: uniform for a ratio, by their damage for a target."""

    amount: Amount

    pattern = "widths-{amount}-seed{seed}"
    local = True  # latency is measured where the results' is, in the end

    def measure(self) -> Mapping[str, Any]:
        """All widths, and why each was chosen."""
        model = self._model()
        planner = self._planner(model, REFERENCE, self.amount)
        damage = Sensitivity.from_dict(Scan(self.study, self.seed).read()) if self.amount.is_target else None
        plan = planner.plan(planner.with_scores(model.model), damage)
        return {"widths": plan.after, "reasons": {width.name: width.reason for width in plan.widths}}


@dataclass(frozen=True)
class Result(Part):
    """A model at the end, measured: of this part comes one row of the table."""

    def row(self) -> Row:
        """Its row, without latency."""
        return Row.from_dict(self.read()["row"])

    @property
    def architecture(self) -> str:
        """A digest of the widths: models with the same ones are equally fast."""
        return hashlib.sha256(json.dumps(self.read()["widths"]).encode()).hexdigest()

    def _pruner(self, **changes: Any) -> DefaultYoloPruner:
        """What trains and measures in a folder of the part's own."""
        folder = {"project": str(self.study.folder / "runs"), "name": self.name, "exist_ok": True}
        own = {**folder, "pretrained": str(self.study.trained), "seed": self.seed}
        pruner = DefaultYoloPruner(cfg=None, **{**self.study.config.to_dict(), **own, **changes})
        pruner.open_folder()
        return pruner

    def _measured(self, row: Row, recovered: Yolo, tuned: Any, pruner: DefaultYoloPruner) -> dict[str, Any]:
        """The content of the file, of the `YOLO` after the recovery and after the fine-tuning, where there is one."""
        last = tuned or recovered
        cost, weights = measure_cost(last.model, self._imgsz(last)), pruner.folder.save_model(FINE_TUNED.weights, last)
        found = [pruner.evaluate(model, DRAWS) for model in (recovered, tuned) if model is not None]
        file, complete = str(weights.relative_to(self.study.folder)), all(metrics.complete for metrics in found)
        row = replace(row, parameters=cost.parameters, gmacs=cost.gmacs, weights=file, complete=complete)
        fine_tuned, samples = None if tuned is None else found[1].map50_95, found[-1].resampled
        row = replace(row, recovered=found[0].map50_95, fine_tuned=fine_tuned, samples=samples)
        pruner.folder.clear_scratch()  # what a training that is cut off goes on from
        return {"row": row.to_dict(), "widths": layer_widths(last.model)}


@dataclass(frozen=True)
class Cut(Result):
    """A criterion's channels, cut to the widths of an amount, recovered, and fine-tuned where the study says so."""

    criterion: str
    amount: Amount

    pattern = "{criterion}-{amount}-seed{seed}"

    def measure(self) -> Mapping[str, Any]:
        scored, widths = Scores(self.study, self.seed, self.criterion), WidthChoice(self.study, self.seed, self.amount)
        scores, chosen, scoring = scored.scores(), widths.read(), float(scored.read()["seconds"])
        model, settings = self._model(), self.study.config.prune
        pruner = self._pruner(prune={**asdict(settings), "criterion": self.criterion, "options": {}})
        images = torch.empty(0) if settings.recover == "none" else self._images(model)
        start = time.perf_counter()
        graph = self._planner(model, self.criterion).with_scores(model.model, scores).graph
        plan = make_plan(graph, scores, chosen["widths"], criterion=self.criterion, reasons=chosen["reasons"])
        given = {"images": images, "seconds": settings.distill_seconds, "seed": self.seed}
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
class Control(Result):
    """The unpruned model: trained on as the cut ones are, where these are; as it is otherwise, for all seeds alike."""

    pattern = UNPRUNED + "-seed{seed}"

    def measure(self) -> Mapping[str, Any]:
        pruner = self._pruner(train=dict(self.study.config.fine_tune))  # training on from a model that was not cut
        model = self._model()
        start = time.perf_counter()
        tuned = pruner.train(model) if self.study.epochs else None
        row = Row(UNPRUNED, None, self.seed if self.study.epochs else None, seconds=time.perf_counter() - start)
        return self._measured(row, model, tuned, pruner)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, text)
