"""What drawn shapes are labelled with, by the task: numbers that follow an object's class, in picture widths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]  # (SUPERSAMPLE * imgsz, SUPERSAMPLE * imgsz), 0 or 1
Points = NDArray[np.float64]  # (K, 2), x to the right and y down

SUPERSAMPLE: Final = 4  # outlines are rasterised this much finer than the picture: soft edges, sub-pixel polygons
KEYPOINTS: Final = ("top", "right", "bottom", "left")
_VISIBLE = 2


class Object(NamedTuple):
    """A drawn shape."""

    label: int  # of its class
    area: float  # of the whole outline, also outside of the picture, in the masks' pixels
    box: Points  # (4, 2) corners of the rectangle along its own axes, also where it is hidden, in the masks' pixels
    whole: Mask  # inside the picture
    visible: Mask  # and not under later objects


@dataclass(frozen=True)
class Labelling:
    """How objects are drawn for a task, and labelled."""

    numbers: Callable[[Object], NDArray[np.float64]]  # of an object's line, after its class
    keys: Mapping[str, Any] = field(default_factory=dict)  # of `data.yaml`, beside those of every task
    squash: float = 1.0  # width of an object across its own axis, against that along it
    inside: float = 0.8  # least distance of its centre to the border, in radii


def _polygon(thing: Object) -> NDArray[np.float64]:
    """The outline of what is visible, to a quarter of a picture's pixel; `(2 * K,)`."""
    contours, _ = cv2.findContours(thing.visible, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = cv2.approxPolyDP(contours[0], SUPERSAMPLE / 4, True) + 0.5  # contours run through the pixels' centres
    found: NDArray[np.float64] = (points / len(thing.visible)).ravel()
    return found


def _box(thing: Object) -> NDArray[np.float64]:
    """Centre, width and height of the polygon; `(4,)`."""
    points = _polygon(thing).reshape(-1, 2)
    least, most = points.min(0), points.max(0)
    return np.concatenate([(least + most) / 2, most - least])


def _keypoints(thing: Object) -> NDArray[np.float64]:
    """The box, and x, y and visibility of the outermost point at each of the four sides (see `KEYPOINTS`); `(16,)`.

    Of several points that are as far out it is their mean.
    """
    contours, _ = cv2.findContours(thing.visible, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = contours[0].reshape(-1, 2)
    ends = [points[(points @ out) == (points @ out).max()].mean(0) + 0.5 for out in ((0, -1), (1, 0), (0, 1), (-1, 0))]
    flagged = [(*end / len(thing.visible), _VISIBLE) for end in ends]
    return np.concatenate([_box(thing), np.ravel(flagged)])


def _rotated_box(thing: Object) -> NDArray[np.float64]:
    """The corners of the box along the object's own axes, in turn; `(8,)`."""
    found: NDArray[np.float64] = ((thing.box + 0.5) / len(thing.visible)).ravel()
    return found


LABELLINGS: Final[Mapping[str, Labelling]] = {
    "segment": Labelling(_polygon),
    "detect": Labelling(_box),
    # Right and left change places in a mirror. Upside down top and bottom would, for which Ultralytics has no key.
    "pose": Labelling(_keypoints, {"kpt_shape": [len(KEYPOINTS), 3], "flip_idx": [0, 3, 2, 1]}),
    "obb": Labelling(_rotated_box, squash=0.5, inside=1.13),  # √(1² + 0.5²) radii: boxes lie in the picture
}
