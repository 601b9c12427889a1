"""How a model that already works is trained on, so that it never gets worse: Ultralytics train arguments.

Ultralytics' defaults are for trainings of a hundred epochs that start far from a solution. A checkpoint of the same
data, or a cut model that was recovered, is near one, and what moves it away before it comes back harms a short
training: the warm-up's learning rate of the biases, BatchNorm's statistics of small augmented batches, a step for every
64 images only. What each choice is worth is measured in `benchmarks/README.md`.
"""

import math
from typing import Any

_LEAST_RATE, _MOST_RATE = 1e-4, 2e-3  # of AdamW: where nothing was lost, and where everything was
_MOSAIC_EPOCHS = 20  # shorter trainings see whole images only
_SETTLED = 0.5  # share of the accuracy: from there on BatchNorm's statistics are those to keep


def continued(*, images: int, batch: int, epochs: int, kept: float) -> dict[str, Any]:
    """Train arguments for a model that works, to be put under the user's own.

    Args:
        images: Training images.
        batch: Images per batch.
        epochs: Epochs to train for.
        kept: Share of the accuracy that the model has now of what it once had, in [0, 1]; 1 for one that was not cut.
    """
    steps = max(1, math.ceil(images / batch)) * epochs
    return {
        "optimizer": "AdamW",
        "lr0": float(f"{learning_rate(kept):.2g}"),
        "lrf": 0.01,
        "cos_lr": True,
        "nbs": batch,  # a step for every batch
        "warmup_epochs": round(min(1.0, epochs * min(100, steps / 10) / steps), 3),
        "warmup_bias_lr": 0.0,
        "mosaic": 1.0 if epochs >= _MOSAIC_EPOCHS else 0.0,
        "close_mosaic": epochs // 2,
    }


def learning_rate(kept: float) -> float:
    """Between the rates for a model that has lost nothing and one that has lost all, on a logarithmic scale."""
    lost = 1 - min(max(kept, 0.0), 1.0)
    return math.exp(math.log(_LEAST_RATE) + lost * math.log(_MOST_RATE / _LEAST_RATE))


def keeps_statistics(kept: float) -> bool:
    """Whether BatchNorm should keep its statistics in the training: not where the cut has made them wrong."""
    return kept >= _SETTLED
