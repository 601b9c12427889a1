"""Which data set a checkpoint was trained on: by the digest of its content, or by what Ultralytics writes down."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

from depgraph_hsic_only.data.dataset import Dataset, same_classes, training_images
from depgraph_hsic_only.yolo.types import Yolo

# Beside Ultralytics' keys of a checkpoint, not among its train arguments, of which it strips those that it doesn't
# know. `YOLO.save` keeps it, and Ultralytics' next training, which may be on something else, leaves it out.
_KEY = "depgraph_hsic_only"


def provenance(dataset: Dataset, *, teacher_on_data: bool = False) -> dict[str, Any]:
    """What a checkpoint is to say of the data set that it was trained on, as entries of the file.

    That is whether its teacher, where it had one, was trained on the same, too.
    """
    return {_KEY: {"data": dataset.digest(), "teacher_on_data": teacher_on_data}}


def trained_on(model: Yolo, dataset: Dataset) -> Mapping[str, Any] | None:
    """The train arguments of a `YOLO` that was trained on a data set, by the word of its checkpoint.

    They are complete and valid. None where it was trained on something else, had a teacher that was, or doesn't say.

    The data set has the same classes and the digest that the checkpoint has recorded, wherever it is now. Where a
    checkpoint has none, as those that Ultralytics alone has made, the file that it names must be this data set's, or
    list training images of the same names and sizes. Ultralytics may name it by a relative path, which is taken from
    the working directory, as that of the training is not known.
    """
    checkpoint = model.ckpt or {}
    told = checkpoint.get("train_args")
    if not isinstance(told, dict) or not same_classes(model.names, dataset.classes(bool(told.get("single_cls")))):
        return None
    try:
        arguments = vars(get_cfg(overrides={key: told[key] for key in DEFAULT_CFG_DICT if key in told}))
    except Exception:  # whatever Ultralytics raises for values that it can't use: a checkpoint may say anything
        return None
    recorded = known if isinstance(known := checkpoint.get(_KEY), dict) else {}
    if arguments["distill_model"] is not None and recorded.get("teacher_on_data") is not True:
        return None
    digest = recorded.get("data")
    same = _names(arguments["data"], dataset) if digest is None else digest == dataset.digest()
    return arguments if same else None


def _names(named: object, dataset: Dataset) -> bool:
    """Whether what a checkpoint names is the file of a data set, or one with the same training images."""
    if named is None:
        return False
    try:
        own = dataset.keys.get("yaml_file")
        if own is not None and Path(str(named)).resolve() == Path(own).resolve():
            return True
        return _listed(training_images(str(named))) == _listed(dataset.images("train"))
    except (OSError, ValueError):  # `DataError`s too: what is named is not on this machine, or no path at all
        return False


def _listed(images: list[Path]) -> list[tuple[str, int]]:
    return sorted((image.name, image.stat().st_size) for image in images if image.is_file())
