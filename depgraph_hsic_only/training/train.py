"""Training by Ultralytics: of a copy, so that nothing is lost, and with the best epoch as the result.

The best one is that of the highest mAP50-95 of the kind of prediction that counts most (see `tasks.Task`).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralytics import YOLO
from ultralytics.utils.torch_utils import strip_optimizer

from depgraph_hsic_only.channels.cut import Kept
from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.recovery.refit import head_channels, untouched_layers
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.training.callbacks import (
    TRAINING_PROGRESS,
    Callbacks,
    Hook,
    IdentityProjectors,
    KeepBest,
    keep_statistics,
    read_epochs,
    remember_start,
    train_on_every_core,
)
from depgraph_hsic_only.training.provenance import provenance
from depgraph_hsic_only.training.recipe import Start, continued, taught
from depgraph_hsic_only.training.snapshot import Snapshot, TakeSnapshot, order_by_epoch
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.patches import any_prototypes, patient_nms, safe_load
from depgraph_hsic_only.yolo.tasks import TASKS, map_column
from depgraph_hsic_only.yolo.types import Network, Yolo

_CHANGEABLE_ON_RESUME = ("data", "device", "workers", "batch", "distill_model")  # where it runs, and where files are


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training led to: the best epoch, or the last one where no epoch was validated."""

    model: Yolo  # of that epoch
    epoch: int  # its number, from 1
    epochs: int  # how many there were
    last: float | None  # primary mAP50-95 of the last epoch, as Ultralytics measured it in the training, if it did
    batch: int  # less than was asked for where Ultralytics halved it, since a GPU's memory ran out


@dataclass(frozen=True)
class Recipe:
    """How to train on."""

    arguments: Mapping[str, Any]  # of Ultralytics, to be put under the user's own
    callbacks: tuple[Hook, ...]  # what goes with them, by Ultralytics' event


@dataclass(frozen=True, eq=False)
class Teacher:
    """What a model learns from beside the labels."""

    file: Path  # checkpoint of the model as it was, or before it was cut
    model: Yolo | None = None  # what is in it, where the model was cut from it
    kept: Kept = field(default_factory=dict)  # by the cut

    @classmethod
    def itself(cls, model: Yolo, folder: Path) -> "Teacher":
        """What a model that was not cut learns from so that it doesn't forget: itself, written to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "teacher.pt", model.save)
        return cls(folder / "teacher.pt")


def make_recipe(network: Network, start: Start, teacher: Teacher | None = None) -> Recipe:
    """How to train on a network that works (see `recipe.py`).

    Without a teacher it learns from the labels alone, as it does in any case where all that it knows is of this data
    set, and neither by heart nor from elsewhere.
    """
    arguments = continued(start)
    callbacks: list[Hook] = []
    if teacher is not None and start.needs_teacher:
        untouched: list[int] = []
        channels: tuple[tuple[int, ...] | None, ...] = (None,) * len(network.model[-1].f)
        if teacher.model is not None:
            original = teacher.model.model
            untouched, channels = untouched_layers(network, original), head_channels(original, teacher.kept)
        arguments |= taught(start, teacher.file, untouched)
        callbacks.append(("on_pretrain_routine_end", IdentityProjectors(channels)))
    if start.settled:
        callbacks += [("on_pretrain_routine_end", remember_start), ("on_train_batch_start", keep_statistics)]
    return Recipe(arguments, tuple(callbacks))


def train_model(
    model: Yolo,
    folder: Path,
    arguments: Mapping[str, Any],
    callbacks: Callbacks,
    *,
    dataset: Dataset,
    scratch: Path,
    teacher_on_data: bool = False,
    load: Callable[[Path], Yolo] = load_model,
) -> Trained:
    """Train a copy of a `YOLO`; the model itself is left as it is.

    A training that was cut off, and whose snapshot is in `scratch`, goes on from the last epoch that was finished.

    Args:
        folder: The training's folder, which Ultralytics writes, and removes what it finds in it.
        arguments: Ultralytics train arguments, without those of the folder.
        dataset: What the argument `data` stands for: the resulting checkpoint says so (see `provenance.py`).
        scratch: Folder for what the training goes on from when it is cut off: its snapshot, and the best checkpoint.
            It is made where it is missing, and is the caller's to remove when the result is safe.
        teacher_on_data: Whether a teacher among the arguments was trained on the data set, too.
        load: What loads the checkpoint of the result, which is in `scratch`.

    Raises:
        CheckpointError: The snapshot is damaged.
        Exception: Whatever Ultralytics raises for arguments or data that it can't use (see `refusals.py`).
    """
    scratch.mkdir(parents=True, exist_ok=True)
    column = map_column(TASKS[dataset.task].primary)
    state, result = scratch / "snapshot.pt", scratch / "result.pt"
    best = KeepBest(scratch / "best.pt", column)
    callbacks = callbacks.with_others(
        [
            ("on_train_start", train_on_every_core),
            ("on_train_epoch_start", order_by_epoch),
            ("on_model_save", TakeSnapshot(state)),
            ("on_model_save", best),
            *TRAINING_PROGRESS,  # what is told of is on the disk by then
        ]
    )
    snapshot = Snapshot.read(state)
    with patient_nms(), any_prototypes(), safe_load():
        if snapshot is None:
            best.file.unlink(missing_ok=True)
            result.unlink(missing_ok=True)
            trainee = copy.deepcopy(model)
            callbacks.attach(trainee)
            trainee.train(**{**arguments, "project": str(folder.parent), "name": folder.name, "exist_ok": True})
        elif not result.is_file():  # a training that has stopped early, or by a limit of time, is over too
            _go_on(snapshot, folder, arguments, callbacks, best)
    scores = [epoch.get(column) for epoch in read_epochs(folder)]
    known = [score for score in scores if score is not None]
    kept = best.file if known else folder / "weights" / "last.pt"
    with safe_load():
        YOLO(str(kept))  # refuses code in it, which the next line would run
    told = provenance(dataset, teacher_on_data=teacher_on_data)
    write_atomically(result, lambda temporary: strip_optimizer(kept, str(temporary), told))
    epoch = 1 + scores.index(max(known)) if known else len(scores)
    trained = load(result)
    return Trained(trained, epoch, len(scores), scores[-1], int(trained.ckpt["train_args"]["batch"]))


def _go_on(
    snapshot: Snapshot, folder: Path, arguments: Mapping[str, Any], callbacks: Callbacks, best: KeepBest
) -> None:
    """Finish a training from its last snapshot."""
    last = snapshot.restore_files(folder)
    best.keep(folder, last)  # the kill may have come between the snapshot and this
    limit = arguments.get("time")
    spent = max(epoch["time"] or 0.0 for epoch in read_epochs(folder)) / 3600
    over = spent >= limit if limit else snapshot.epoch + 1 >= arguments["epochs"]
    if not over:
        say(f"going on after epoch {snapshot.epoch + 1} of {f'{limit:g} hours' if limit else arguments['epochs']}")
        trainee = YOLO(str(last))
        callbacks.with_others([("on_train_start", snapshot)]).attach(trainee)
        again = {key: value for key, value in arguments.items() if key in _CHANGEABLE_ON_RESUME}
        trainee.train(resume=True, save_dir=str(folder), **again)
