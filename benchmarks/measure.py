"""mAP with what paired comparisons need: the matches of every validation image, to be resampled."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ultralytics.utils.metrics import ap_per_class

from depgraph_hsic_only import load_model
from depgraph_hsic_only.evaluation import Validation
from depgraph_hsic_only.nms import patient_nms


@dataclass(frozen=True, eq=False)
class Measured:
    """Validation of one model.

    Attributes:
        box: Box mAP50-95.
        mask: Mask mAP50-95.
        images: For each image its matches: (tp_m, conf, pred_cls, target_cls).
    """

    box: float
    mask: float
    images: list[tuple[NDArray[Any], ...]]


def measure(model: Any, data: str, validation: Validation) -> Measured:
    """Validate a live `YOLO` from the file it saves, on the CPU."""
    kept: dict[str, list[Any]] = {}

    def keep(validator: Any) -> None:
        kept.update({key: list(values) for key, values in validator.metrics.stats.items()})

    with tempfile.TemporaryDirectory() as folder, patient_nms():
        model.save(Path(folder) / "model.pt")
        yolo = load_model(Path(folder) / "model.pt")
        yolo.add_callback("on_val_batch_end", keep)
        quiet = {"plots": False, "verbose": False, "project": folder, "device": "cpu", "workers": 0}
        found = yolo.val(data=data, imgsz=validation.imgsz, batch=validation.batch, rect=validation.rect, **quiet)
    rows = zip(kept["tp_m"], kept["conf"], kept["pred_cls"], kept["target_cls"], strict=True)
    return Measured(float(found.box.map), float(found.seg.map), list(rows))


def mask_map(images: list[tuple[NDArray[Any], ...]]) -> float:
    """Mask mAP50-95 of some images, with repeats."""
    tp, conf, predicted, target = (np.concatenate(column) for column in zip(*images, strict=True))
    return float(ap_per_class(tp, conf, predicted, target)[5].mean())


def paired_interval(
    a: Sequence[Measured], b: Sequence[Measured], *, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the difference a − b in mask mAP50-95: the same images drawn for both.

    Args:
        a: One validation for each seed.
        b: The same of what it is compared with.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    differences = []
    for _ in range(draws):
        drawn = random.integers(0, len(a[0].images), len(a[0].images))
        maps = [[mask_map([row.images[k] for k in drawn]) for row in rows] for rows in (a, b)]
        differences.append(np.mean(maps[0]) - np.mean(maps[1]))
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)
