"""The proof that an exported file does what the model does."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import ops
from ultralytics.utils.nms import non_max_suppression

from depgraph_hsic_only.data.images import Images
from depgraph_hsic_only.errors import ExportError
from depgraph_hsic_only.evaluation.masks import in_a_block
from depgraph_hsic_only.evaluation.onnx import input_images, onnx_input, open_session
from depgraph_hsic_only.evaluation.similarity import best_pairs
from depgraph_hsic_only.yolo.load import bare_network
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_CONFIDENCE, _OVERLAP = 0.25, 0.7  # what Ultralytics predicts with
_SCORE, _CLASS, _EXTRA = 4, 5, 6  # columns of an end-to-end detection, after its box

_ROUNDING = 3.0  # times what a model in float32 is off by itself: a file's sums, in another order, are off elsewhere

Size = tuple[int, int]  # height and width, pixels
Run = Callable[[torch.Tensor], list[torch.Tensor]]  # an image (1, c, h, w) to outputs without the first dimension


@dataclass(frozen=True)
class OnnxParity:
    """How far an exported file, such as an ONNX file run by onnxruntime, is from the PyTorch model.

    Attributes:
        images: Number of images compared.
        detections: Number of objects that PyTorch found in them, at confidence 0.25.
        max_abs_diff: Largest difference of any raw output: coordinates of boxes and keypoints in units of the image's
            width or height (of the farthest keypoint, if that is beyond it), class scores, visibilities, angles in
            radians, mask coefficients and prototypes in units of the image's largest one, at least 1. Of an end-to-end
            file, of its detections, whatever their order (see `match_detections`).
        mask_iou: Smallest IoU of the two final masks of an object that either finds; 1 where neither finds any; None
            for a model without masks.
        tolerance: Largest `max_abs_diff` that passes: the one asked for, or three times what rounding to float32
            changes by itself, where that is more, as in a badly trained model.
        min_mask_iou: Smallest `mask_iou` that passes: the one asked for, or what rounding to float32 leaves.
    """

    images: int
    detections: int
    max_abs_diff: float
    mask_iou: float | None
    tolerance: float
    min_mask_iou: float

    @property
    def ok(self) -> bool:
        """Whether the file does what the model does."""
        masks_agree = self.mask_iou is None or self.mask_iou >= self.min_mask_iou
        return self.max_abs_diff <= self.tolerance and masks_agree

    def __str__(self) -> str:
        iou = self.mask_iou
        masks = "" if iou is None else f", smallest mask IoU {iou:.4f} (at least {self.min_mask_iou})"
        return (
            f"{'same' if self.ok else 'DIFFERENT'} on {self.images} images with {self.detections} objects: "
            f"largest difference {self.max_abs_diff:.2e} (at most {self.tolerance:.0e}){masks}"
        )


def verify_onnx(
    onnx: str | Path, model: Yolo | Network, images: Images, *, tolerance: float = 1e-3, min_mask_iou: float = 0.99
) -> OnnxParity:
    """Run an ONNX file and its PyTorch model on the same images and compare raw outputs and final masks.

    Args:
        onnx: A file that `export_onnx` wrote, without NMS in it. One that was exported end to end, with `nms=False`, is
            compared with the one-to-one branches of the model.
        model: The `YOLO` or network it was made from; left as it is.
        images: Real images (see `images.Images`); letterboxed to the file's input size.
        tolerance: Largest difference of a raw output that passes.
        min_mask_iou: Smallest IoU of matching masks that passes.

    Returns:
        The comparison; whether it passed is its `ok`.

    Raises:
        ExportError: onnxruntime can't run the file, or what it puts out has other dimensions than what the model does.
        DataError: The images can't be used.
    """
    session = open_session(onnx)
    takes = onnx_input(session)

    def outputs(image: torch.Tensor) -> list[torch.Tensor]:
        return [torch.from_numpy(output[0]).float() for output in session.run(None, takes.filled(image))]

    limits = {"tolerance": tolerance, "min_mask_iou": min_mask_iou}
    return compare_outputs(onnx, outputs, model, input_images(takes, images), end2end=takes.end2end, **limits)


def compare_outputs(
    file: str | Path,
    run: Run,
    model: Yolo | Network,
    images: torch.Tensor,
    *,
    end2end: bool,
    tolerance: float = 1e-3,
    min_mask_iou: float = 0.99,
) -> OnnxParity:
    """Compare what a file and its PyTorch model put out for the same images; see `verify_onnx`.

    Args:
        file: The file, for messages.
        run: What runs it: from an image (1, c, h, w) to its outputs, float, without the first dimension.
        model: The `YOLO` or network it was made from; left as it is.
        images: (n, c, h, w), float in [0, 1].
        end2end: Whether the file puts out detections.
        tolerance: Largest difference of a raw output that passes.
        min_mask_iou: Smallest IoU of matching masks that passes.

    Raises:
        ExportError: What the file puts out has other dimensions than what the model does.
    """
    reference: Any = copy.deepcopy(bare_network(model)).cpu().float().eval()
    reference.end2end = end2end

    def compared(of: Run, other: Run) -> OnnxParity:
        return _parity(file, reference, images, of, other, end2end, tolerance, min_mask_iou)

    found = compared(partial(_outputs, reference), run)
    if found.ok:
        return found
    exact, fused = copy.deepcopy(reference).double(), copy.deepcopy(reference).fuse(verbose=False)
    rounding = compared(partial(_outputs, exact), partial(_outputs, fused))
    least = min_mask_iou if rounding.mask_iou is None else min(min_mask_iou, rounding.mask_iou)
    return replace(found, tolerance=max(tolerance, _ROUNDING * rounding.max_abs_diff), min_mask_iou=least)


def _parity(
    file: str | Path,
    reference: Any,
    images: torch.Tensor,
    of: Run,
    other: Run,
    end2end: bool,
    tolerance: float,
    min_mask_iou: float,
) -> OnnxParity:
    """How far one way to run a reference network, or its file, is from another, with the limits that are asked for."""
    size = (images.shape[2], images.shape[3])
    compare, fixed = (_compare_detections, _EXTRA) if end2end else (_compare_anchors, 4 + len(reference.names))
    differences, objects, ious = [], 0, []
    for image in torch.split(images, 1):
        got = other(image)
        if end2end:
            reference.model[-1].max_det = len(got[0])
        expected = of(image)
        dimensions = [[tuple(output.shape) for output in some] for some in (expected, got)]
        if dimensions[0] != dimensions[1]:
            raise ExportError(
                f"{file}: expected the model's outputs, of {dimensions[0]}, got {dimensions[1]}; pass the model "
                "that it was exported from, and export it without nms=True"
            )
        units = _units(reference, size, (expected[0].T if end2end else expected[0])[fixed:])
        difference, found, *rows = compare(reference, expected[0], got[0], units)
        of_prototypes = ((e - g).abs().max() / _largest(e) for e, g in zip(expected[1:], got[1:], strict=True))
        differences += [difference, *of_prototypes]
        objects += found
        if len(expected) > 1:
            parts = (torch.split(some, in_a_block(size[0] * size[1])) for some in rows)
            for a, b in zip(*parts, strict=True):
                ious.append(_smallest_iou(_masks(a, expected[1], size), _masks(b, got[1], size)))
    largest = float(torch.stack(differences).max())  # NaN where any is, which does not pass
    return OnnxParity(len(images), objects, largest, min(ious) if ious else None, tolerance, min_mask_iou)


def _outputs(network: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """What a network puts out for one image (1, c, h, w), as its file does: predictions, and prototypes if any."""
    with torch.no_grad():
        outputs = network(image.to(next(network.parameters()).dtype))[0]
    return [output[0].float() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


Compared = tuple[torch.Tensor, int, torch.Tensor, torch.Tensor]
"""The largest difference of two lists of rows, how many objects are in the first, and the rows of the objects that are
in either, of each list, one by one, as detections: (k, 6 + extras) of corners, score, class, extras."""


def _compare_anchors(network: Any, expected: torch.Tensor, got: torch.Tensor, units: torch.Tensor) -> Compared:
    """Of what NMS makes detections of: (4 + nc + extras, anchors), with a box's centre, width and height first."""
    nc = len(network.names)
    kept = [_kept(predictions[None], nc, rotated=task_of(network).name == "obb") for predictions in (expected, got)]
    either = torch.unique(torch.cat(kept))
    a, b = (_detections(predictions.T[either], nc) for predictions in (expected, got))
    units = torch.cat([units[:4], units.new_ones(nc), units[4:]])
    return ((expected - got).T / units).abs().max(), len(kept[0]), a, b


