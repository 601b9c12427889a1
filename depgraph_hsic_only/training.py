"""Training by Ultralytics: of a copy, so that nothing is lost, and with the best epoch by mask mAP as the result."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.utils.torch_utils import strip_optimizer

from depgraph_hsic_only.loading import load_model
from depgraph_hsic_only.nms import patient_nms
from depgraph_hsic_only.utils.hooks import MASK_MAP, Callbacks, KeepBest, read_epochs


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training led to.

    Attributes:
        model: The `YOLO` of the best epoch by mask mAP50-95, of the last one where no epoch was validated.
        epoch: The number of that epoch, from 1.
        epochs: How many epochs there were.
        last: Mask mAP50-95 of the last epoch, as Ultralytics measured it in the training; None if it did not.
    """

    model: Any
    epoch: int
    epochs: int
    last: float | None


def train_model(model: Any, folder: Path, arguments: Mapping[str, Any], callbacks: Callbacks) -> Trained:
    """Train a copy of a `YOLO`; the model itself is left as it is.

    Args:
        model: What to train.
        folder: The training's folder, which Ultralytics writes.
        arguments: Ultralytics train arguments, without those of the folder.
        callbacks: Called at Ultralytics' events.
    """
    best = folder.with_name(f".{folder.name}-best.pt")  # Ultralytics removes what it finds in its folder
    best.unlink(missing_ok=True)
    trainee = copy.deepcopy(model)
    callbacks.attach(trainee)
    trainee.add_callback("on_model_save", KeepBest(best))
    with patient_nms():
        trainee.train(**{**arguments, "project": str(folder.parent), "name": folder.name, "exist_ok": True})
    scores = [epoch.get(MASK_MAP) for epoch in read_epochs(folder)]
    if not best.is_file():
        return Trained(load_model(folder / "weights" / "last.pt"), len(scores), len(scores), None)
    try:
        strip_optimizer(best)
        found = load_model(best)
    finally:
        best.unlink()
    return Trained(found, 1 + scores.index(max(s for s in scores if s is not None)), len(scores), scores[-1])
