"""Agreement of two models: what the one before the cut and the result predict on the same validation images.

Their agreement on an image is the panoptic quality (Kirillov et al. 2019, arXiv:1801.00868) of one's objects against
the other's, over all classes together: objects of the same class that overlap by more than a half match, and

    agreement = Σ_matches worth / (matches + ½ unmatched objects of both)

in [0, 1]; 1 where neither finds anything. What two objects overlap by, and what their match is worth, depends on the
task (see `COMPARED`): the IoU of their masks, boxes or rotated boxes is both; of poses the IoU of the boxes is the
overlap, and that times the keypoints' similarity the worth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.engine.results import Results
from ultralytics.utils.ops import scale_masks

from depgraph_hsic_only.data.images import read_image, spread
from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.evaluation.masks import pairwise_iou
from depgraph_hsic_only.evaluation.similarity import best_pairs, box_iou, keypoint_similarity, rotated_iou
from depgraph_hsic_only.support.progress import track
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.patches import patient_nms

Picture = NDArray[np.uint8]  # (h, w, 3), RGB
Measure = Callable[[Any, Any], torch.Tensor]
"""Of the objects in one of Ultralytics' `Results` and in another, at least one in each, on the CPU: (n, m) in [0, 1]"""

_CONFIDENCE, _NMS_IOU = 0.25, 0.7  # what Ultralytics predicts with
_MATCH = 0.5  # overlap above which objects match
_IMAGES = 100  # at most so many are compared
_SHOWN = 4  # of either kind
_MASK_SIDE = 320  # pixels of the longer side of masks from images of two sizes, which are compared on one grid
_SIDE = 1024  # pixels of a picture's longer side, at most: a figure shows no more


@dataclass(frozen=True)
class ImageAgreement:
    """Two models' agreement on one image."""

    image: str  # file name
    agreement: float  # panoptic quality, in [0, 1]; see above
    before: int  # number of objects that the model before predicts
    after: int  # and that the result predicts


@dataclass(frozen=True)
class Agreement:
    """Two models' agreement on all images that were compared."""

    confidence: float  # least of the predictions that count, in [0, 1]
    images: int  # number of those compared
    agreement: float | None  # mean over the images in which either finds something; None where there are none
    examples: tuple[ImageAgreement, ...]  # evenly spaced over those compared
    differing: tuple[ImageAgreement, ...]  # those with the least agreement, the least first; none that agree wholly

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Agreement":
        """The inverse of `dataclasses.asdict`."""
        lists = {name: tuple(ImageAgreement(**row) for row in data[name]) for name in ("examples", "differing")}
        return cls(**{**data, **lists})


@dataclass(frozen=True, eq=False)
class Pair:
    """One image with each model's predictions drawn into it."""

    found: ImageAgreement
    before: Picture
    after: Picture


@dataclass(frozen=True, eq=False)
class Compared:
    """How the objects that two models find are compared."""

    overlap: Measure
    called: str  # what the overlap is called
    likeness: Measure | None = None  # what a match is worth beside its overlap; None for no more than that
    likeness_called: str = ""

    @property
    def worth_called(self) -> str:
        """What a match is worth, for people."""
        return f"{self.called} times {self.likeness_called}" if self.likeness_called else self.called


COMPARED: Final[Mapping[str, Compared]] = {  # by the name of the task
    "segment": Compared(lambda a, b: pairwise_iou(a.masks.data, b.masks.data), "mask IoU"),
    "detect": Compared(lambda a, b: box_iou(a.boxes.xyxy, b.boxes.xyxy), "box IoU"),
    "pose": Compared(
        lambda a, b: box_iou(a.boxes.xyxy, b.boxes.xyxy),
        "box IoU",
        lambda a, b: keypoint_similarity(a.keypoints.data, b.keypoints.data, a.boxes.xyxy, b.boxes.xyxy),
        "keypoint similarity (OKS)",
    ),
    "obb": Compared(lambda a, b: rotated_iou(a.obb.xywhr, b.obb.xywhr), "rotated boxes' IoU"),
}


