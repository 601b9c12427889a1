"""mAP with what paired comparisons need: its value on samples of the validation images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from depgraph_hsic_only.evaluation import bootstrap
from depgraph_hsic_only.evaluation.validation import Validation, validate_model


@dataclass(frozen=True, eq=False)
class Measured:
    """Validation of one model.

    Attributes:
        box: Box mAP50-95.
        primary: mAP50-95 of the task's primary kind: mask, pose, or box.
        samples: The primary mAP50-95 on samples of the images.
    """

    box: float
    primary: float
    samples: tuple[float, ...]


def measure(model: Any, data: str, validation: Validation) -> Measured:
    """Validate a live `YOLO` from the file it saves, on the CPU."""
    found = validate_model(model, data, validation, device="cpu", workers=0, draws=bootstrap.DRAWS)
    return Measured(found["box"].map50_95, found.primary.map50_95, found.resampled)


def paired_interval(a: Sequence[Measured], b: Sequence[Measured]) -> tuple[float, float]:
    """95 % bootstrap interval of the difference a − b in the primary mAP50-95: the same images drawn for both.

    Args:
        a: One validation for each seed.
        b: The same of what it is compared with.
    """
    return bootstrap.paired_interval([m.samples for m in a], [m.samples for m in b])
