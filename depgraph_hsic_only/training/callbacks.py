"""Training hooks: users' callbacks for a whole run, what keeps a training from harm, and the record of each epoch."""

import csv
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.utils.callbacks.base import default_callbacks
from ultralytics.utils.torch_utils import unwrap_model

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.support.files import write_atomically
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.support.progress import begin_work, end_work, work_done, work_stands
from depgraph_hsic_only.support.threads import use_every_core
from depgraph_hsic_only.yolo.tasks import TASKS, map_column
from depgraph_hsic_only.yolo.types import Yolo

Hook = tuple[str, Callable[[Any], object]]
"""An event and the function that is called at it."""

MASK_MAP = map_column("mask")
PRUNE_EVENTS = ("on_prune_start", "on_prune_end")
_SHARE_OF_START, _LONGEST_DECAY = 0.4, 0.998
_SHIFT = 1.0  # SiLU is never below -0.28
_EPOCHS, _HOURS = "epochs", "hours"  # by which trainings are limited


class Callbacks:
    """Users' functions by event: Ultralytics' training events and this package's own.

    Args:
        hooks: Pairs of an event and a function, as `add` takes them.
    """

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._hooks: list[Hook] = []
        for event, function in hooks:
            self.add(event, function)

    def with_others(self, others: Iterable[Hook]) -> "Callbacks":
        """These functions and others; these are left as they are."""
        return Callbacks((*self._hooks, *others))

    def add(self, event: str, function: Callable[[Any], object]) -> None:
        """Call `function` at every `event` from now on.

        Args:
            event: "on_prune_start" or "on_prune_end", whose function gets a `PruneEvent`, or an event of Ultralytics
                such as "on_fit_epoch_end", whose function gets the trainer, validator or exporter.
            function: What to call. With several GPUs Ultralytics pickles it for the training processes.

        Raises:
            ConfigError: There is no such event.
        """
        known = [*PRUNE_EVENTS, *default_callbacks]
        if event not in known:
            raise ConfigError(f"callback: expected an event such as on_prune_end, got {event!r}{nearest(event, known)}")
        self._hooks.append((event, function))

    def attach(self, model: Yolo) -> None:
        """Register the functions of Ultralytics' events with a `YOLO`."""
        for event, function in self._hooks:
            if event not in PRUNE_EVENTS:
                model.add_callback(event, function)

    def fire(self, event: str, argument: Any) -> None:
        """Call the functions of one of this package's events."""
        for name, function in self._hooks:
            if name == event:
                function(argument)


def keep_statistics(trainer: Any) -> None:
    """Callback for "on_train_batch_start": BatchNorm uses the statistics it has, and leaves them as they are.

    Its scales and shifts are trained all the same. Ultralytics puts the model into training mode at every epoch.
    """
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def train_on_every_core(trainer: Any) -> None:
    """Callback for "on_train_start": on a CPU the arithmetic takes every core."""
    if trainer.device.type == "cpu":
        use_every_core()


def remember_start(trainer: Any) -> None:
    """Callback for "on_pretrain_routine_end": the average of the weights is of the start, too, in a short training.

    What Ultralytics validates and saves is a moving average which at first forgets within a few steps, as a training
    from random weights must: after 200 steps it is as good as the last weights. Averaged with a start that works, what
    was learnt keeps what was known (Wortsman et al. 2022, Robust fine-tuning of zero-shot models). With a constant
    decay the start has a share of 0.4 at the end of a training of up to 460 steps, and less in a longer one.

    Where the time is limited, Ultralytics counts after each epoch how many it is enough for, and the decay goes by
    that; in the first, which may be the only one, by one.
    """
    accumulate = trainer.accumulate

    def decay(_: int) -> float:
        known = not trainer.args.time or trainer.epoch > trainer.start_epoch
        steps = len(trainer.train_loader) * (trainer.epochs if known else 1) / accumulate
        return min(_LONGEST_DECAY, float(_SHARE_OF_START ** (1 / steps)))

    trainer.ema.decay = decay


def read_epochs(folder: str | Path) -> list[dict[str, float | None]]:
    """Losses, mAPs and learning rates of each epoch of an Ultralytics training.

    Read from the `results.csv` that Ultralytics writes after every epoch: with several GPUs the training happens in
    other processes, whose memory can't be read.

    Args:
        folder: The training's folder.

    Returns:
        A dict for each epoch, keys as Ultralytics names them ("epoch", "train/seg_loss", "metrics/mAP50-95(M)",
        "lr/pg0"); empty where nothing was trained. What was not measured is None: with `val=False` Ultralytics writes
        zeros for the validation of all epochs but the last.
    """
    path = Path(folder) / "results.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        return [measured({key.strip(): float(value) for key, value in row.items()}) for row in rows]


