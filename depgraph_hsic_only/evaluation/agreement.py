"""Agreement of two models: what the one before the cut and the result predict on the same validation images.

Their agreement on an image is the panoptic quality (Kirillov et al. 2019, arXiv:1801.00868) of one's objects against
the other's, over all classes together: objects of the same class whose masks have an IoU above 0.5 match, and

    agreement = Σ_matches IoU / (matches + ½ unmatched objects of both)

in [0, 1]; 1 where neither finds anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.engine.results import Results

from depgraph_hsic_only.data.images import read_image, spread
from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.evaluation.masks import pairwise_iou
from depgraph_hsic_only.support.progress import track
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.patches import patient_nms

Picture = NDArray[np.uint8]  # (h, w, 3), RGB

_CONFIDENCE, _NMS_IOU = 0.25, 0.7  # what Ultralytics predicts with
_MATCH = 0.5  # IoU above which objects match
_IMAGES = 100  # at most so many are compared
_SHOWN = 4  # of either kind
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


def measure_agreement(
    before: Any,
    after: Any,
    files: Sequence[Path],
    *,
    shape: InputShape,
    device: Any,
    labels: Mapping[int, str] | None = None,
) -> tuple[Agreement, dict[str, Pair]]:
    """Let two models predict on the same images, and match their predictions.

    Each is a `YOLO`, which is fused by predicting; they have the same class names. At most 100 of the files, evenly
    spaced, are read, and those that are no images are passed over. In the pictures, classes are called by `labels`;
    None for their names.

    Returns:
        Their agreement, and the pictures by name: "example-1", ..., "difference-1", ...

    Raises:
        DataError: No image can be read.
    """
    chosen = [files[k] for k in spread(len(files), _IMAGES)]
    arguments = {"imgsz": list(shape.size), "device": device, "conf": _CONFIDENCE, "iou": _NMS_IOU, "verbose": False}

    def predictions(path: Path) -> tuple[Any, Any] | None:
        image = read_image(path, shape.channels)
        if image is None:
            return None
        of_before, of_after = (model.predict(image, save=False, **arguments)[0] for model in (before, after))
        return of_before, of_after

    def compared(path: Path) -> ImageAgreement | None:
        if (pair := predictions(path)) is None:
            return None
        b, a = pair
        return ImageAgreement(path.name, panoptic_quality(*_objects(b), *_objects(a)), len(b), len(a))

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


def _objects(found: Any) -> tuple[list[str], torch.Tensor]:
    """Class names and masks (k, h, w) of Ultralytics' `Results`."""
    names = [found.names[int(k)] for k in found.boxes.cls]
    return names, found.masks.data.cpu() if names else torch.zeros(0, 1, 1, dtype=torch.uint8)


def _drawn(found: Any, labels: Mapping[int, str]) -> Picture:
    """Ultralytics' own drawing of what was found, in the image at the size at which it is shown.

    At a photograph's own size, the masks of 300 objects in 12 megapixels would take 18 GB.
    """
    image, boxes = found.orig_img, found.boxes.data.clone()
    height, width = image.shape[:2]
    if (scale := _SIDE / max(height, width)) < 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        image = np.atleast_3d(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        boxes[:, :4] *= boxes.new_tensor([size[0] / width, size[1] / height] * 2)
    masks = None if found.masks is None else found.masks.data
    drawn: Picture = Results(image, path=found.path, names=dict(labels), boxes=boxes, masks=masks).plot()
    return np.ascontiguousarray(drawn[..., ::-1])


def panoptic_quality(
    names_before: Sequence[str], before: torch.Tensor, names_after: Sequence[str], after: torch.Tensor
) -> float:
    """Panoptic quality of one list of objects against another, in [0, 1]; the same if they are exchanged.

    Each list has the class names of its objects and their masks (k, h, w) in {0, 1}, of any type.
    """
    if not len(before) or not len(after):
        return float(len(before) == len(after))
    iou = pairwise_iou(before, after)
    same = torch.tensor([[x == y for y in names_after] for x in names_before])
    iou = torch.where(same, iou, 0.0)
    matched, total = 0, 0.0
    while float(iou.max()) > _MATCH:  # the best first; masks of one model may overlap, so a match need not be unique
        i, j = divmod(int(iou.argmax()), iou.shape[1])
        matched, total = matched + 1, total + float(iou[i, j])
        iou[i], iou[:, j] = 0, 0
    return total / ((len(before) + len(after)) / 2)
