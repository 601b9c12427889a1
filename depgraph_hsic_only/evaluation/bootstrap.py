"""How much of a mAP is the choice of the validation images, and how sure a difference of two is.

The bootstrap (Efron 1979) over images: the same images are drawn again and again for every model.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ultralytics.utils.metrics import ap_per_class

_RIGHT = {"box": "tp", "mask": "tp_m", "pose": "tp_p"}  # Ultralytics' key by kind of prediction
DRAWS = 200  # for an interval
_DRAWS_FOR_DEVIATION = 40  # which is known to about a ninth then
_LARGEST = 1000  # images; the mAP on more is good to a hundredth whatever they are, and drawing takes long

Interval = tuple[float, float]
Match = tuple[NDArray[Any], ...]
"""Of one image: whether each prediction is right at each IoU (p, 10), its confidence, its class; the true classes."""


class Matches:
    """Collects the matches of every validation image, of a kind of prediction: a callback for "on_val_batch_end"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind  # "box", "mask" or "pose"
        self.images: list[Match] = []  # in the order of validation, which is the same for all models

    def __call__(self, validator: Any) -> None:
        """Keep what a validator has found so far."""
        stats = validator.metrics.stats
        columns = (stats[key][len(self.images) :] for key in (_RIGHT[self.kind], "conf", "pred_cls", "target_cls"))
        self.images += zip(*columns, strict=True)

    def taken(self, order: Iterable[int]) -> "Matches":
        """The same images in another order."""
        found = Matches(self.kind)
        found.images = [self.images[k] for k in order]
        return found

    def bootstrap(self, draws: int = DRAWS, seed: int = 0) -> list[float]:
        """mAP50-95 on so many samples of the images, each as large as the set, with repeats.

        Equal draws, seeds and numbers of images give equal samples, so that the figures of two models are paired.
        """
        count = len(self.images)
        samples = np.random.default_rng(seed).integers(0, count, (draws, count))
        return [mean_average_precision([self.images[k] for k in sample]) for sample in samples]


def draws_for_deviation(images: int) -> int:
    """How many draws tell the deviation of a mAP on so many images; 0 where that is not worth its time."""
    return _DRAWS_FOR_DEVIATION if 2 <= images <= _LARGEST else 0


def mean_average_precision(images: Sequence[Match]) -> float:
    """mAP50-95 of some images, with repeats."""
    right, confidence, predicted, target = (np.concatenate(column) for column in zip(*images, strict=True))
    if not len(target):
        return 0.0
    return float(ap_per_class(right, confidence, predicted, target)[5].mean())


def paired_interval(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Interval:
    """95 % interval of the difference of two means over seeds, a − b.

    Each has, for each seed, the mAP on each sample of the images, which are the same (see `Matches.bootstrap`).
    """
    difference = np.mean(np.asarray(a), axis=0) - np.mean(np.asarray(b), axis=0)
    low, high = np.percentile(difference, [2.5, 97.5])
    return float(low), float(high)
