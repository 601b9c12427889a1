"""A candidate made and measured: planned for its own image size and precision, cut, recovered, validated."""

import copy
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.axes.candidates import IMGSZ, PRECISION, Candidate, candidate_sides
from depgraph_hsic_only.budget.reachable import AlreadyMet, OutOfReach
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.widths import Scores
from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.data.images import load_images
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, INT8, PRECISIONS, Deployment
from depgraph_hsic_only.evaluation.relative_latency import relative_latency
from depgraph_hsic_only.evaluation.validation import Validation, validate_file, validate_model
from depgraph_hsic_only.pruning.api import cut_in_place
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import float64_device
from depgraph_hsic_only.yolo.input_shape import rounded_up
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_FITTED, _HELD = 128, 256  # training images that candidates are fitted to, and that they are measured on, at most
_TIMED = 5  # widths that are timed for a latency, which is met more closely once the candidate is chosen
_GAIN = 0.9  # share of the time of float below which a precision is worth candidates of its own


@dataclass(frozen=True, eq=False)
class Subject:
    """What candidates are made of, and how.

    Attributes:
        planner: Of the run, for images of its own side.
        model: The unpruned `YOLO`, on the device to measure on; it is left as it is.
        scores: Of its channels.
        sensitivity: Of its widths, measured on images of the planner's side: it ranks them at any.
        method: Of the recovery (see `recover.METHODS`).
    """

    planner: Planner
    model: Yolo
    scores: Scores
    sensitivity: Sensitivity
    method: str


@dataclass(frozen=True)
class Judge:
    """What candidates are measured on: training images that none of them is fitted to.

    Attributes:
        dataset: The data set, whose validation images nobody looks at.
        validation: As the run's, of any side.
        device: To measure on.
        workers: Data loading processes.
    """

    dataset: Dataset
    validation: Validation
    device: object
    workers: int

    @cached_property
    def parts(self) -> tuple[Dataset, list[Path]]:
        """The training images that candidates are fitted to, and those that they are measured on."""
        return self.dataset.parted(_FITTED, _HELD)


@dataclass(frozen=True, eq=False)
class Trials:
    """Makes and measures candidates; models of another precision than float are kept in a folder."""

    subject: Subject
    judge: Judge
    folder: Path  # which is there

    @cached_property
    def data(self) -> str:
        """What Ultralytics takes as `data`, whose validation images are the judge's."""
        return self.judge.dataset.write_keys_of(self.judge.parts[1], self.folder)

    @cached_property
    def _fixed(self) -> Planner:
        """The run's planner with what its budgets are of measured once for all candidates of other sizes."""
        return self.subject.planner.fixed(self.subject.model.model)

    def planner(self, imgsz: int, precision: str) -> Planner:
        """What plans the candidate for images of a side and a precision."""
        own, network = self.subject.planner, self.subject.model.model
        is_own = (imgsz, precision) == (own.imgsz, own.deployment(network).precision)
        return replace(own if is_own else self._fixed.on(network, imgsz, precision), trials=_TIMED)

    def first(self, sides: Sequence[int], precision: str) -> int:
        """The largest of some ascending sides for which nothing need be cut by multiply-adds or latency.

        It is the last one where no budget is of these, and the first one where no side is small enough.
        """
        network = self.subject.model.model

        def too_large(side: int) -> bool:
            return not self.planner(side, precision).is_met_unpruned(network)

        return sides[bisect_left(sides[1:], True, key=too_large)]  # the first one is the last resort

    def images(self, imgsz: int) -> torch.Tensor:
        """The images that candidates are fitted to, (n, c, imgsz, imgsz), float in [0, 1]."""
        fitted = self.judge.parts[0]
        return load_images(fitted.images("train"), imgsz, channels=fitted.channels)

    def attempt(self, imgsz: int, precision: str) -> Candidate:
        """A candidate for images of a side and a precision; its score is that of the model in float."""
        start, subject = time.perf_counter(), self.subject
        network = subject.model.model
        planner = self.planner(imgsz, precision)
        scored = planner.with_scores(network, subject.scores)
        try:
            plan = planner.plan(scored, subject.sensitivity)
        except OutOfReach as error:
            say(f"{imgsz} px, {precision}: {error}")
            return Candidate(imgsz, precision, why=str(error), seconds=time.perf_counter() - start)
        model, original = copy.deepcopy(subject.model), self._at_work(network)
        given = {"images": self.images(imgsz), "mosaics": 0, "seed": planner.seed}
        cut_in_place(model, original, plan, None, subject.method, **given)
        model.model.to(next(network.parameters()).device)
        if precision != FLOAT:
            model.save(self._file(imgsz, precision))
        judge, cost = self.judge, measure_cost(model.model, imgsz)
        of: Any = {"device": judge.device, "workers": judge.workers}
        score = validate_model(model, self.data, replace(judge.validation, imgsz=imgsz), **of).primary.map50_95
        spent = time.perf_counter() - start
        found = Candidate(
            imgsz, precision, cost.parameters, cost.gmacs, score, cut=not plan.cuts_nothing, seconds=spent
        )
        say(str(found))
        return found

    def confirm(self, candidate: Candidate) -> Candidate:
        """The candidate with what its file loses by its precision, against that in float."""
        start, path = time.perf_counter(), self._file(*candidate.key)
        if not path.is_file():
            self.attempt(*candidate.key)
        model, images = load_model(path), self.judge.parts[0].images("train")
        deployment = self.planner(*candidate.key).deployment(model.model)
        of: Any = {"task": task_of(model.model).name, "single_cls": self.judge.validation.single_cls}
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for precision in (FLOAT, candidate.precision):
                file = replace(deployment, precision=precision).write(model.model, Path(folder), images)
                found.append(validate_file(file, self.data, deployment.shape, **of).primary.map50_95)
        lost, seconds = found[0] - found[1], candidate.seconds + time.perf_counter() - start
        known = replace(candidate, score=(candidate.score or 0.0) - lost, lost=lost, seconds=seconds)
        say(f"{known}, of which {candidate.precision} has lost {lost:.4f}")
        return known

    def _at_work(self, network: Network) -> Network:
        """A copy of a network on the device that re-fits it."""
        return copy.deepcopy(network).to(float64_device(self.judge.device))

    def _file(self, imgsz: int, precision: str) -> Path:
        return self.folder / f"{imgsz}-{precision}.pt"


