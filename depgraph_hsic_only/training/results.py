"""What Ultralytics writes down of a training."""

import csv
from collections.abc import Mapping
from pathlib import Path

MASK_MAP = "metrics/mAP50-95(M)"  # as Ultralytics names it


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
