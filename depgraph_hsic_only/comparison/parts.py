"""The parts of a comparison: each is measured once, on its own, and leaves one small JSON file.

Scores of a criterion, the damage of the widths, the widths of an amount; of what is a row in the end `results.py`. A
part reads the files of those that it needs, so that any process that sees the folder can do it.
"""

import abc
import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import NOTHING, Amount
from depgraph_hsic_only.comparison.study import REFERENCE, Study
from depgraph_hsic_only.data.dataset import Dataset, find_dataset, labelled_batches
from depgraph_hsic_only.errors import ComparisonError, PruningError, one_line
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.support.files import write_text_atomically
from depgraph_hsic_only.workflow.fit import single_cls
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Yolo


@dataclass(frozen=True)
class Part(abc.ABC):
    """One part, which can be sent to another process."""

    study: Study
    seed: int  # of its random choices

    pattern: ClassVar[str]  # of its name, which the part fills in
    local: ClassVar[bool] = False  # whether it belongs into the process that asks for it

    @abc.abstractmethod
    def measure(self) -> Mapping[str, Any]:
        """Do it; what comes back is written."""

    @property
    def name(self) -> str:
        """Its name, which is that of its file."""
        return self.pattern.format(self)

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

    def _drawn(self, model: Yolo) -> Dataset:
        """The data set with the calibration images that the seed draws from the training split."""
        config = self.study.config
        dataset, count = find_dataset(config.data, task_of(model.model).name), config.calibration["images"]
        files = dataset.images("train")
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(self.seed)).tolist()
        chosen = [files[k] for k in sorted(order[:count])]
        _write(self.file.with_name(f"images-seed{self.seed}.txt"), "\n".join(map(str, chosen)))
        return dataset.with_training_images(chosen)

    def _batches(self, model: Yolo, imgsz: int) -> list[dict[str, Any]]:
        """The calibration images with labels, letterboxed as in validation to squares of a side in pixels."""
        config = self.study.config
        count, single = config.calibration["images"], single_cls(model, config)
        given: dict[str, Any] = {"images": count, "imgsz": imgsz, "batch": min(config.batch, count)}
        return list(labelled_batches(self._drawn(model), **given, single_cls=single))

    def _images(self, model: Yolo, imgsz: int) -> torch.Tensor:
        return torch.cat([batch["img"] for batch in self._batches(model, imgsz)])


@dataclass(frozen=True)
class Scores(Part):
    """The scores of a criterion, for all amounts."""

    criterion: str

    pattern = "scores-{0.criterion}-seed{0.seed}"

    def measure(self) -> Mapping[str, Any]:
        """Seconds, and a score for each channel of each group."""
        model = self._model()
        planner = self._planner(model, self.criterion)
        start = time.perf_counter()
        batches = self._batches(model, planner.imgsz) if planner.scorer.needs_batches else None
        scored = planner.score(model.model, batches)
        seconds, scores = time.perf_counter() - start, scored.measured.scores
        return {"seconds": seconds, "scores": {name: score.double().tolist() for name, score in scores.items()}}

    def scores(self) -> dict[str, torch.Tensor]:
        """What it has measured, by channel group."""
        return {name: torch.tensor(score, dtype=torch.float64) for name, score in self.read()["scores"].items()}


@dataclass(frozen=True)
class Scan(Part):
    """The damage of each width, with the channels of the reference criterion: widths are chosen by it for all."""

    pattern = "sensitivity-seed{0.seed}"

    def measure(self) -> Mapping[str, Any]:
        """The damage: see `sensitivity.Sensitivity`."""
        model, scores = self._model(), Scores(self.study, self.seed, REFERENCE).scores()
        planner = self._planner(model, REFERENCE)
        images = self._images(model, planner.imgsz)
        return planner.sensitivity(planner.with_scores(model.model, scores), images).to_dict()


@dataclass(frozen=True)
class WidthChoice(Part):
    """The widths of an amount: uniform for a ratio, by their damage for a target."""

    amount: Amount

    pattern = "widths-{0.amount}-seed{0.seed}"
    local = True  # latency is measured where the results' is, in the end

    def measure(self) -> Mapping[str, Any]:
        """All widths, and why each was chosen."""
        model = self._model()
        planner = self._planner(model, REFERENCE, self.amount)
        damage = Sensitivity.from_dict(Scan(self.study, self.seed).read()) if self.amount.is_target else None
        plan = planner.plan(planner.with_scores(model.model), damage)
        return {"widths": plan.after, "reasons": {width.name: width.reason for width in plan.widths}}


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, text)
