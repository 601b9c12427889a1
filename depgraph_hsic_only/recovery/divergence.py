"""How far a network's predictions have moved from those of the original, without labels.

    D = D_class + D_box + D_mask + D_keypoint + D_angle

over anchors a with the original's confidence w_a = max_c p_ac: the Bernoulli divergence of all class scores and the
divergences of what the task has beside it, weighted by w_a (see `parts.py`); each is divided by Σ_a w_a, about the
number of objects, and is 0 where the predictions agree. Of an end-to-end head, D is the mean of both its sets of
branches, so that both stay accurate.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.recovery.parts import PARTS, Outputs, objects
from depgraph_hsic_only.yolo.predictions import Predictions


@dataclass(frozen=True)
class Divergence:
    """D of a network's predictions."""

    parts: Mapping[str, torch.Tensor]  # by name (see `parts.PARTS`), those that the task has, each a scalar

    @property
    def total(self) -> torch.Tensor:
        """D, a scalar tensor, at least 0 but for rounding."""
        return torch.stack(tuple(self.parts.values())).sum()

    def __getitem__(self, part: str) -> torch.Tensor:
        return self.parts[part]


def divergence(student: Predictions, teacher: Predictions) -> Divergence:
    """D between raw predictions of the same images (see `yolo.predictions`)."""
    each = [_parts(ours, theirs) for ours, theirs in zip(student, teacher, strict=True)]
    return Divergence({name: torch.stack([found[name] for found in each]).mean() for name in each[0]})


def _parts(student: Outputs, teacher: Outputs) -> dict[str, torch.Tensor]:
    w = confidence(teacher)
    return {name: part.divergence(student, teacher, w) for name, part in PARTS.items() if part.key in teacher}


def confidence(outputs: Outputs) -> torch.Tensor:
    """The confidence (B, A) of each anchor, in [0, 1], without gradients."""
    w: torch.Tensor = outputs["scores"].detach().sigmoid().amax(1)
    return w


def number_of_objects(predictions: Predictions) -> float:
    """About the number of objects in a batch by the predictions; the mean over both sets of branches."""
    return sum(float(confidence(outputs).sum()) for outputs in predictions) / len(predictions)


def mean_divergence(pairs: Iterable[tuple[Predictions, Predictions]]) -> float:
    """Mean D, at least 0, over images in batches of (student, teacher); a `DataError` if it is not finite."""
    total, count = 0.0, 0
    for student, teacher in pairs:
        images = len(teacher[0]["scores"])
        total, count = total + images * float(divergence(student, teacher).total), count + images
    if not math.isfinite(total):
        raise DataError("expected finite predictions on the calibration images, got NaN or infinity; check the weights")
    return max(total, 0.0) / count  # rounding may leave a little below 0


def sampled_loss(predictions: Predictions, generator: torch.Generator) -> torch.Tensor:
    """A random scalar whose squared gradients are, in expectation, the curvature of D here times the number of objects.

    The log-likelihood of outcomes drawn from the predictions themselves, so that E[g²] is the diagonal of the Fisher
    information (Amari 1998; sampled as in Martens & Grosse 2015, arXiv:1503.05671). The generator is on the CPU.
    """
    weights = [confidence(outputs) for outputs in predictions]
    counts = torch.stack([objects(w) for w in weights])
    shares = (counts.mean() / (counts * len(counts))).sqrt()  # 1 of a single set of branches
    drawn = [
        share * part.sampled(outputs, w, generator)
        for outputs, w, share in zip(predictions, weights, shares, strict=True)
        for part in PARTS.values()
        if part.key in outputs
    ]
    return torch.stack(drawn).sum()
