"""Whether a model fits a run and its data: task, classes as Ultralytics trains on them, keypoints, shape of images."""

from depgraph_hsic_only.data.dataset import Dataset, same_classes
from depgraph_hsic_only.data.images import smallest_frame
from depgraph_hsic_only.data.labels import keypoint_shape
from depgraph_hsic_only.errors import ConfigError, UnsupportedModelError
from depgraph_hsic_only.workflow.config import Config
from depgraph_hsic_only.yolo.input_shape import input_channels, input_side, rounded_up
from depgraph_hsic_only.yolo.load import bare_network, own_arguments
from depgraph_hsic_only.yolo.tasks import TASKS, Task, task_of
from depgraph_hsic_only.yolo.types import Yolo

_LOOKED_AT = 256  # validation images, for their shapes
_MUCH_OF_THE_SQUARE = 0.9  # of its pixels: where less would do, it is worth a word


def fitting_task(model: Yolo, only: str | None, pruner: str) -> Task:
    """The task of a model, where a pruner of some name takes it: any that there is, or the `only` one.

    Raises:
        UnsupportedModelError: It does not.
    """
    task = TASKS.get(str(model.task))
    if task is not None and only in (None, task.name):
        return task
    known = only or ", ".join(TASKS)
    other = "pass another one" if task is None else "DefaultYoloPruner takes it"
    raise UnsupportedModelError(f"{pruner}: expected a model for the task {known}, got one for '{model.task}'; {other}")


def single_cls(model: Yolo, config: Config) -> bool:
    """Whether all objects count as one class, by `single_cls` of a training, or as the checkpoint was trained.

    Ultralytics keeps that argument of a checkpoint for its own trainings and validations, too.
    """
    return _single_cls(model, config)[0]


def works_on(model: Yolo, dataset: Dataset, config: Config) -> bool:
    """Whether a model's classes, keypoints and channels are those of a run: it can be measured and trained on."""
    fits = input_channels(model.model) == dataset.channels and _same_keypoints(model, dataset)
    return fits and same_classes(model.names, dataset.classes(single_cls(model, config)))


def take_classes(model: Yolo, dataset: Dataset, config: Config) -> list[str]:
    """Check a loaded model's classes, and give them the names of the data set, as a training does.

    Returns:
        What a reader of the report must know of it.

    Raises:
        ConfigError: It would be pruned with another number of classes, or the same in another order, for other
            keypoints, or for images of other channels; or its number of classes would change after the cut.
    """
    if len(set(_single_cls(model, config))) > 1:
        raise ConfigError(
            "single_cls: expected the same in train and fine_tune, since the number of classes would change after the "
            f"cut, got {_single_cls(model, config)}; set it at the top level"
        )
    classes, trained = dataset.classes(single_cls(model, config)), config.train["epochs"] > 0
    has, wants = list(map(str, model.names.values())), list(map(str, classes.values()))
    if len(has) != len(wants) and not trained:
        counted = f"{len(wants)} with single_cls" if len(wants) != len(dataset.names) else len(wants)
        raise ConfigError(
            f"train.epochs: expected at least 1, since the checkpoint has {len(has)} classes and the data set "
            f"{counted}, got 0; train.epochs=50, say, transfers the model to the data set's classes"
        )
    channels = input_channels(model.model)
    if channels != dataset.channels and not trained:
        raise ConfigError(
            f"train.epochs: expected at least 1, since the checkpoint takes images with {channels} channels and those "
            f"of the data set have {dataset.channels}, got 0; train.epochs=50, say, trains a model for them"
        )
    if not (_same_keypoints(model, dataset) or trained):
        raise ConfigError(
            f"train.epochs: expected at least 1, since the checkpoint's kpt_shape is {list(_keypoints(model) or ())} "
            f"and the data set's {list(dataset.keypoints or ())}, got 0; train.epochs=50, say, trains a head for them"
        )
    if not model.ckpt or len(has) != len(wants):
        return []
    differ = [f"{a} -> {b}" for a, b in zip(has, wants, strict=True) if a != b]
    if not same_classes(model.names, classes):
        if not trained:
            raise ConfigError(
                "data: expected the checkpoint's classes in its order, but some stand elsewhere (checkpoint -> data "
                f"set: {_few(differ)}); change the order of names and labels, or pass train.epochs=50, say, to learn "
                "the new order"
            )
        return []
    model.model.names = dict(classes)
    return [f"its classes were taken by index, since their names differ: {_few(differ)}"] if differ else []


def frame_notes(model: Yolo, dataset: Dataset, config: Config) -> list[str]:
    """What to say where files for squares would spend much of their time on the grey around the images."""
    if config.export.get("imgsz"):
        return []
    side = input_side(model, config.imgsz)
    height, width = smallest_frame(dataset.images("val", _LOOKED_AT), side, rounded_up(bare_network(model), 1))
    if (share := height * width / side**2) >= _MUCH_OF_THE_SQUARE:
        return []
    return [
        f"validation images fit {height}x{width} px as large as they are in {side}x{side}: files for these "
        f"(export.imgsz=[{height},{width}]) have {share:.0%} of the pixels and take about so much of the time, with "
        "nothing cut"
    ]


def _single_cls(model: Yolo, config: Config) -> list[bool]:
    """What holds in each training that there is; where there is none, for the run."""
    own = own_arguments(model).get("single_cls")
    blocks = [block for block in (config.train, config.fine_tune) if block["epochs"]]
    return [bool(block.get("single_cls", own)) for block in blocks or [{**config.train, **config.fine_tune}]]


def _keypoints(model: Yolo) -> tuple[int, int] | None:
    """Keypoints that a model for poses finds (see `Dataset.keypoints`); None for one of another task."""
    return keypoint_shape(vars(model.model)) if task_of(model.model).name == "pose" else None


def _same_keypoints(model: Yolo, dataset: Dataset) -> bool:
    """Whether a model finds the keypoints of a data set; those of another task find none, whatever that has."""
    return _keypoints(model) in (None, dataset.keypoints)


def _few(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
