"""HSIC-Lasso pruning of an in-memory model, as in a notebook."""

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.channels.amount import NOTHING, Amount
from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.channels.limits import Limits, MaxRatio
from depgraph_hsic_only.criteria.hsic_lasso import HsicLasso
from depgraph_hsic_only.criteria.registry import option_names
from depgraph_hsic_only.data.calibration import FEW, calibration_images, in_batches
from depgraph_hsic_only.data.images import Images
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.hsic import LassoPath
from depgraph_hsic_only.pruning.api import cut_in_place
from depgraph_hsic_only.pruning.few_images import carried_plan, divergence_elsewhere
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.recovery.recover import check_method
from depgraph_hsic_only.recovery.samples import gather_samples
from depgraph_hsic_only.report.pruning_report import PruningReport
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.support.yaml import read_yaml
from depgraph_hsic_only.yolo.blocks import OUTPUT_MULTIPLE
from depgraph_hsic_only.yolo.input_shape import input_side
from depgraph_hsic_only.yolo.load import network_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_DEFAULT_THRESHOLD = 0.001


class HsicLassoPruner:
    """Prune by HSIC-Lasso scores: `HsicLassoPruner().prune(YOLO("yolov8n-seg.pt"))`.

    Args:
        threshold: The smallest score that stays, in [0, 1]; it means the same in every layer: the channels that
            HSIC-Lasso at λ = threshold · λ_max lets in. 0.001 where neither it nor a ratio or target is given; from
            fewer than 32 images only as much of that cut, then, as a re-fit on half of them carries over to the others
            (see `pruning.few_images`).
        ratio: Instead: the share of the channels to cut from each width, 0 ≤ ratio < 1.
        target: Instead: what may be left of the model, such as {"gmacs": 0.8} or "size=5MB" (see `plan_pruning`).
        images: Calibration images: a folder, a list of files, a tensor (n, c, h, w) in [0, 1], or a data set's YAML.
            None for the data set the checkpoint was trained on, where it is on this machine, else the two photographs
            that Ultralytics ships, with a warning: little can be cut from these.
        max_images: At most this many of them, evenly spaced.
        imgsz: Side of the square they are letterboxed to, pixels; None for the model's own.
        batch: Images that go through the network at a time.
        layers: "backbone" for layers 0–9, "all" for neck and prototypes too, or a list of layers.
        round_to: What block outputs are multiples of: 8, 16 or 32.
        min_channels: No width is cut below this many channels.
        max_ratio: Largest share that may be cut of every width, or by layer or width (see `limits.Limits`).
        recover: What brings the cut model back, from the same images: "least_squares", "bn" or "none" (see
            `recovery.recover`).
        options: Options of the criterion: see `criteria.hsic_lasso.HsicLasso`.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """

    def __init__(
        self,
        *,
        threshold: float | None = None,
        ratio: float | None = None,
        target: object = None,
        images: Images | None = None,
        max_images: int = 100,
        imgsz: int | None = None,
        batch: int = 8,
        layers: object = "backbone",
        round_to: int = OUTPUT_MULTIPLE,
        min_channels: int = 0,
        max_ratio: MaxRatio = 1.0,
        recover: str = "least_squares",
        **options: Any,
    ) -> None:
        self._unsaid = threshold is None and ratio is None and target is None
        threshold = _DEFAULT_THRESHOLD if self._unsaid else threshold
        amount, limits = Amount.of(ratio, threshold, target), Limits(round_to, min_channels, max_ratio)
        self._planner = Planner("hsic_lasso", amount, limits, layers, options)
        if amount.kind == "threshold" and amount.value > 1:
            raise ConfigError(f"threshold: expected a score of HSIC-Lasso, in [0, 1], got {threshold!r}")
        for name, value in {"max_images": max_images, "batch": batch, "imgsz": imgsz}.items():
            if (type(value) is not int or value < 1) and (name != "imgsz" or value is not None):
                raise ConfigError(f"{name}: expected an integer of at least 1, got {value!r}")
        self._images, self._max_images, self._imgsz, self._batch = images, max_images, imgsz, batch
        self._recovery = check_method(recover)

    @classmethod
    def load_config(cls, path: str | Path) -> "HsicLassoPruner":
        """A pruner with the settings of a YAML file, whose keys are the arguments above.

        Raises:
            ConfigError: The file can't be read, or a setting is unknown or out of range.
        """
        settings = read_yaml(path)
        known = [*(name for name in signature(cls).parameters if name != "options"), *option_names("hsic_lasso")]
        unknown = [f"{key}: unknown setting{nearest(key, known)}" for key in settings if key not in known]
        if unknown:
            raise ConfigError(f"{path}: " + "; ".join(unknown))
        return cls(**settings)

    def score(self, model: Yolo | Network) -> dict[str, torch.Tensor]:
        """Scores in [0, 1] of each channel by channel group, name to (C,); the model is left as it is.

        Args:
            model: A `YOLO`, or its SegmentationModel or DetectionModel.

        Raises:
            UnsupportedModelError: It is no unmodified YOLO network.
            DataError: The images can't be used.
        """
        network = network_of(model)
        replace(self._planner, amount=NOTHING).check(network)
        return self._planner.score(network, in_batches(self._calibration(network), self._batch)).measured.scores

    def prune(self, model: Yolo | Network) -> PruningReport:
        """Cut a live model, in place; after an error it is as it was.

        Args:
            model: A `YOLO`, or its SegmentationModel or DetectionModel.

        Returns:
            Widths and cost before and after, and the scores.

        Raises:
            UnsupportedModelError: It is no unmodified YOLO network.
            DataError: The images can't be used.
        """
        network = network_of(model)
        replace(self._planner, imgsz=input_side(network, self._imgsz)).check(network)
        if self._planner.amount.is_nothing:
            scored = self._planner.ranked(network)
            return cut_in_place(model, network, self._planner.plan(scored), scored.graph, self._recovery)[0]
        images = self._calibration(network)
        planner = replace(self._planner, imgsz=images.shape[-1])
        scored = planner.score(network, in_batches(images, self._batch))
        plan = planner.plan(scored, planner.sensitivity(scored, images) if planner.amount.is_target else None)
        elsewhere = None
        if len(images) < FEW and self._unsaid:
            plan, elsewhere = carried_plan(plan, scored, planner.limits, images, self._recovery)
        elif 1 < len(images) < FEW and not plan.cuts_nothing:
            elsewhere = divergence_elsewhere(network, plan, images, self._recovery)
        report, _ = cut_in_place(model, network, plan, scored.graph, self._recovery, images=images)
        scores = {name: s.tolist() for name, s in scored.measured.scores.items()}
        return replace(report, scores=scores, stability=scored.stability(plan), elsewhere=elsewhere)

    def path(self, model: Yolo | Network, convolution: str) -> LassoPath:
        """The whole path of the HSIC-Lasso at one convolution, for `utils.plots.plot_lasso_path`; nothing is changed.

        Args:
            model: A `YOLO`, or its SegmentationModel or DetectionModel.
            convolution: Its path in the model in split form, such as "model.4.cv2.conv" or "model.4.first.conv".

        Raises:
            UnsupportedModelError: It is no unmodified YOLO network.
            ConfigError: There is no such convolution.
            DataError: The images can't be used.
        """
        network = network_of(model)
        graph, criterion = trace_channels(network, self._planner.layers), HsicLasso(**self._planner.options)
        if convolution not in graph.consumers:
            raise ConfigError(
                f"convolution: expected one that reads the chosen layers, got {convolution!r}"
                f"{nearest(convolution, graph.consumers)}"
            )
        batches = in_batches(self._calibration(network), self._batch)
        wanted = [name for name in graph.consumers if name.rsplit(".", 2)[0] == convolution.rsplit(".", 2)[0]]
        samples = gather_samples(graph.model, wanted, batches, positions=criterion.positions, seed=criterion.seed)
        return criterion.path(next(s for s in samples if convolution in s.convolutions))

    def _calibration(self, network: Network) -> torch.Tensor:
        return calibration_images(self._images, network, imgsz=self._imgsz, limit=self._max_images)
