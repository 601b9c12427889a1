"""How a model that already works is trained on, so that it never gets worse: Ultralytics train arguments.

Ultralytics' defaults are for trainings of a hundred epochs that start far from a solution. A checkpoint of the same
data, or a cut model that was recovered, is near one, and what moves it away before it comes back harms a short
training: the warm-up's learning rate of the biases, BatchNorm's statistics of small augmented batches, a step for every
64 images only.

Two kinds of models are near one. A model that has all that it knows from this very data set goes on as it was trained:
with its own augmentation, and at its own rate, or at twice that where it finds more in these images than in others, or
most of what there is, so that their labels have taught it what it knows. Where it knows the images by heart, so that
they teach little more, it is taught by what it was, too. The more a cut has cost, the faster it goes, but much faster
only where most was found before: elsewhere such steps take more from it than the labels bring back. A model that has
learnt elsewhere, on more than this, COCO's on a few hundred images, forgets at such rates, so it is trained gently and
taught by what it was. So is one that was trained on this data set but finds less in these images than in others: it
isn't from their labels that it knows what it knows. What each choice is worth is measured in `benchmarks/README.md`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.utils import DEFAULT_CFG_DICT

# of AdamW, for batches of 4: where nothing was lost of what was learnt elsewhere, and where everything was
_LEAST_RATE, _MOST_RATE = 2e-5, 2e-3
_MOST_OWN_RATE = 3e-4  # where it goes on as it was trained: 5e-4, as Ultralytics has it for one class, is too much
_AUGMENTATION = (
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr"),
    *("mosaic", "mixup", "cutmix", "copy_paste", "copy_paste_mode"),
)
_SMALLEST_BATCH = 4
_STEPS = 200  # that a training should have, if smaller batches can give it them
_OWN_STEPS = 1000  # the same of a model that goes on as it was trained
_LONG = 2000  # steps of a training in which nothing needs to be held still
_MOSAIC_EPOCHS = 20  # shorter trainings see whole images only
_SETTLED = 0.25  # share of the accuracy: from there on BatchNorm's statistics are those to keep
# mAP on training images to that on others, from which and up to which labels alone take from a model what generalises
_BY_HEART, _FROM_ELSEWHERE = 1.4, 0.85
# the same from which on, or mAP on training images from which on, what it knows is from these labels: they teach fast
_LEARNT_HERE, _FITTED = 1.1, 0.6
_FASTER = 2.0  # times its own rate, at least, for one that they teach fast
_DISTILLATION = 30.0  # weight of the features against the labels' losses: about equal parts


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    images: int  # that it is trained on
    batch: int  # that the run is configured for; a short training may take fewer images
    epochs: int  # to train for, at least 1, which stands for a number that is not known
    kept: float = 1.0  # share of the accuracy that the model once had, in [0, 1]; 1 for one that was not cut
    memorised: float = 1.0  # the accuracy that it once had on its training images, as a multiple of that on others
    fitted: float = 1.0  # the accuracy that it once had on its training images, in [0, 1]
    trained_with: Mapping[str, Any] | None = None  # arguments of its training on this very data set, if there was one
    classes: int = 80  # of the data set
    own_batch: bool = False  # whether the batch was set for this training, so that it is taken as it is

    @property
    def settled(self) -> bool:
        """Whether the start is worth keeping, its BatchNorm statistics too: not where the cut has made them wrong."""
        return self.kept >= _SETTLED

    @property
    def own(self) -> bool:
        """Whether all that the original knows is from the images that it is trained on."""
        return self.trained_with is not None and self.memorised > _FROM_ELSEWHERE

    @property
    def needs_teacher(self) -> bool:
        """Whether the original knows more than these labels can teach."""
        return not self.own or self.memorised >= _BY_HEART

    @property
    def learns_fast(self) -> bool:
        """Whether the labels alone teach, and what the original knows is from them.

        That is, it finds more in these images than in others, or most of what there is.
        """
        return not self.needs_teacher and (self.memorised >= _LEARNT_HERE or self.fitted >= _FITTED)


def continued(start: Start) -> dict[str, Any]:
    """Train arguments for a model that works, to be put under the user's own."""
    going_on = start.trained_with if start.own else None
    steps = _STEPS if going_on is None else _OWN_STEPS
    fitting = max(_SMALLEST_BATCH, start.images * start.epochs // steps)
    batch = start.batch if start.own_batch else min(start.batch, fitting)
    lost = 1 - min(max(start.kept, 0.0), 1.0)
    least = _LEAST_RATE if going_on is None else _own_rate(going_on, start.classes)
    share = lost ** (1 / 3 if start.learns_fast and start.fitted >= _FITTED else 2)
    faster = max(_FASTER if start.learns_fast else 1.0, (_MOST_RATE / least) ** share)
    rate = least * faster * math.sqrt(batch / _SMALLEST_BATCH)
    rate = min(rate, _MOST_RATE)  # that of a training from random weights, whatever the batch
    an_epoch = math.ceil(start.images / batch)  # steps
    known = start.trained_with or {}
    own = {key: known[key] for key in _AUGMENTATION if known.get(key, DEFAULT_CFG_DICT[key]) != DEFAULT_CFG_DICT[key]}
    mosaic = own.get("mosaic", 1.0) if start.epochs >= _MOSAIC_EPOCHS else 0.0
    return own | {
        "batch": batch,
        "nbs": batch,  # a step for every batch
        "optimizer": "AdamW",
        "lr0": float(f"{rate:.2g}"),
        "cos_lr": True,
        "warmup_epochs": round(min(0.3, 100 / an_epoch), 4),
        "warmup_bias_lr": 0.0,
        "mosaic": mosaic,
        "close_mosaic": start.epochs // 2,
    }


def _own_rate(trained_with: Mapping[str, Any], classes: int) -> float:
    """The rate of AdamW that a model was trained at, for batches of 4, by the square root of the batch.

    Where it was another optimizer, the rate that Ultralytics' optimizer=auto gives AdamW in its place.
    """
    told = float(trained_with["lr0"])
    adam = str(trained_with["optimizer"]).lower().startswith("adam") and 0 < told < 1
    rate = told if adam else 0.002 * 5 / (4 + classes)
    at_once = max(trained_with["nbs"], trained_with["batch"], 1)
    return min(max(rate * math.sqrt(_SMALLEST_BATCH / at_once), _LEAST_RATE), _MOST_OWN_RATE)


def taught(start: Start, teacher: Path, untouched: Sequence[int]) -> dict[str, Any]:
    """Train arguments by which a model learns from the original beside the labels, over those of `continued`.

    A few hundred images don't show what the original has learnt of rare classes elsewhere: without it as teacher, the
    unpruned model itself forgets. The teacher is the checkpoint of the model before the cut, or of the one that is
    trained on, as it was. Where a cut model has learnt elsewhere, layers in which nothing was cut stay as they are in a
    short training.
    """
    short = not start.own and start.settled and start.images * start.epochs / _SMALLEST_BATCH < _LONG
    arguments: dict[str, Any] = {"distill_model": str(teacher), "dis": _DISTILLATION}
    return arguments | ({"freeze": list(untouched)} if short and untouched else {})
