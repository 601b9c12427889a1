"""What is cut, decided in one place: for a notebook, a run, a dry run, a comparison and the benchmarks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch

from depgraph_hsic_only.budget.allocation import TRIALS, allocate
from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.reachable import Clock, Scale, check_target, not_measured, taken, unpruned_cost
from depgraph_hsic_only.budget.sensitivity import Sensitivity, measure_sensitivity
from depgraph_hsic_only.channels.amount import NOTHING, Amount
from depgraph_hsic_only.channels.groups import ChannelGraph, check_layers, choose_layers, chosen_widths, trace_channels
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.plan import PruningPlan, make_plan, selection_stability
from depgraph_hsic_only.channels.widths import Scores, threshold_widths, uniform_widths
from depgraph_hsic_only.criteria.registry import Batches, Criterion, Measured, create_criterion, option_names
from depgraph_hsic_only.errors import ConfigError, DataError
from depgraph_hsic_only.evaluation.deployed.deployment import INT8, Deployment
from depgraph_hsic_only.evaluation.file_size import FileKind, file_sizes
from depgraph_hsic_only.evaluation.relative_latency import relative_latency
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.types import Network


@dataclass(frozen=True, eq=False)
class Scored:
    """A network's channel groups, what they cost, and how much each channel matters."""

    network: Network  # it is not changed, and must not be while the latency of its widths is measured
    graph: ChannelGraph
    costs: CostModel  # its parameters and multiply-adds as functions of the widths
    measured: Measured  # the scores

    def stability(self, plan: PruningPlan) -> float | None:
        """How well two halves of the images agree on a plan: see `channels.plan.selection_stability`."""
        return selection_stability(plan, self.measured.halves)


