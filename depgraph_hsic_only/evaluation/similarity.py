"""How alike two lists of objects are, and which of them belong together."""

import math
from typing import Any, Final

import cv2
import numpy as np
import torch
from ultralytics.utils.metrics import OKS_SIGMA
from ultralytics.utils.ops import xywhr2xyxyxyxy

_AREA: Final = 0.53  # of a box, that Ultralytics' validator takes an object's outline to have


def best_pairs(alike: torch.Tensor, above: float = -math.inf) -> list[tuple[int, int]]:
    """Pairs of a row and a column, each in one pair at most, the likest first, as long as they are alike `above`.

    Args:
        alike: (n, m), none of it -infinity.
        above: What a pair must exceed.
    """
    left, pairs = alike.clone(), []
    while left.numel() and float(left.max()) > above:
        i, j = divmod(int(left.argmax()), left.shape[1])
        pairs.append((i, j))
        left[i], left[:, j] = -math.inf, -math.inf
    return pairs


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of each box of one list with each of another, (n, m), float64 in [0, 1]; 1 for equal boxes of any size.

    Args:
        a: Corners x, y, x, y, pixels, (n, 4).
        b: The same (m, 4).
    """
    one, other = a.double()[:, None], b.double()[None]
    sides = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp_min(0)
    return _iou(a, b, sides.prod(-1), *((x[..., 2:] - x[..., :2]).prod(-1) for x in (one, other)))


def rotated_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of each rotated box of one list with each of another, (n, m), float64 in [0, 1]; 1 for equal boxes.

    It is that of the rectangles, good to 1e-4. Ultralytics matches rotated boxes by the similarity of the Gaussians
    that have their moments (`batch_probiou`), which doesn't see how a square is turned, and stays below 1 for equal
    boxes.

    Args:
        a: Centre x, y, width, height, pixels, and angle, radians, (n, 5).
        b: The same (m, 5).
    """
    corners = [xywhr2xyxyxyxy(boxes.double()) for boxes in (a, b)]
    both = torch.zeros(len(a), len(b), dtype=torch.float64)
    ends = (torch.cat([points.amin(1), points.amax(1)], 1) for points in corners)
    for i, j in box_iou(*ends).nonzero().tolist():
        one, other = (points[k].numpy() for points, k in zip(corners, (i, j), strict=True))
        first = one[0]  # near the origin float32, which OpenCV takes, is exact enough
        both[i, j] = cv2.intersectConvexConvex(*((p - first).astype(np.float32) for p in (one, other)))[0]
    areas = [boxes.double()[:, 2:4].prod(1) for boxes in (a, b)]
    return _iou(a, b, both, areas[0][:, None], areas[1])


def _iou(a: torch.Tensor, b: torch.Tensor, both: torch.Tensor, of_a: Any, of_b: Any) -> torch.Tensor:
    """Of the areas that objects have in common, (n, m), and their own; 1 for equal ones, also of no area."""
    iou = both / (of_a + of_b - both).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where((a[:, None] == b).all(-1), 1.0, iou.clamp(0, 1))


def keypoint_similarity(a: torch.Tensor, b: torch.Tensor, boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> torch.Tensor:
    """Object keypoint similarity (OKS) of each object of one list with each of another, (n, m), float64 in [0, 1].

    With distances d_k of the keypoints and the area s² of an object

        OKS = Σ_k v_k exp(−d_k² / (8 σ_k² s²)) / Σ_k v_k

    as in Ultralytics' validator: σ are COCO's for 17 keypoints with visibility, else one over their number, and s² is
    0.53 of a box's area. Since neither list is the truth, s² is the geometric mean of both objects' areas, and v_k the
    mean of the visibilities that both have for a keypoint, 1 where keypoints have none: it is the same if the lists are
    exchanged. The σ of a data set of its own (`kpt_oks_sigmas`) are not looked at.

    Args:
        a: Keypoints x, y, pixels, and where there is one, the visibility in [0, 1]: (n, k, 2 or 3).
        b: The same (m, k, 2 or 3).
        boxes_a: Corners x, y, x, y of the objects, pixels, (n, 4).
        boxes_b: The same (m, 4).
    """
    a, b = a.double(), b.double()
    count, values = a.shape[1:]
    sigma = torch.as_tensor(OKS_SIGMA).to(a) if (count, values) == (17, 3) else a.new_full((count,), 1 / count)
    areas = (_AREA * (box[:, 2:4] - box[:, :2]).double().prod(1).clamp_min(0) for box in (boxes_a, boxes_b))
    area = torch.outer(*areas).sqrt()[..., None]
    distance = (a[:, None, :, :2] - b[None, :, :, :2]).square().sum(-1)
    seen = (a[:, None, :, 2] + b[None, :, :, 2]) / 2 if values == 3 else torch.ones_like(distance)
    tiny = torch.finfo(torch.float64).tiny
    near = torch.exp(-distance / (8 * sigma.square() * area).clamp_min(tiny))
    return (seen * near).sum(-1) / seen.sum(-1).clamp_min(tiny)
