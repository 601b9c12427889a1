"""How far a network's predictions have moved from those of the original, without labels.

    D = D_class + D_box + 32 D_mask

over anchors a with the original's confidence w_a = max_c p_ac: the Bernoulli divergence of all class scores, the
divergence of the box distributions and of the predicted masks (in and near the original's), the latter two weighted by
w_a; each is divided by Σ_a w_a, about the number of objects, and is 0 where the predictions agree. The weight 32 makes
equal parts cost about equal mask mAP: measured on YOLOv8n-seg by cutting prototypes, which moves the masks alone, and
backbone and neck widths.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from depgraph_hsic_only.errors import DataError

_OBJECTS = 32  # the most confident anchors of an image, whose masks are compared
_MARGIN = 5  # pixels of the prototypes, that many wide is the window in which a mask counts as near
_MASKS = 32.0  # weight of the masks


@dataclass(frozen=True)
class Divergence:
    """Parts of D, each a scalar tensor of at least 0."""

    classes: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor  # times 32; 0 for a detection model

    @property
    def total(self) -> torch.Tensor:
        """D."""
        return self.classes + self.boxes + self.masks


def divergence(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Divergence:
    """D between the raw outputs of a head in training mode, those of Ultralytics' Segment or Detect.

    They are "boxes" (B, 4·r, A) logits of the box distributions, "scores" (B, nc, A) logits, and of a segmentation
    model "mask_coefficient" (B, nm, A) and "proto" (B, nm, h, w).
    """
    p = teacher["scores"].sigmoid()
    w = p.amax(1)  # (B, A)
    objects = w.sum().clamp_min(1.0)
    classes = _bernoulli(student["scores"], teacher["scores"]).sum() / objects
    b, sides, a = student["boxes"].shape
    log_q, log_p = (t["boxes"].view(b, 4, sides // 4, a).log_softmax(2) for t in (student, teacher))
    boxes = ((log_p.exp() * (log_p - log_q)).sum((1, 2)) * w).sum() / objects
    masks = _masks(student, teacher, w) if "proto" in teacher else torch.zeros_like(boxes)
    return Divergence(classes, boxes, masks)


def mean_divergence(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float:
    """Mean D, at least 0, over images in batches of (student, teacher) outputs; a `DataError` if it is not finite."""
    total, count = 0.0, 0
    for student, teacher in pairs:
        images = len(teacher["scores"])
        total, count = total + images * float(divergence(student, teacher).total), count + images
    if not math.isfinite(total):
        raise DataError("expected finite predictions on the calibration images, got NaN or infinity; check the weights")
    return max(total, 0.0) / count  # rounding may leave a little below 0


def _masks(student: Mapping[str, Any], teacher: Mapping[str, Any], w: torch.Tensor) -> torch.Tensor:
    """Bernoulli divergence of the masks of the most confident anchors, a mean over the pixels in and near them."""
    top = w.topk(min(_OBJECTS, w.shape[1]), 1)
    wanted = _mask_logits(teacher, top.indices)
    per_pixel = _bernoulli(_mask_logits(student, top.indices), wanted) * _pixel_weights(wanted)
    return (per_pixel.sum((2, 3)) * top.values).sum() / top.values.sum().clamp_min(1.0)


def _pixel_weights(logits: torch.Tensor) -> torch.Tensor:
    """Weights (B, objects, h, w) of pixels: the original's masks, a margin around them, of sum `_MASKS` for each."""
    near = F.max_pool2d(logits.sigmoid(), _MARGIN, 1, _MARGIN // 2)
    return _MASKS * near / near.sum((2, 3), keepdim=True).clamp_min(torch.finfo(near.dtype).tiny)


def _mask_logits(outputs: Mapping[str, Any], anchors: torch.Tensor) -> torch.Tensor:
    """Masks of the anchors (B, objects) of each image: (B, objects, h, w)."""
    coefficients = outputs["mask_coefficient"]
    at = anchors[:, None].expand(-1, coefficients.shape[1], -1)
    masks: torch.Tensor = torch.einsum("bko,bkhw->bohw", coefficients.gather(2, at), outputs["proto"])
    return masks


def _bernoulli(logits: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) of Bernoulli distributions given by logits, elementwise, at least 0 but for rounding."""
    p = target_logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, p, reduction="none")
    return cross - F.binary_cross_entropy_with_logits(target_logits, p, reduction="none")


def sampled_loss(outputs: Mapping[str, Any], generator: torch.Generator) -> torch.Tensor:
    """A random scalar whose squared gradients are, in expectation, the curvature of D at these outputs, up to a factor.

    The log-likelihood of outcomes drawn from the predictions themselves, so that E[g²] is the diagonal of the Fisher
    information (Amari 1998; sampled as in Martens & Grosse 2015, arXiv:1503.05671). The generator is on the CPU.
    """

    def uniform(like: torch.Tensor) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator).to(like)

    scores, boxes = outputs["scores"], outputs["boxes"]
    p = scores.detach().sigmoid()
    w = p.amax(1)
    loss: torch.Tensor = F.binary_cross_entropy_with_logits(scores, (uniform(p) < p).to(p), reduction="sum")
    b, sides, a = boxes.shape
    logits = boxes.view(b, 4, sides // 4, a)
    below = logits.detach().softmax(2).cumsum(2) < uniform(boxes[:, :4])[:, :, None]
    drawn = below.sum(2).clamp_max(sides // 4 - 1)
    loss = loss + (F.cross_entropy(logits.transpose(1, 2), drawn, reduction="none") * w[:, None].sqrt()).sum()
    if "proto" in outputs:
        top = w.topk(min(_OBJECTS, a), 1)
        masks = _mask_logits(outputs, top.indices)
        q = masks.detach().sigmoid()
        each = F.binary_cross_entropy_with_logits(masks, (uniform(q) < q).to(q), reduction="none")
        loss = loss + ((each * _pixel_weights(masks.detach()).sqrt()).sum((2, 3)) * top.values.sqrt()).sum()
    return loss
