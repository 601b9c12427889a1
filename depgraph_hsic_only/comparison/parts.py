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
from functools import partial
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.budget.sensitivity import Sensitivity, measure_sensitivity
from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.channels.widths import make_plan, uniform_widths
from depgraph_hsic_only.comparison.study import REFERENCE, UNPRUNED, Amount, Study
from depgraph_hsic_only.comparison.table import Row
from depgraph_hsic_only.criteria import create_criterion
from depgraph_hsic_only.criteria.registry import option_names
from depgraph_hsic_only.data.dataset import find_dataset, labelled_batches
from depgraph_hsic_only.errors import ComparisonError, PruningError, one_line
from depgraph_hsic_only.evaluation.bootstrap import DRAWS
from depgraph_hsic_only.evaluation.validation import Metrics, Validation, validate_model
from depgraph_hsic_only.pruning.api import apply_plan, widths_for
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.workflow.default import DefaultYolov8SegPruner
from depgraph_hsic_only.workflow.recorder import FILES, imgsz_of
from depgraph_hsic_only.yolo.architecture import layer_widths
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.load import load_model


@dataclass(frozen=True)
class Part(abc.ABC):
    """One part, which can be sent to another process.

    Attributes:
        study: What it is a part of.
        seed: Of its random choices.
    """

    study: Study
    seed: int

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Its name, which is that of its file."""

    @property
    def local(self) -> bool:
        """Whether it belongs into the process that asks for it."""
        return False

    @abc.abstractmethod
    def measure(self) -> Mapping[str, Any]:
        """Do it; what comes back is written."""

    @property
    def file(self) -> Path:
        """Its file, which is there when it is done."""
        return self.study.folder / "parts" / f"{self.name}.json"

    def read(self) -> dict[str, Any]:
        """What it has measured.

        Raises:
            ComparisonError: It has not been done.
        """
        if not self.file.is_file():
            raise ComparisonError(f"{self.name}, which it needs, has failed")
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found

    def attempt(self) -> str | None:
        """Do it and write its file.

        Returns:
            None, or what went wrong in one line; then the whole traceback is in the folder, under `errors`.
        """
        log = self.study.folder / "errors" / f"{self.name}.txt"
        log.unlink(missing_ok=True)
        try:
            text = json.dumps(self.measure(), allow_nan=False) + "\n"
        except Exception as error:  # whatever it is, the other parts go on
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc(), encoding="utf-8")
            kind = "" if isinstance(error, PruningError) else f"{type(error).__name__}: "
            return kind + one_line(error, 1000)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, partial(Path.write_text, data=text, encoding="utf-8"))
        return None

    def _model(self) -> Any:
        """The trained `YOLO`, on the device of the study."""
        model = load_model(self.study.trained)
        model.model.to(select_device(self.study.config.device))
        return model

    def _batches(self, model: Any) -> list[dict[str, Any]]:
        """Calibration images drawn by the seed from the training split, with labels, letterboxed as in validation."""
        config = self.study.config
        dataset, count = find_dataset(config.data), config.calibration["images"]
        files = dataset.images("train")
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(self.seed)).tolist()
        listing = self.study.folder / "parts" / f"images-seed{self.seed}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(str(files[k]) for k in sorted(order[:count]))
        write_atomically(listing, partial(Path.write_text, data=text, encoding="utf-8"))
        drawn = replace(dataset, keys={**dataset.keys, "train": str(listing)})
        return list(
            labelled_batches(drawn, images=count, imgsz=imgsz_of(model, config), batch=min(config.batch, count))
        )

    def _images(self, model: Any) -> torch.Tensor:
        return torch.cat([batch["img"] for batch in self._batches(model)])


@dataclass(frozen=True)
class Scores(Part):
    """The scores of a criterion, for all amounts."""

    criterion: str

    @property
    def name(self) -> str:
        """Its name."""
        return f"scores-{self.criterion}-seed{self.seed}"

    def measure(self) -> Mapping[str, Any]:
        """Seconds, and a score for each channel of each group."""
        model = self._model()
        options = {"seed": self.seed} if "seed" in option_names(self.criterion) else {}
        criterion = create_criterion(self.criterion, **options)
        graph = trace_channels(model.model, self.study.config.prune.layers)
        start = time.perf_counter()
        scores = criterion.score(graph, self._batches(model) if criterion.needs_batches else None)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "scores": {name: score.double().tolist() for name, score in scores.items()}}

    def scores(self) -> dict[str, torch.Tensor]:
        """What it has measured, by channel group."""
        return {name: torch.tensor(score, dtype=torch.float64) for name, score in self.read()["scores"].items()}


@dataclass(frozen=True)
class Scan(Part):
    """The damage of each width, with the channels of the reference criterion: widths are chosen by it for all."""

    @property
    def name(self) -> str:
        """Its name."""
        return f"sensitivity-seed{self.seed}"

    def measure(self) -> Mapping[str, Any]:
        """The damage: see `sensitivity.Sensitivity`."""
        model, settings = self._model(), self.study.config.prune
        graph, scores = trace_channels(model.model, settings.layers), Scores(self.study, self.seed, REFERENCE).scores()
        images, limits = self._images(model), settings.limits
        return measure_sensitivity(model.model, graph, scores, images, limits=limits, seed=self.seed).to_dict()


@dataclass(frozen=True)
class WidthChoice(Part):
    """The widths of an amount: uniform for a ratio, by their damage for a target."""

    amount: Amount

    @property
    def name(self) -> str:
        """Its name."""
        return f"widths-{self.amount}-seed{self.seed}"

    @property
    def local(self) -> bool:
        """Latency is measured where the results' is, in the end."""
        return True

    def measure(self) -> Mapping[str, Any]:
        """All widths, and why each free one was chosen."""
        model, config, target = self._model(), self.study.config, self.amount.target
        graph = trace_channels(model.model, config.prune.layers)
        if target is None:
            widths = uniform_widths(graph, self.amount.value, config.prune.limits)
            return {"widths": widths, "reasons": dict.fromkeys(widths, f"uniform, {self.amount}")}
        damage = Sensitivity.from_dict(Scan(self.study, self.seed).read())
        imgsz = imgsz_of(model, config)
        found = widths_for(model.model, graph, damage, target, config.prune.limits, imgsz)
        return {"widths": dict(found.widths), "reasons": dict(found.reasons)}


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

    def _measured(self, row: Row, recovered: Any, tuned: Any, pruner: DefaultYolov8SegPruner) -> dict[str, Any]:
        """The content of the file.

        Args:
            row: What is known of the row.
            recovered: The `YOLO` after the recovery.
            tuned: The same after the fine-tuning; None where there is none.
            pruner: Whose folder holds the result.
        """
        imgsz, last = imgsz_of(recovered, self.study.config), tuned or recovered
        cost, weights = measure_cost(last.model, imgsz), pruner.folder.save_model(FILES["fine_tuned"], last)
        found = self._validated(recovered, pruner)
        row = replace(row, recovered_map50_95_box=found.map50_95_box, recovered_map50_95_mask=found.map50_95_mask)
        complete = found.complete
        if tuned is not None:
            found = self._validated(tuned, pruner)
            row = replace(row, fine_tuned_map50_95_box=found.map50_95_box, fine_tuned_map50_95_mask=found.map50_95_mask)
        row = replace(
            row,
            parameters=cost.parameters,
            gmacs=cost.gmacs,
            weights=str(weights.relative_to(self.study.folder)),
            samples=found.resampled_mask,
            complete=complete and found.complete,
        )
        pruner.folder.clear_scratch()  # what a training that is cut off goes on from
        return {"row": asdict(row), "widths": layer_widths(last.model)}

    def _validated(self, model: Any, pruner: DefaultYolov8SegPruner) -> Metrics:
        """mAP as in `DefaultYolov8SegPruner.evaluate`, on samples of the images too."""
        config = self.study.config
        return validate_model(
            model,
            pruner.dataset.file(pruner.folder.path),
            Validation(imgsz_of(model, config), config.batch),
            device=config.device,
            workers=config.workers,
            draws=DRAWS,
        )