@dataclass(frozen=True)
class Planner:
    """Scores channels, measures what widths cost, and plans the cut; networks are left as they are.

    Attributes:
        criterion: Name of the registered criterion that ranks the channels.
        amount: How much is cut.
        limits: Bounds of the widths.
        layers: "backbone", "all", or a list (see `groups.choose_layers`).
        options: Options of the criterion.
        seed: Of every random choice, the criterion's too where it has a seed that `options` don't set.
        imgsz: Side of the square image that multiply-adds are of, pixels.
        timed: What a target of latency is measured on, and how; None for one image of that side (see `Deployment`).
        file: What a target of size is of, for the same images.
        unpruned: What shares of latency are of; None for the unpruned network as `timed` is.
        trials: How many widths are timed for a target of latency, at least 1; more if none of them meets it.
        depth: Whether a target may leave out repeats of the layers too; a ratio or threshold cuts channels alone.
    """

    criterion: str
    amount: Amount = NOTHING
    limits: Limits = field(default_factory=Limits)
    layers: object = "backbone"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    imgsz: int = 640
    timed: Deployment | None = None
    file: FileKind = field(default_factory=FileKind)
    unpruned: Deployment | None = None
    trials: int = TRIALS
    depth: bool = False

    def __post_init__(self) -> None:
        check_layers(self.layers)
        create_criterion(self.criterion, **self.options)

    @property
    def scorer(self) -> Criterion:
        """The criterion, with its options."""
        seed = {"seed": self.seed} if "seed" in option_names(self.criterion) else {}
        return create_criterion(self.criterion, **{**seed, **self.options})

    def fixed(self, network: Network) -> "Planner":
        """The same with absolute budgets, of what the unpruned network costs here; those of latency stay as they are.

        For one of size the network is exported, unless it is absolute already.
        """
        amount = self.amount
        if amount.budget("gmacs") is not None:
            amount = amount.fixed("gmacs", measure_cost(network, self.imgsz).gmacs)
        if (size := amount.budget("size")) is not None and not size.absolute:
            amount = amount.fixed("size", self.file.weigh(network, self.deployment(network).shape))
        return replace(self, amount=amount)

    def on(self, network: Network, imgsz: int, precision: str | None = None) -> "Planner":
        """The same for images of another side, and for a file of another precision.

        All budgets stay what they are here, of the unpruned network on images of this planner's side.

        Args:
            network: The unpruned network.
            imgsz: Side of the square image, pixels, a multiple of the network's stride.
            precision: One of `deployment.PRECISIONS`; None for that of what is timed here.
        """
        here = self.deployment(network)
        precision = precision or here.precision
        if (imgsz, precision) == (self.imgsz, here.precision):
            return self
        timed = replace(here, shape=here.shape.scaled(network, imgsz / self.imgsz), precision=precision)
        file = replace(self.file, int8=self.file.int8 or precision == INT8)
        fixed = self.fixed(network)
        return replace(fixed, imgsz=imgsz, timed=timed, file=file, unpruned=self.unpruned or here)

    def is_met_unpruned(self, network: Network) -> bool:
        """Whether the unpruned network meets the budgets that smaller images help to: multiply-adds and latency.

        That is on images of this planner's side; its latency is measured.
        """
        macs, timed = self.amount.budget("gmacs"), self.amount.budget("latency")
        if macs is not None and (full := measure_cost(network, self.imgsz).gmacs) > macs.limit(full):
            return False
        if timed is None:
            return True
        graph = self.with_scores(network, {}).graph
        clock = relative_latency(network, graph, self.deployment(network), self.unpruned)
        return taken(timed, clock(graph.full))[0] <= timed.value

    def needs_images(self, recovered: bool) -> bool:
        """Whether images are read for the cut, or for its recovery where it is `recovered`."""
        return not self.amount.is_nothing and (self.scorer.needs_batches or self.amount.is_target or recovered)

    def check(self, network: Network) -> None:
        """Refuse, before anything is scored, layers that it doesn't have and a target that it can't or does meet.

        For a target of latency the smallest model is timed on the network's device, some ten seconds for a nano model;
        for one of size it and the unpruned one are exported.

        Raises:
            ConfigError: There are no such layers or widths, or none that is cut so, or the target is out of reach or
                met already.
        """
        layers = choose_layers(network, self.layers)
        there = chosen_widths(network, layers, self.depth)
        self.limits.check_names((layer, width.name) for layer, width in there)
        free = [width for _, width in there if width.tie is None]
        if not (self.amount.is_nothing or self.amount.is_target or any(w.makers and not w.bins for w in free)):
            raise ConfigError(
                f"layers: expected some with a width that a {self.amount.kind} cuts, got {list(layers)}; add others"
            )
        if self.amount.is_target and not self.amount.is_nothing:
            graph = trace_channels(network, self.layers, self.depth)
            given = graph, CostModel(network, graph, self.imgsz), self.amount, self.limits
            where = str(self.deployment(network).on(next(network.parameters()).device))
            check_target(*given, *self._measuring(network, graph), where, f"at {self.imgsz} px")

    def check_images(self, network: Network, images: int) -> None:
        """Refuse, before any is read, so few images that the criterion can't rank the network's channels by them.

        Raises:
            DataError: There are too few.
        """
        if not self.amount.is_nothing:
            self.scorer.check_images(
                lambda: trace_channels(network, self.layers, self.depth).ranked, images, self.imgsz
            )

    def _measuring(self, network: Network, graph: ChannelGraph) -> tuple[Clock, Scale]:
        """What measures the latency and the file of an unpruned network's widths, where the target is of it."""
        deployment = self.deployment(network)
        timed, sized = self.amount.budget("latency"), self.amount.budget("size")
        clock = relative_latency(network, graph, deployment, self.unpruned) if timed else not_measured
        return clock, file_sizes(network, graph, deployment.shape, self.file) if sized else not_measured

    def deployment(self, network: Network) -> Deployment:
        """What is timed of a network, and how."""
        return self.timed or Deployment(InputShape.of(network, self.imgsz))

    def score(self, network: Network, batches: Batches | None = None) -> Scored:
        """Find the channel groups of a checked network, and rank their channels by `batches`, where it takes any."""
        graph = trace_channels(network, self.layers, self.depth)
        return Scored(network, graph, CostModel(network, graph, self.imgsz), self.scorer.measure(graph.ranked, batches))

    def ranked(self, network: Network, batches: Batches | None = None) -> Scored:
        """As `score`, for the cut: where the amount is nothing, no channel is ranked."""
        return self.with_scores(network, {}) if self.amount.is_nothing else self.score(network, batches)

    def again(self, scored: Scored) -> Scored:
        """The same network and scores, for this planner's images; its channel groups may have been used up."""
        return replace(self.with_scores(scored.network, scored.measured.scores), measured=scored.measured)

    def with_scores(self, network: Network, scores: Scores | None = None) -> Scored:
        """As `score`, with scores that are known; None for all channels alike, where only the widths are wanted.

        There need be none of the groups that are not cut: {} for an amount that is nothing.
        """
        graph = trace_channels(network, self.layers, self.depth)
        known = {group.name: torch.zeros(group.channels) for group in graph.groups} if scores is None else dict(scores)
        return Scored(network, graph, CostModel(network, graph, self.imgsz), Measured(known))

    def sensitivity(self, scored: Scored, images: torch.Tensor, *, quick: bool = False) -> Sensitivity:
        """Measure how much each width of the unpruned network hurts: what a target is met by.

        The images are (n, c, h, w), float in [0, 1] or uint8, letterboxed as in validation. `quick`: one size for each
        width instead of three.
        """
        subject = scored.network, scored.graph, scored.measured.scores
        return measure_sensitivity(*subject, images, limits=self.limits, quick=quick, seed=self.seed)

    def plan(
        self,
        scored: Scored,
        sensitivity: Sensitivity | None = None,
        share: Fraction = Fraction(1),
        unpruned: Scored | None = None,
    ) -> PruningPlan:
        """Choose the widths, then the channels.

        Args:
            scored: The network that is cut.
            sensitivity: What the widths of the network that is cut do, or those of the unpruned one, for a target.
            share: Of the way from the unpruned network to the amount.
            unpruned: The unpruned network, whose widths the amount is of; None for the one that is cut.
        """
        scores, whole = scored.measured.scores, unpruned or scored
        measuring = self._measuring(whole.network, whole.graph)
        amount = self.amount.partly(share, lambda m: unpruned_cost(whole.graph, whole.costs, m, *measuring))
        unranked = (w for w in scored.graph.widths if w.is_repeats or w.bins)
        stay = {w.name: f"{'bins' if w.bins else 'repeats'} are cut for a target alone" for w in unranked}
        if amount.kind == "ratio":
            widths = uniform_widths(whole.graph, amount.value, self.limits)
            reasons = dict.fromkeys(widths, f"uniform, ratio {amount.value:g}") | stay
        elif amount.kind == "threshold":
            widths = threshold_widths(scored.graph, scores, amount.value, self.limits)
            reasons = dict.fromkeys(widths, f"scores of at least {amount.value:g}") | stay
        elif amount.is_nothing:
            widths = scored.graph.full
            reasons = dict.fromkeys(widths, f"{amount}: nothing is cut")
        elif sensitivity is None:
            raise DataError(f"target: expected the sensitivity of the widths for {amount}, got none; measure it first")
        else:
            given = whole.graph, sensitivity, whole.costs, amount, self.limits
            found = allocate(*given, scored.graph.full, *measuring, trials=self.trials)
            widths, reasons = found.widths, dict(found.reasons)
        widths = {name: widths[name] for name in scored.graph.full}  # without those of blocks that are gone already
        return make_plan(scored.graph, scores, widths, criterion=self.criterion, reasons=reasons)
