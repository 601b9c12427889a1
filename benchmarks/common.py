"""What the benchmarks share: arguments, calibration images drawn by a seed, cuts by name, and one measured row."""

import argparse
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from measure import Measured, measure
from ultralytics.cfg import smart_value

from depgraph_hsic_only import load_model, score_channels
from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.sensitivity import Sensitivity, measure_sensitivity
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.groups import ChannelGraph, trace_channels
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.plan import PruningPlan, make_plan
from depgraph_hsic_only.channels.widths import follow_ties, uniform_widths
from depgraph_hsic_only.data.calibration import calibration_images, in_batches
from depgraph_hsic_only.data.dataset import Dataset, find_dataset, labelled_batches
from depgraph_hsic_only.evaluation.validation import Validation
from depgraph_hsic_only.pruning.api import apply_plan
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.recovery.recover import recover

DEEP = {"h8": 64, "h6": 48, "w7": 192, "w6": 96, "w5": 64}


def arguments(description: str | None, *, images: int = 256) -> argparse.ArgumentParser:
    """The parser of a benchmark on a checkpoint and a data set; what all have in common is `Bench.of`'s."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("data")
    parser.add_argument("--layers", default="backbone")
    parser.add_argument("--depth", action="store_true", help="a target may leave out repeats of layers too")
    parser.add_argument("--images", type=int, default=images, help="for calibration")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    return parser


@dataclass(frozen=True, eq=False)
class Row:
    """A cut model, recovered and validated.

    Attributes:
        parameters: Share of the unpruned model's.
        gmacs: Share of the unpruned model's.
        seconds: Time that the recovery took.
        measured: Its validation.
        divergence: Of its predictions from the unpruned model's, on the calibration images.
    """

    parameters: float
    gmacs: float
    seconds: float
    measured: Measured
    divergence: float


class Bench:
    """One checkpoint, one data set, one set of calibration images: everything that two rows have in common.

    Args:
        weights: The checkpoint.
        data: The data set's YAML; calibration images come from its training split, mAP from its validation split.
        imgsz: Side of the images, pixels.
        images: Calibration images, drawn by `seed`.
        layers: What may be cut.
        depth: Whether a target may leave out repeats too.
        seed: Of every random choice.
    """

    def __init__(
        self, weights: str, data: str, *, imgsz: int, images: int, layers: str, depth: bool = False, seed: int = 0
    ) -> None:
        self.weights, self.imgsz, self.layers, self.depth, self.seed = weights, imgsz, layers, depth, seed
        self.original: Any = load_model(weights)
        self.dataset: Dataset = find_dataset(data, self.original.task)
        self.graph: ChannelGraph = trace_channels(self.original.model, layers, depth)
        files = self.dataset.images("train")
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
        self._drawn = self.dataset.with_training_images(files[k] for k in order[:images])
        self.images = self._read(images)
        self.seconds: dict[str, float] = {}  # by what they were spent on
        self._scores: dict[str, dict[str, torch.Tensor]] = {}
        self._damage: dict[str, Sensitivity] = {}

    @classmethod
    def of(cls, args: argparse.Namespace, *, seed: int | None = None) -> "Bench":
        """As the arguments say (see `arguments`), or with another seed."""
        seed = args.seed if seed is None else seed
        given = {"imgsz": args.imgsz, "images": args.images, "layers": args.layers, "depth": args.depth}
        return cls(args.weights, args.data, **given, seed=seed)

    def _read(self, count: int) -> torch.Tensor:
        return calibration_images(self._drawn.images("train"), self.original.model, imgsz=self.imgsz, limit=count)

    def scores(self, variant: str) -> dict[str, torch.Tensor]:
        """Scores by a criterion with options, "hsic_lasso:gamma=0.5:images=50", measured once, by default on all."""
        if variant not in self._scores:
            criterion, *pairs = variant.split(":")
            options = {key: smart_value(value) for key, _, value in (pair.partition("=") for pair in pairs)}
            count = options.pop("images", len(self.images))
            if criterion in ("hsic_lasso", "reconstruction", "random"):
                options.setdefault("seed", self.seed)
            batches: Any = in_batches(self._read(count), 10)
            if criterion == "taylor":
                batches = labelled_batches(self._drawn, images=count, imgsz=self.imgsz, batch=10)
            start = time.perf_counter()
            self._scores[variant] = score_channels(
                self.original, criterion, layers=self.layers, batches=batches, **options
            )
            self.seconds[f"scores by {variant}"] = time.perf_counter() - start
        return self._scores[variant]

    def damage(self, criterion: str) -> Sensitivity:
        """The sensitivity of all widths with the criterion's channels, measured once."""
        if criterion not in self._damage:
            self._damage[criterion] = measure_sensitivity(
                self.original.model, self.graph, self.scores(criterion), self.images, limits=Limits(), seed=self.seed
            )
            self.seconds[f"scan with {criterion}"] = self._damage[criterion].seconds
        return self._damage[criterion]

    def share(self, widths: dict[str, int], metric: str) -> float:
        """What widths cost, as a share of the unpruned model."""
        costs = CostModel(self.original.model, self.graph, self.imgsz)
        count = costs.parameters if metric == "params" else costs.gmacs
        return count(widths) / count(self.graph.full)

    def widths(self, cut: str, criterion: str) -> dict[str, int]:
        """Widths of a cut by its name: "0.25" uniform, "params=0.8" or "gmacs=0.8" allocated, or "deep"."""
        if cut == "deep":
            return follow_ties(self.graph, self.graph.full | DEEP)
        if "=" not in cut:
            return uniform_widths(self.graph, float(cut))
        given: dict[str, Any] = {"layers": self.layers, "imgsz": self.imgsz, "depth": self.depth}
        planner = Planner(criterion.partition(":")[0], Amount.target(cut), **given)
        scored = planner.with_scores(self.original.model, self.scores(criterion))
        return planner.plan(scored, self.damage(criterion)).after

    def plan(self, widths: dict[str, int], criterion: str) -> PruningPlan:
        """The plan that keeps a criterion's best channels."""
        reasons = dict.fromkeys(widths, "benchmark")
        return make_plan(self.graph, self.scores(criterion), widths, criterion=criterion, reasons=reasons)

    def row(self, widths: dict[str, int], criterion: str, method: str = "least_squares") -> Row:
        """Cut, recover and validate."""
        model, plan = load_model(self.weights), self.plan(widths, criterion)
        apply_plan(model, plan)
        done = recover(model, self.original, plan, self.images, method=method, seed=self.seed)
        shares = self.share(widths, "params"), self.share(widths, "gmacs")
        return Row(*shares, done.seconds, self.validated(model), done.divergence[1])

    def validated(self, model: Any) -> Measured:
        """mAP of a live `YOLO` on the validation split."""
        return measure(model, self.dataset.source or "", Validation(self.imgsz, 16))
