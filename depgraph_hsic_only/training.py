"""Training by Ultralytics: of a copy, so that nothing is lost, and with the best epoch by mask mAP as the result."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.utils.torch_utils import strip_optimizer

from depgraph_hsic_only.loading import load_model
from depgraph_hsic_only.nms import patient_nms
from depgraph_hsic_only.plan import PruningPlan
from depgraph_hsic_only.recipe import Start, continued, taught
from depgraph_hsic_only.reconstruction import head_channels, untouched_layers
from depgraph_hsic_only.utils.hooks import (
    MASK_MAP,
    TRAINING_PROGRESS,
    Callbacks,
    IdentityProjectors,
    KeepBest,
    keep_statistics,
    read_epochs,
)


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


@dataclass(frozen=True)
class Recipe:
    """How to train on.

    Attributes:
        arguments: Ultralytics train arguments, to be put under the user's own.
        callbacks: What goes with them, by Ultralytics' event.
    """

    arguments: Mapping[str, Any]
    callbacks: tuple[tuple[str, Callable[[Any], object]], ...]


def make_recipe(network: Any, start: Start, teacher: Path | None = None, plan: PruningPlan | None = None) -> Recipe:
    """How to train on a network that works (see `recipe.py`).

    Args:
        network: A SegmentationModel.
        start: Where the training starts.
        teacher: Checkpoint of the network as it was, or before it was cut; None to learn from the labels alone. It is
            loaded by Ultralytics with all the code in it.
        plan: What was cut from the teacher; None for nothing.
    """
    arguments = continued(start)
    callbacks: list[tuple[str, Callable[[Any], object]]] = []
    if teacher is not None:
        untouched: list[int] = []
        channels: tuple[tuple[int, ...] | None, ...] = (None,) * len(network.model[-1].f)
        if plan is not None:
            original = load_model(teacher).model
            untouched, channels = untouched_layers(network, original), head_channels(network, original, plan)
        arguments |= taught(start, teacher, untouched)
        callbacks.append(("on_pretrain_routine_end", IdentityProjectors(channels)))
    if start.settled:
        callbacks.append(("on_train_batch_start", keep_statistics))
    return Recipe(arguments, tuple(callbacks))


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
    callbacks.with_others([*TRAINING_PROGRESS, ("on_model_save", KeepBest(best))]).attach(trainee)
    try:
        with patient_nms():
            trainee.train(**{**arguments, "project": str(folder.parent), "name": folder.name, "exist_ok": True})
        scores = [epoch.get(MASK_MAP) for epoch in read_epochs(folder)]
        if not best.is_file():
            return Trained(load_model(folder / "weights" / "last.pt"), len(scores), len(scores), None)
        strip_optimizer(best)
        found = load_model(best)
    finally:
        best.unlink(missing_ok=True)
    return Trained(found, 1 + scores.index(max(s for s in scores if s is not None)), len(scores), scores[-1])
