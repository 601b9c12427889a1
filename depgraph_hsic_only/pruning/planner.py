"""What is cut in a run: how much each channel matters, and how wide each layer stays after each step."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from depgraph_hsic_only.budget.sensitivity import Sensitivity, measure_sensitivity
from depgraph_hsic_only.channels.amount import Target
from depgraph_hsic_only.channels.groups import ChannelGraph, trace_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.channels.widths import make_plan, plan_cut
from depgraph_hsic_only.criteria import create_criterion
from depgraph_hsic_only.criteria.registry import Measured, option_names
from depgraph_hsic_only.data.dataset import Dataset, labelled_batches
from depgraph_hsic_only.pruning.api import widths_for
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.workflow.recorder import fingerprint, imgsz_of
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.yolo.device import select_device


@dataclass(frozen=True, eq=False)
class Scored:
    """A model's channel groups, their scores, and the calibration images they were measured on.

    Attributes:
        graph: The channel groups.
        measured: Their scores.
        batches: The images with their labels, as Ultralytics' batches; empty where nothing needs them.
    """

    graph: ChannelGraph
    measured: Measured
    batches: Sequence[Mapping[str, Any]]

    @property
    def images(self) -> torch.Tensor:
        """The images, (n, 3, h, w), float in [0, 1]."""
        return torch.cat([batch["img"] for batch in self.batches])


class Planner:
    """Plans the cuts of one run.

    Args:
        config: The run's configuration.
        dataset: Whose training images the scores are measured on.
        folder: Where the sensitivity of the widths is kept.
        note: Told of what a reader of the report must know.
    """

    def __init__(self, config: Config, dataset: Dataset, folder: RunFolder, note: Callable[[str], None]) -> None:
        self._config, self._dataset, self._folder, self._note = config, dataset, folder, note

    def scored(self, model: Any) -> Scored:
        """The channel groups of a model, and how much each channel matters."""
        settings = self._config.prune
        options = dict(settings.options)
        if "seed" in option_names(settings.criterion):
            options.setdefault("seed", self._config.seed)
        criterion = create_criterion(settings.criterion, **options)
        graph = trace_channels(model.model, settings.layers)
        needed = criterion.needs_batches or settings.recover != "none" or settings.target is not None
        batches = self._calibration(model) if needed else []
        return Scored(graph, criterion.measure(graph, batches), batches)

    def started(self, model: Any, unpruned: Scored) -> Callable[[Scored, Fraction], PruningPlan]:
        """A function that plans the cut of what was scored, for a share of the way from the unpruned model.

        Args:
            model: The unpruned model.
            unpruned: Its scores.
        """
        settings = self._config.prune
        if settings.target is None:

            def by_amount(scored: Scored, done: Fraction) -> PruningPlan:
                return plan_cut(
                    scored.graph,
                    scored.measured.scores,
                    ratio=None if settings.threshold is not None else float(Fraction(str(settings.ratio or 0)) * done),
                    threshold=settings.threshold,
                    limits=settings.limits,
                    criterion=settings.criterion,
                    unpruned=unpruned.graph,
                )

            return by_amount

        target, imgsz = Target.parse(settings.target), imgsz_of(model, self._config)
        device = select_device(self._config.device)  # whose latency a target may be of
        network = copy.deepcopy(model.model).to(device)
        damage = self._sensitivity(network, unpruned)

        def by_target(scored: Scored, done: Fraction) -> PruningPlan:
            now = {width.name: width.channels for width in scored.graph.widths}
            part = target.partly(float(done))
            found = widths_for(network, unpruned.graph, damage, part, settings.limits, imgsz, start=now)
            scores = scored.measured.scores
            return make_plan(scored.graph, scores, found.widths, criterion=settings.criterion, reasons=found.reasons)

        return by_target

    def _sensitivity(self, network: Any, scored: Scored) -> Sensitivity:
        """How much each width hurts: from the run folder where it was measured before on the same, else measured."""
        images, limits, seed = scored.images, self._config.prune.limits, self._config.seed
        key = fingerprint(network, list(scored.measured.scores.values()), [images], repr(limits))
        path = self._folder.path / "sensitivity.json"
        if path.is_file() and (found := json.loads(path.read_text(encoding="utf-8"))).get("key") == key:
            self._note("sensitivity of the widths: taken from the run folder, where it was measured on the same")
            return Sensitivity.from_dict(found)
        damage = measure_sensitivity(network, scored.graph, scored.measured.scores, images, limits=limits, seed=seed)
        self._folder.write_json("sensitivity.json", {"key": key, **damage.to_dict()})
        self._note(f"sensitivity of the widths: measured on {damage.images} images in {damage.seconds:.0f} s")
        return damage

    def _calibration(self, model: Any) -> list[dict[str, Any]]:
        """Training images with their labels, letterboxed as in validation."""
        images, imgsz = self._config.calibration["images"], imgsz_of(model, self._config)
        return list(labelled_batches(self._dataset, images=images, imgsz=imgsz, batch=min(self._config.batch, images)))