def _kept(predictions: torch.Tensor, nc: int, *, rotated: bool) -> torch.Tensor:
    """Anchors of the objects that are found: those above the confidence that survive NMS."""
    arguments: Any = {"nc": nc, "rotated": rotated, "return_idxs": True}
    _, kept = non_max_suppression(predictions.clone(), _CONFIDENCE, _OVERLAP, **arguments)
    anchors: torch.Tensor = kept[0]
    return anchors.flatten().long()


def _detections(rows: torch.Tensor, nc: int) -> torch.Tensor:
    score, number = rows[:, 4 : 4 + nc].max(1, keepdim=True)
    return torch.cat([ops.xywh2xyxy(rows[:, :4]), score, number, rows[:, 4 + nc :]], 1)


def _compare_detections(_: Any, expected: torch.Tensor, got: torch.Tensor, units: torch.Tensor) -> Compared:
    """Of an end-to-end head: detections (k, 6 + extras)."""
    largest, pairs = match_detections(expected, got, units)
    found, rows = expected[:, _SCORE] > _CONFIDENCE, [expected[pairs[:, 0]], got[pairs[:, 1]]]
    either = torch.maximum(rows[0][:, _SCORE], rows[1][:, _SCORE]) > _CONFIDENCE
    return largest, int(found.sum()), rows[0][either], rows[1][either]


