"""What a cut network lost, brought back from unlabelled images."""

import copy
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from depgraph_hsic_only.channels.cut import Kept, kept_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.data.calibration import fitting
from depgraph_hsic_only.data.images import spread
from depgraph_hsic_only.errors import ConfigError, DataError, PlanError
from depgraph_hsic_only.recovery.augmentation import make_mosaics
from depgraph_hsic_only.recovery.divergence import mean_divergence
from depgraph_hsic_only.recovery.layerwise import LayerwisePass, as_input, batch_size, evaluating
from depgraph_hsic_only.recovery.least_squares import FittedLayer
from depgraph_hsic_only.recovery.positions import choose_positions
from depgraph_hsic_only.recovery.refit import refit, targets_along, touched_convolutions
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.support.progress import track
from depgraph_hsic_only.support.threads import measuring
from depgraph_hsic_only.yolo.load import bare_network, forget_predictor, network_of
from depgraph_hsic_only.yolo.predictions import raw_predictions
from depgraph_hsic_only.yolo.types import Network, Yolo

_ENOUGH = 512  # images, up to which mosaics are added: beyond, they bring little for the time they take
METHODS = ("none", "bn", "least_squares")


@dataclass(frozen=True)
class Recovery:
    """What a recovery did.

    Attributes:
        method: One of `METHODS`.
        images: Number of calibration images.
        mosaics: Number of mosaics of these that were fitted too.
        seconds: Time it took.
        divergence: How far the predictions on calibration images (at most 64) are from the original's, before and
            after; see `divergence.py`.
        layers: The fitted convolutions, in the order in which they run.
    """

    method: str
    images: int
    mosaics: int
    seconds: float
    divergence: tuple[float, float]
    layers: tuple[FittedLayer, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        before, after = self.divergence
        return asdict(self) | {"divergence": {"before": before, "after": after}}

    def __str__(self) -> str:
        before, after = self.divergence
        mosaics = f" and {self.mosaics} mosaics of them" if self.mosaics else ""
        return (
            f"{self.method} on {self.images} images{mosaics} in {self.seconds:.0f} s; "
            f"divergence from the original {before:.3g} -> {after:.3g}"
        )


def check_method(method: object) -> str:
    """A recovery method by name; a `ConfigError` where there is none of it."""
    if isinstance(method, str) and method in METHODS:
        return method
    raise ConfigError(f"recover: expected one of {', '.join(METHODS)}, got {method!r}{nearest(str(method), METHODS)}")


@measuring()
def recover(
    pruned: Yolo | Network,
    original: Yolo | Network,
    plan: PruningPlan | Kept,
    images: torch.Tensor,
    *,
    method: str = "least_squares",
    positions: int = 200,
    ridge: float = 1e-3,
    mosaics: int | None = None,
    seed: int = 0,
) -> Recovery:
    """Bring a cut network back towards the original, in place, without labels; after an error it is as it was.

    "bn" re-estimates BatchNorm's statistics (as EagleEye, Li et al. 2020, arXiv:2007.02491). "least_squares" re-fits
    every convolution that the cut has touched to what it put out in the original (see `least_squares.py`).

    Args:
        pruned: A `YOLO` or its network, cut by `plan`.
        original: The same before the cut; left as it is.
        plan: What was cut, or what a cut has kept of the network that it was made in, which is trusted to be that.
        images: Calibration images (n, c, h, w), float in [0, 1] or uint8, letterboxed as in validation.
        method: One of `METHODS`; "none" changes nothing.
        positions: Positions of each layer's output sampled from each image.
        ridge: Of the fit, as a share of the mean of the diagonal of the normal equations.
        mosaics: So many mosaics of the images are fitted beside them (see `augmentation.py`); None for up to two for
            each image, as long as there are no more than 512 in all.
        seed: Of every random choice.

    Raises:
        ConfigError: There is no such method.
        DataError: There are no images, or an activation is not finite.
        UnsupportedModelError: A model is no unmodified YOLO network.
        PlanError: The plan was made for another model.
    """
    check_method(method)
    if isinstance(plan, PruningPlan):
        student, teacher = network_of(pruned), network_of(original)
        kept = kept_channels(teacher, plan)
        for path, channels in kept.items():
            has = len(student.get_parameter(f"{path}.weight"))
            if has != len(channels) and not isinstance(student.get_submodule(path), nn.ConvTranspose2d):
                raise PlanError(
                    f"{path}: expected the {len(channels)} channels that the plan keeps, got {has}; pass its plan"
                )
    else:
        student, teacher, kept = bare_network(pruned), bare_network(original), plan
    if not len(images):
        raise DataError("expected calibration images, got none; pass images or a data set")
    images = fitting(images, student)
    start = time.perf_counter()
    batch = batch_size(images)
    before = mean_distance(student, teacher, images)
    changed = copy.deepcopy(student)
    layers: tuple[FittedLayer, ...] = ()
    count = 0
    if method == "bn":
        reestimate_batchnorm(changed, images, batch)
    elif method == "least_squares":
        names = touched_convolutions(changed, teacher)
        count = min(2 * len(images), max(0, _ENOUGH - len(images))) if mosaics is None else mosaics
        fitted = torch.cat([images, make_mosaics(images, count, seed)])
        with evaluating(changed, auxiliary=True), evaluating(teacher, auxiliary=True):
            sampled = choose_positions(teacher, names, fitted, positions=positions, seed=seed)
            targets = targets_along(LayerwisePass(teacher, fitted, batch=batch))
            fits = refit(LayerwisePass(changed, fitted, batch=batch), targets, sampled, kept, ridge)
            layers = tuple(track(fits, "re-fitting", len(names)))
    after = mean_distance(changed, teacher, images)
    student.load_state_dict(changed.state_dict())
    forget_predictor(pruned)
    return Recovery(method, len(images), count, time.perf_counter() - start, (before, after), layers)


def reestimate_batchnorm(network: Network, images: torch.Tensor, batch: int) -> None:
    """Replace BatchNorm's statistics by the averages over the images, in place."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    with evaluating(network, auxiliary=True), torch.no_grad():
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # a cumulative average
            m.train()
        for part in torch.split(images, batch):
            raw_predictions(network, as_input(part, next(network.parameters()).device))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def mean_distance(student: Network, teacher: Network, images: torch.Tensor) -> float:
    """Mean divergence of a cut network's predictions from the original's, over (at most 64 of) the images."""
    chosen = images[spread(len(images), 64)]
    device = next(teacher.parameters()).device
    with evaluating(student), evaluating(teacher), torch.no_grad():
        inputs = (as_input(part, device) for part in torch.split(chosen, batch_size(chosen)))
        return mean_divergence((raw_predictions(student, x), raw_predictions(teacher, x)) for x in inputs)