def measured(epoch: Mapping[str, float]) -> dict[str, float | None]:
    """An epoch's figures; None for those of a validation that was left out, for which Ultralytics writes zeros."""
    validated = any(value != 0 for key, value in epoch.items() if key.startswith("val/"))
    return {k: v if validated or not k.startswith(("val/", "metrics/")) else None for k, v in epoch.items()}


@dataclass(frozen=True)
class KeepBest:
    """Callback for "on_model_save": keeps the checkpoint of the epoch with the best mAP50-95 of one kind.

    Ultralytics' own `best.pt` goes by box and mask, or box and pose, together. All that is remembered is on the disk,
    in the training's `results.csv`: it works in another process, and after a training was resumed.

    Attributes:
        file: Where the checkpoint is copied to.
        column: Ultralytics' name of the mAP50-95 (see `tasks.map_column`).
    """

    file: Path
    column: str = MASK_MAP

    def __call__(self, trainer: Any) -> None:
        """Copy the checkpoint just written if its epoch is the best so far."""
        self.keep(trainer.save_dir, trainer.last)

    def keep(self, folder: Path, last: Path) -> None:
        """Copy a checkpoint if the last epoch of a training's folder is the best so far."""
        scores = [epoch.get(self.column) for epoch in read_epochs(folder)]
        known = [score for score in scores if score is not None]
        if known and scores[-1] is not None and known.index(max(known)) == len(known) - 1:
            write_atomically(self.file, lambda temporary: shutil.copyfile(last, temporary))


@dataclass(frozen=True)
class IdentityProjectors:
    """Callback for "on_pretrain_routine_end": lets distillation compare features as they are, from the first step on.

    Ultralytics' distillation puts the student's features through a projector of two random 1×1 convolutions with a ReLU
    in between, which would have to be learnt first. The features of a cut model are some of the original's, so the
    projector starts as what puts each where it was: the identity, shifted past the ReLU's kink and back.

    Attributes:
        kept: For each input of the head, the original's channels that the student has, ascending; None for all.
    """

    kept: tuple[tuple[int, ...] | None, ...]

    def __call__(self, trainer: Any) -> None:
        """Set the projectors' weights; a training that is resumed has its own."""
        projectors = getattr(unwrap_model(trainer.model), "projector", None)
        if projectors is None or trainer.start_epoch > 0:
            return
        for (first, _, last), kept in zip(projectors, self.kept, strict=True):
            channels = range(len(last.weight)) if kept is None else kept
            for conv, shift in ((first, _SHIFT), (last, -_SHIFT)):
                nn.init.zeros_(conv.weight)
                nn.init.constant_(conv.bias, shift)
            with torch.no_grad():
                last.weight[range(len(last.weight)), range(len(last.weight))] = 1.0
                first.weight[list(channels), range(len(channels))] = 1.0


def _training_begins(trainer: Any) -> None:
    if trainer.args.time:
        begin_work(_HOURS, trainer.args.time)
    else:
        begin_work(_EPOCHS, trainer.epochs, trainer.start_epoch)


def _batch_done(trainer: Any) -> None:
    _tell(trainer, 1 / len(trainer.train_loader))


def _epoch_done(trainer: Any) -> None:
    kind = TASKS[trainer.args.task].primary
    found = measured(trainer.metrics).get(map_column(kind))
    loss = sum(trainer.label_loss_items(trainer.tloss).values())
    _tell(trainer, 0, f"loss {loss:.3f}" if found is None else f"{kind} mAP50-95 {found:.4f}")


def _tell(trainer: Any, epochs: float, figure: str = "") -> None:
    """So many more epochs are done: told as the share of the time that is up, where that is what limits them."""
    if trainer.args.time:
        work_stands(_HOURS, (time.time() - trainer.train_time_start) / 3600, figure)
    else:
        work_done(_EPOCHS, epochs, figure)


def _training_ends(_: Any) -> None:
    end_work(_EPOCHS)
    end_work(_HOURS)


# Callbacks by event that show how far a training is. They are functions of a module, and what they tell
# of is found when they are called: Ultralytics pickles them for the processes of several GPUs, where nothing is shown.
TRAINING_PROGRESS = (
    ("on_train_start", _training_begins),
    ("on_train_batch_end", _batch_done),
    ("on_model_save", _epoch_done),
    ("on_train_end", _training_ends),
)
