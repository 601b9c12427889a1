"""Snapshots of a training, so that one that was killed goes on where it was.

Ultralytics' own `last.pt` holds an average of the weights in half precision and no random state, and a kill while it is
written truncates it. A snapshot is one file, written in one step after every epoch, with that checkpoint in it, the
epochs' figures, and what it lacks. It is read without running any code in it.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.utils.torch_utils import unwrap_model

from depgraph_hsic_only.errors import CheckpointError
from depgraph_hsic_only.support.files import write_atomically, write_text_atomically

_TEACHER = "teacher_model."


def order_by_epoch(trainer: Any) -> None:
    """Callback for "on_train_epoch_start": the order of the images is a matter of the seed and the epoch alone.

    So a training that was cut off sees them in the order that it would have. Worker processes, which live on from epoch
    to epoch and draw ahead, are left alone: there the order after a resume is another one.
    """
    loader = trainer.train_loader
    if loader.num_workers == 0:
        loader.reset()
        loader.generator.manual_seed(trainer.args.seed + trainer.epoch)


@dataclass(frozen=True)
class TakeSnapshot:
    """Callback for "on_model_save": writes the state of the training to a file."""

    file: Path

    def __call__(self, trainer: Any) -> None:
        """Write the snapshot of the epoch that has just ended."""
        network = unwrap_model(trainer.model).state_dict()
        state = {
            "epoch": trainer.epoch,
            "checkpoint": torch.frombuffer(bytearray(trainer.last.read_bytes()), dtype=torch.uint8),
            "results": trainer.csv.read_text(encoding="utf-8"),
            "network": {name: tensor for name, tensor in network.items() if not name.startswith(_TEACHER)},
            "average": trainer.ema.ema.state_dict(),
            "optimizer": _plain(trainer.optimizer.state_dict()),
            "random": _random_state(),
        }
        write_atomically(self.file, lambda temporary: torch.save(state, temporary))


@dataclass(frozen=True)
class Snapshot:
    """The state of a training after an epoch."""

    file: Path
    epoch: int  # from 0
    checkpoint: bytes  # Ultralytics' own
    results: str  # the content of `results.csv`

    @classmethod
    def read(cls, file: Path) -> "Snapshot | None":
        """Read a snapshot; None where there is none, and a `CheckpointError` where it is damaged."""
        if not file.is_file():
            return None
        state = _read(file)
        return cls(file, state["epoch"], state["checkpoint"].numpy().tobytes(), state["results"])

    def restore_files(self, folder: Path) -> Path:
        """Write the checkpoint and the figures into a training's folder, as they were, and return the checkpoint."""
        last = folder / "weights" / "last.pt"
        last.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(last, lambda temporary: temporary.write_bytes(self.checkpoint))
        write_text_atomically(folder / "results.csv", self.results)
        return last

    def __call__(self, trainer: Any) -> None:
        """Callback for "on_train_start": puts back what Ultralytics' checkpoint lacks."""
        state = _read(self.file)
        found = unwrap_model(trainer.model).load_state_dict(state["network"], strict=False)
        if found.unexpected_keys or not all(name.startswith(_TEACHER) for name in found.missing_keys):
            raise CheckpointError(
                f"{self.file}: expected the state of this training, got other tensors; remove the file to train anew"
            )
        trainer.ema.ema.load_state_dict(state["average"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        _set_random_state(state["random"])


def _read(file: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything
        raise CheckpointError(
            f"{file}: expected the snapshot of a training, but it could not be read ({type(error).__name__}); remove "
            "the file to train anew"
        ) from error
    return state


def _plain(value: Any) -> Any:
    """Nested state with Python's numbers in place of NumPy's, which a safe reader refuses."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