@dataclass(frozen=True)
class Cut(Result):
    """A criterion's channels, cut to the widths of an amount, recovered, and fine-tuned where the study says so."""

    criterion: str
    amount: Amount

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.criterion}-{self.amount}-seed{self.seed}"

    def measure(self) -> Mapping[str, Any]:
        """Its row, and the widths."""
        scored, chosen = Scores(self.study, self.seed, self.criterion), WidthChoice(self.study, self.seed, self.amount)
        scores, widths, scoring = scored.scores(), chosen.read(), float(scored.read()["seconds"])
        model, settings = self._model(), self.study.config.prune
        target = self.amount.target
        amount = {"ratio": self.amount.value} if target is None else {"target": {target.metric: target.share}}
        own = {"prune": {**asdict(settings), "criterion": self.criterion, "options": {}, **amount}}
        pruner = DefaultYolov8SegPruner(cfg=None, **self.study.settings(self.name, self.seed, **own))
        images = torch.empty(0) if settings.recover == "none" else self._images(model)
        start = time.perf_counter()
        graph = trace_channels(model.model, settings.layers)
        plan = make_plan(graph, scores, widths["widths"], criterion=self.criterion, reasons=widths["reasons"])
        limits = {"seconds": settings.distill_seconds, "seed": self.seed}
        apply_plan(model, plan, recovery=settings.recover, images=images, **limits)
        pruner.folder.write_json("plan.json", plan.to_dict())
        tuned = None
        if self.study.epochs:
            teacher = pruner.folder.save_model(FILES["trained"], load_model(self.study.trained))
            tuned = pruner.fine_tune(model)
            teacher.unlink()
        seconds = scoring + time.perf_counter() - start
        row = Row(self.criterion, str(self.amount), self.seed, seconds=seconds)
        return self._measured(row, model, tuned, pruner)


@dataclass(frozen=True)
class Control(Result):
    """The unpruned model: trained on as the cut ones are, where these are; as it is otherwise, for all seeds alike."""

    @property
    def name(self) -> str:
        """Its name."""
        return f"{UNPRUNED}-seed{self.seed}"

    def measure(self) -> Mapping[str, Any]:
        """Its row, and the widths."""
        same = {"train": dict(self.study.config.fine_tune)}  # training on from a model that was not cut
        pruner = DefaultYolov8SegPruner(cfg=None, **self.study.settings(self.name, self.seed, **same))
        model = self._model()
        start = time.perf_counter()
        tuned = pruner.train(model) if self.study.epochs else None
        row = Row(UNPRUNED, None, self.seed if self.study.epochs else None, seconds=time.perf_counter() - start)
        return self._measured(row, model, tuned, pruner)
