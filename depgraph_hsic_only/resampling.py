"""How much of a mAP is the choice of the validation images: the bootstrap (Efron 1979) over images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ultralytics.utils.metrics import ap_per_class

RESAMPLES = 40  # their standard deviation is known to about a ninth
LARGEST = 1000  # images; the mAP on more is good to a hundredth whatever they are, and resampling takes long
_SEED = 0  # the same images are drawn for every model, so that differences can be taken draw by draw


class ImageStatistics:
    """Takes down what Ultralytics' validator finds on each image, which it forgets; an `on_val_batch_end` callback."""

    def __init__(self) -> None:
        self.found: Mapping[str, list[Any]] = {}

    def __call__(self, validator: Any) -> None:
        self.found = {key: list(arrays) for key, arrays in validator.metrics.stats.items()}


def resampled_maps(found: Mapping[str, Sequence[Any]]) -> tuple[float, ...]:
    """Mask mAP50-95 on validation sets of the same size, drawn from the images with repetition.

    Args:
        found: By "tp_m" (detections, 10), "conf", "pred_cls" (detections,) and "target_cls" (objects,) a list with an
            array for each image, as Ultralytics' `SegmentMetrics.stats` holds them.

    Returns:
        A mAP for each of `RESAMPLES` draws, which are the same for every model; none for fewer than two images and
            for more than `LARGEST`.
    """
    images = len(found["conf"])
    if not 2 <= images <= LARGEST:
        return ()
    maps = []
    for draw in np.random.default_rng(_SEED).integers(images, size=(RESAMPLES, images)):
        arrays = (np.concatenate([found[key][k] for k in draw]) for key in ("tp_m", "conf", "pred_cls", "target_cls"))
        ap = ap_per_class(*arrays)[5]  # (classes, 10)
        maps.append(float(ap.mean()) if ap.size else 0.0)
    return tuple(maps)