def measure_agreement(
    before: Any,
    after: Any,
    files: Sequence[Path],
    *,
    shape: InputShape,
    shape_before: InputShape | None = None,
    device: Any,
    labels: Mapping[int, str] | None = None,
    nms: bool | None = None,
) -> tuple[Agreement, dict[str, Pair]]:
    """Let two models predict on the same images, and match their predictions.

    Each is a `YOLO`, which is fused by predicting; they have the same task and class names. At most 100 of the files,
    evenly spaced, are read, and those that are no images are passed over. Both models see them at the size of `shape`,
    but the one before at that of `shape_before` where that is given. In the pictures, classes are called by `labels`;
    None for their names. With `nms=False` end-to-end models predict by their one-to-one branches.

    Returns:
        Their agreement, and the pictures by name: "example-1", ..., "difference-1", ...

    Raises:
        DataError: No image can be read.
    """
    chosen = [files[k] for k in spread(len(files), _IMAGES)]
    arguments = {"device": device, "conf": _CONFIDENCE, "iou": _NMS_IOU, "verbose": False, "nms": nms}
    how, sizes = COMPARED[before.task], [list((of or shape).size) for of in (shape_before, shape)]

    def predictions(path: Path) -> tuple[Any, Any] | None:
        image = read_image(path, shape.channels)
        if image is None:
            return None
        of_before, of_after = (
            model.predict(image, save=False, imgsz=size, **arguments)[0]
            for model, size in zip((before, after), sizes, strict=True)
        )
        return of_before, of_after

    def compared(path: Path) -> ImageAgreement | None:
        if (pair := predictions(path)) is None:
            return None
        b, a = pair
        return ImageAgreement(path.name, agreement_of(b, a, how), len(b), len(a))

    def pictures(path: Path) -> tuple[Picture, ...]:
        return tuple(_drawn(found, found.names if labels is None else labels) for found in predictions(path) or ())

    with patient_nms():
        rows = ((path, compared(path)) for path in track(chosen, "comparing", len(chosen)))
        found = {path: row for path, row in rows if row is not None}
        if not found:
            raise DataError(
                f"expected images, but none of {len(files)} validation files could be read (first {files[0]}); check "
                "them"
            )
        least = sorted(
            (path for path in found if found[path].agreement < 1),
            key=lambda path: (found[path].agreement, -found[path].before - found[path].after, path),
        )
        examples = [list(found)[k] for k in spread(len(found), _SHOWN)]
        kinds = {"example": examples, "difference": least[:_SHOWN]}
        pairs = {
            f"{kind}-{k}": Pair(found[path], *pictures(path))
            for kind, some in kinds.items()
            for k, path in enumerate(some, 1)
        }
    agreements = [row.agreement for row in found.values() if row.before or row.after]
    mean = sum(agreements) / len(agreements) if agreements else None
    shown = (tuple(found[path] for path in some) for some in kinds.values())
    return Agreement(_CONFIDENCE, len(found), mean, *shown), pairs


def agreement_of(before: Any, after: Any, how: Compared) -> float:
    """Panoptic quality of the objects in one of Ultralytics' `Results` against those in another, in [0, 1]."""
    if not len(before) or not len(after):
        return float(len(before) == len(after))
    pair = [found.cpu() for found in (before, after)]
    if before.masks is not None and before.masks.shape[1:] != after.masks.shape[1:]:
        for found in pair:
            found.masks.data = _on_one_grid(found)
    boxes = [found.obb if found.boxes is None else found.boxes for found in pair]
    names = [[found.names[int(k)] for k in some.cls] for found, some in zip(pair, boxes, strict=True)]
    same = torch.tensor([[x == y for y in names[1]] for x in names[0]])
    likeness = None if how.likeness is None else how.likeness(*pair)
    return panoptic_quality(torch.where(same, how.overlap(*pair), 0.0), likeness)


def _on_one_grid(found: Any) -> torch.Tensor:
    """Masks (n, h, w) without the grey of a letterbox, at a size that follows from the photograph's alone."""
    height, width = found.orig_shape
    scale = min(1.0, _MASK_SIDE / max(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    on_photograph: torch.Tensor = scale_masks(found.masks.data[None].float(), size)[0] > 0.5
    return on_photograph


def panoptic_quality(overlap: torch.Tensor, likeness: torch.Tensor | None = None) -> float:
    """Panoptic quality of one list of objects, at least one, against another, in [0, 1]; the same if exchanged.

    Args:
        overlap: Of each object of the one list with each of the other, (n, m) in [0, 1]; 0 for those of two classes.
        likeness: What a match is worth beside its overlap, (n, m) in [0, 1]; None for no more than that.
    """
    worth = overlap if likeness is None else overlap * likeness
    matches = best_pairs(overlap, _MATCH)  # the best first: objects of one model may overlap, so one may have several
    return sum(float(worth[match]) for match in matches) / (sum(overlap.shape) / 2)


def _drawn(found: Any, labels: Mapping[int, str]) -> Picture:
    """Ultralytics' own drawing of what was found, in the image at the size at which it is shown.

    At a photograph's own size, the masks of 300 objects in 12 megapixels would take 18 GB.
    """
    image = found.orig_img
    parts = {name: getattr(found, name) for name in ("boxes", "obb", "keypoints", "masks")}
    objects = {name: part.data.clone() for name, part in parts.items() if part is not None}
    height, width = image.shape[:2]
    if (scale := _SIDE / max(height, width)) < 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        image = np.atleast_3d(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        for name, places in (("boxes", 4), ("obb", 4), ("keypoints", 2)):  # x, y, x, y; x, y, width, height; x, y
            if name in objects:
                factors = [size[0] / width, size[1] / height] * (places // 2)
                objects[name][..., :places] *= objects[name].new_tensor(factors)
    drawn: Picture = Results(image, path=found.path, names=dict(labels), **objects).plot()
    return np.ascontiguousarray(drawn[..., ::-1])