def match_detections(a: torch.Tensor, b: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest difference of two lists of detections, whatever their order, and which belong together.

    The most alike of one class are matched first; the difference of two is the largest of their columns'. A list ends
    where the k best are in it, so that of nearly equal scores one may have one object at its end, the other another: an
    object without a match differs by no more than its score exceeds the last one of the other list. What is lost, or
    found in addition, thus counts as much as it stands above the end of the list, and what differs more than that from
    all others has no match.

    Args:
        a: (k, 6 + extras) of box, score, class, extras.
        b: The same (m, 6 + extras).
        units: In which the columns of box and extras, (4 + extras), are compared.

    Returns:
        The difference, and the matches, (n, 2) of indices.
    """
    columns = torch.cat([units[:4], units.new_ones(2), units[4:]])
    used = [k for k in range(a.shape[1]) if k != _CLASS]
    different = torch.cdist(a[:, used] / columns[used], b[:, used] / columns[used], p=torch.inf)
    alone = [(one[:, _SCORE] - other[:, _SCORE].min()).clamp_min(0) for one, other in ((a, b), (b, a))]
    like = (a[:, None, _CLASS] == b[None, :, _CLASS]) & (different <= torch.maximum(alone[0][:, None], alone[1][None]))
    matches = torch.tensor(best_pairs(torch.where(like, -different, -torch.inf))).reshape(-1, 2)
    for some, matched in zip(alone, matches.T, strict=True):
        some[matched] = 0
    return torch.cat([different[matches[:, 0], matches[:, 1]], *alone]).max(), matches


def _units(network: Any, size: Size, extras: torch.Tensor) -> torch.Tensor:
    """In which the columns of box and extras, (k, n) by now, are compared, (4 + k); see `OnnxParity`."""
    (height, width), task = size, task_of(network).name
    units = torch.ones(4 + len(extras))
    units[:4] = torch.tensor([width, height, width, height])
    if task == "pose":
        shape = tuple(network.model[-1].kpt_shape)
        farthest = extras.abs().amax(1).view(shape).amax(0)
        units[4:].view(shape)[:, :2] = torch.maximum(farthest[:2], units[:2])
    if task == "segment":
        units[4:] = _largest(extras)
    return units


def _largest(values: torch.Tensor) -> torch.Tensor:
    """The largest size of values, at least 1."""
    return values.abs().max().clamp_min(1)


def _masks(rows: torch.Tensor, prototypes: torch.Tensor, size: Size) -> torch.Tensor:
    """(k, h, w) final masks of detections, in {0, 1}."""
    masks: torch.Tensor = ops.process_mask(prototypes, rows[:, _EXTRA:], rows[:, :4], size, upsample=True)
    return masks.bool()


def _smallest_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Smallest IoU of the masks of (k, h, w) with those of another (k, h, w), one by one; 1 for two empty ones."""
    if not len(a):
        return 1.0
    union = (a | b).sum((1, 2))
    return float(torch.where(union > 0, (a & b).sum((1, 2)) / union, 1.0).min())
