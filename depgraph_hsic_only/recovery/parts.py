"""The parts of the divergence of predictions: classes, boxes, masks, keypoints and angles of the same anchors.

Each is 0 where the predictions agree. What is a probability is compared by the divergence of Bernoulli distributions or
of those of a box's sides. What is a place is compared on the scale s on which a shift of it matters,

    f(δ) = ln(1 + δ² / 2 s²)

the divergence of two Cauchy distributions of scale s / √2 that are δ apart (Chyzak & Nielsen 2019, arXiv:1905.10965):
of curvature 1 / s² where they agree, as that of two Gaussians of deviation s, and like the divergence of two box
distributions it grows slowly where they are far apart.

Equal parts cost about equal mAP50-95 of what they are part of:

* The weight 32 of the masks: measured on YOLOv8n-seg by cutting prototypes, which moves the masks alone, and backbone
  and neck widths.
* The scale of the sides of a box, 0.1 of its size and 0.1 of the stride, where a head predicts distances instead of
  their distributions: measured by noise on the weights of the box branch, on 155 images of val2017 at 320 px. Of its
  box mAP YOLO26n-seg lost 5, 10, 21, 38 % at D_box = 0.1, 0.2, 0.5, 1; YOLO11n-seg, by distributions, 6, 10, 19, 30 %.
* The weight 10 of the keypoints and of the angles: calculated for 20 000 boxes of 8 strides with heavy-tailed errors,
  by OKS with the deviations of COCO's keypoints, and by the similarity of Gaussian boxes of aspects from 1.5 to 4. For
  losses from 5 to 50 % of the thresholds that are passed it would be 7 to 13, and 6 to 14.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Outputs = Mapping[str, Any]  # of one set of a head's branches (see `yolo.predictions`)

_OBJECTS = 32  # the most confident anchors of an image, whose masks are compared
_MARGIN = 5  # pixels of the prototypes, that many wide is the window in which a mask counts as near
_MASKS = 32.0  # weight of the masks
_SHIFT = 0.1  # scale of a shift, as a share of the box's width or height, or for a keypoint of the root of its area
_FLOOR = 0.1  # added to it, in units of the stride
_KEYPOINTS = 10.0  # weight of the keypoints
_ANGLES = 10.0  # weight of the angles


@dataclass(frozen=True)
class Part:
    """One part of D.

    Attributes:
        key: Of the raw outputs that have it.
        divergence: D's part, a scalar of at least 0, of student, teacher and the confidence (B, A) of the teacher.
        sampled: A random scalar, of outputs and confidence, whose squared gradients with respect to the outputs are, in
            expectation, the curvature of the part times Σ w, at least 1. The generator is on the CPU.
    """

    key: str
    divergence: Callable[[Outputs, Outputs, torch.Tensor], torch.Tensor]
    sampled: Callable[[Outputs, torch.Tensor, torch.Generator], torch.Tensor]


def objects(w: torch.Tensor) -> torch.Tensor:
    """About the number of objects among anchors of confidences w (B, A), at least 1."""
    return w.sum().clamp_min(1.0)


def _classes(student: Outputs, teacher: Outputs, w: torch.Tensor) -> torch.Tensor:
    return _bernoulli(student["scores"], teacher["scores"]).sum() / objects(w)


def _sampled_classes(outputs: Outputs, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return _drawn(outputs["scores"], generator).sum()


def _boxes(student: Outputs, teacher: Outputs, w: torch.Tensor) -> torch.Tensor:
    if _is_plain(teacher["boxes"]):
        each = _shifted(student["boxes"] - teacher["boxes"], _side_scales(teacher))
    else:
        log_q, log_p = (_by_side(t["boxes"]).log_softmax(2) for t in (student, teacher))
        each, bins = torch.zeros_like(log_p[:, :, 0]), log_q.shape[2]
        if bins < log_p.shape[2]:  # what is beyond the student's last bin is out of its reach, and moves to it
            far = _mean_bin(log_p) - _mean_bin(log_p := _gathered(log_p, bins))
            each = _shifted(far, _side_scales(teacher))
        each = each + (log_p.exp() * (log_p - log_q)).sum(2)
    return (each.sum(1) * w).sum() / objects(w)


def _gathered(log_p: torch.Tensor, bins: int) -> torch.Tensor:
    """Logarithms of distributions (B, 4, r, A) over so many bins, the last of which has all that is beyond it."""
    return torch.cat([log_p[:, :, : bins - 1], log_p[:, :, bins - 1 :].logsumexp(2, keepdim=True)], 2)


def _mean_bin(log_p: torch.Tensor) -> torch.Tensor:
    """Means (B, 4, A) of distributions over bins, from their logarithms (B, 4, r, A)."""
    return torch.einsum("bsra,r->bsa", log_p.exp(), torch.arange(log_p.shape[2]).to(log_p))


def _sampled_boxes(outputs: Outputs, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    boxes = outputs["boxes"]
    if _is_plain(boxes):
        return _signed(boxes, w[:, None].sqrt() / _side_scales(outputs), generator)
    logits = _by_side(boxes)
    below = logits.detach().softmax(2).cumsum(2) < _uniform(boxes[:, :4], generator)[:, :, None]
    drawn = below.sum(2).clamp_max(logits.shape[2] - 1)
    return (F.cross_entropy(logits.transpose(1, 2), drawn, reduction="none") * w[:, None].sqrt()).sum()


def _masks(student: Outputs, teacher: Outputs, w: torch.Tensor) -> torch.Tensor:
    """Bernoulli divergence of the masks of the most confident anchors, a mean over the pixels in and near them."""
    top = w.topk(min(_OBJECTS, w.shape[1]), 1)
    wanted = _mask_logits(teacher, top.indices)
    per_pixel = _bernoulli(_mask_logits(student, top.indices), wanted) * _pixel_weights(wanted)
    return (per_pixel.sum((2, 3)) * top.values).sum() / objects(top.values)


def _sampled_masks(outputs: Outputs, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    top = w.topk(min(_OBJECTS, w.shape[1]), 1)
    masks = _mask_logits(outputs, top.indices)
    each = _drawn(masks, generator) * _pixel_weights(masks.detach()).sqrt()
    return (each.sum((2, 3)) * top.values.sqrt()).sum()


def _pixel_weights(logits: torch.Tensor) -> torch.Tensor:
    """Weights (B, objects, h, w) of pixels: the original's masks, a margin around them, of sum `_MASKS` for each."""
    rows = F.max_pool2d(logits.sigmoid(), (_MARGIN, 1), 1, (_MARGIN // 2, 0))
    near = F.max_pool2d(rows, (1, _MARGIN), 1, (0, _MARGIN // 2))
    return _MASKS * near / near.sum((2, 3), keepdim=True).clamp_min(torch.finfo(near.dtype).tiny)


def _mask_logits(outputs: Outputs, anchors: torch.Tensor) -> torch.Tensor:
    """Masks of the anchors (B, objects) of each image: (B, objects, h, w)."""
    coefficients = outputs["mask_coefficient"]
    at = anchors[:, None].expand(-1, coefficients.shape[1], -1)
    masks: torch.Tensor = torch.einsum("bko,bkhw->bohw", coefficients.gather(2, at), outputs["proto"])
    return masks


def _keypoints(student: Outputs, teacher: Outputs, w: torch.Tensor) -> torch.Tensor:
    """Mean over the keypoints that the original thinks visible of their shifts, and over all of their visibility."""
    ours, theirs = student["kpts"], teacher["kpts"]
    shifts = _shifted(ours[:, :, :2] - theirs[:, :, :2], _keypoint_scales(teacher))
    each = (_keypoint_weights(theirs) * shifts).sum((1, 2))
    seen = _bernoulli(ours[:, :, 2:], theirs[:, :, 2:]).sum((1, 2)) / ours.shape[1]
    found: torch.Tensor = ((each + seen) * w).sum() / objects(w)
    return found


def _sampled_keypoints(outputs: Outputs, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    points = outputs["kpts"]
    strength = (_keypoint_weights(points.detach()) * w[:, None, None]).sqrt() / _keypoint_scales(outputs)
    seen = (_drawn(points[:, :, 2:], generator) * (w[:, None, None] / points.shape[1]).sqrt()).sum()
    found: torch.Tensor = _signed(points[:, :, :2], strength, generator) + seen
    return found


def _keypoint_weights(points: torch.Tensor) -> torch.Tensor:
    """Weights (B, keypoints, 1, A) of the shifts of keypoints (B, keypoints, 2 or 3, A)."""
    seen = points[:, :, 2:].sigmoid() if points.shape[2] > 2 else torch.ones_like(points[:, :, :1])
    weights: torch.Tensor = _KEYPOINTS * seen / seen.sum(1, keepdim=True).clamp_min(1.0)
    return weights


def _keypoint_scales(outputs: Outputs) -> torch.Tensor:
    """Scale (B, 1, 1, A) of the shifts of an object's keypoints: a share of the root of its area, as in OKS."""
    width, height = _sizes(outputs)
    return (_SHIFT * (width * height).sqrt() + _FLOOR)[:, None, None]


def _angles(student: Outputs, teacher: Outputs, w: torch.Tensor) -> torch.Tensor:
    """Divergence of two Gaussians as wide as the boxes, by which Ultralytics compares rotated boxes.

    Four times their Bhattacharyya distance, which near 0 is their Kullback-Leibler divergence: 0 wherever the angles
    differ by a multiple of π, or the box is a square. How the angle moves the centre about the anchor is left out.
    """
    turned = (student["angle"] - teacher["angle"]).sin() * _elongation(teacher)
    found: torch.Tensor = (2 * _ANGLES * (turned / 2).square().log1p().sum(1) * w).sum() / objects(w)
    return found


def _sampled_angles(outputs: Outputs, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return _signed(outputs["angle"], (_ANGLES * w[:, None]).sqrt() * _elongation(outputs), generator)


def _elongation(outputs: Outputs) -> torch.Tensor:
    """|width / height − height / width| (B, 1, A) of boxes."""
    width, height = (side + _FLOOR for side in _sizes(outputs))
    return (width / height - height / width).abs()[:, None]


PARTS: Mapping[str, Part] = {
    "classes": Part("scores", _classes, _sampled_classes),
    "boxes": Part("boxes", _boxes, _sampled_boxes),
    "masks": Part("proto", _masks, _sampled_masks),
    "keypoints": Part("kpts", _keypoints, _sampled_keypoints),
    "angles": Part("angle", _angles, _sampled_angles),
}


def _is_plain(boxes: torch.Tensor) -> bool:
    """Whether boxes are distances, not logits of their distributions."""
    return boxes.shape[1] == 4


def _by_side(boxes: torch.Tensor) -> torch.Tensor:
    """Logits (B, 4 r, A) as (B, 4, r, A)."""
    return boxes.view(len(boxes), 4, -1, boxes.shape[2])


def _sizes(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Widths and heights (B, A) of boxes, at least 0, in units of the stride, without gradients."""
    boxes = outputs["boxes"].detach()
    if not _is_plain(boxes):
        boxes = _mean_bin(_by_side(boxes).log_softmax(2))
    width, height = (boxes[:, :2] + boxes[:, 2:]).clamp_min(0).unbind(1)
    return width, height


def _side_scales(outputs: Outputs) -> torch.Tensor:
    """Scales (B, 4, A) of the shifts of a box's left, top, right and bottom."""
    return _SHIFT * torch.stack(_sizes(outputs) * 2, 1) + _FLOOR


def _shifted(change: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """f of a change on a scale, elementwise."""
    return ((change / scale).square() / 2).log1p()


def _signed(places: torch.Tensor, strength: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Σ ± strength · places, by random signs: squared gradients are strength², those of draws only on average."""
    signs = (_uniform(places, generator) < 0.5).to(places) * 2 - 1
    return (signs * strength * places).sum()


def _bernoulli(logits: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) of Bernoulli distributions given by logits, elementwise, at least 0 but for rounding."""
    p = target_logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, p, reduction="none")
    return cross - F.binary_cross_entropy_with_logits(target_logits, p, reduction="none")


def _drawn(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Minus the log-likelihood of outcomes drawn from Bernoulli distributions given by logits, elementwise."""
    p = logits.detach().sigmoid()
    return F.binary_cross_entropy_with_logits(logits, (_uniform(p, generator) < p).to(p), reduction="none")


def _uniform(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(like.shape, generator=generator).to(like)