def sides_of(planner: Planner, network: Network, axes: Sequence[str]) -> list[int]:
    """Sides of the images of the candidates, pixels, ascending up to the planner's own."""
    return candidate_sides(planner.imgsz, rounded_up(network, 1)) if IMGSZ in axes else [planner.imgsz]


def check_axes(planner: Planner, network: Network, axes: Sequence[str]) -> None:
    """As `Planner.check`, of what can be met by other axes than width too; only the smallest images are tried.

    Of the precisions all that may help are.
    """
    try:
        planner.check(network)
    except OutOfReach as missed:
        error = missed
    else:
        return
    helping = _helping(planner, network) if PRECISION in axes else {}
    for precision in (None, *helping):
        smaller = planner.on(network, sides_of(planner, network, axes)[0], precision)
        if smaller is planner:
            continue
        try:
            smaller.check(network)
        except OutOfReach as missed:
            error = missed
        except AlreadyMet:
            return
        else:
            return
    raise error


def worthwhile_precisions(planner: Planner, network: Network) -> list[str]:
    """The precisions that may help to meet a planner's target, the fastest first, and float.

    Of a latency they are those that are faster here, of the size of a file int8; nothing else depends on them.
    """
    helping = _helping(planner, network)
    if not planner.amount.budget("latency"):
        return [*helping, FLOAT]
    here, found, sized = planner.deployment(network), {FLOAT: 1.0}, planner.amount.budget("size")
    graph = planner.with_scores(network).graph
    for precision, of in helping.items():
        share = relative_latency(network, graph, of, here)(graph.full).high
        if share < _GAIN or (sized and precision == INT8):
            found[precision] = share
        else:
            say(f"{precision} is not tried, since it takes up to {share:.2f} of the time of float here")
    return sorted(found, key=lambda precision: found[precision])


def _helping(planner: Planner, network: Network) -> dict[str, Deployment]:
    """The precisions other than float that may help to meet a planner's target and run here, and how each is deployed.

    Of a latency that is any, of the size of a file int8.
    """
    here, device, found = planner.deployment(network), next(network.parameters()).device, {}
    timed, sized = planner.amount.budget("latency"), planner.amount.budget("size")
    for precision in [p for p in PRECISIONS if p != FLOAT] if timed else [INT8] if sized else []:
        of = replace(here, precision=precision)
        try:
            of.on(device)
        except ConfigError as error:
            say(f"{precision} is not tried: {error}")
            continue
        found[precision] = of
    return found
