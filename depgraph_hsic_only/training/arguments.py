"""What Ultralytics' train arguments are: their names and defaults, their values, and those that a run doesn't take."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from ultralytics.cfg import check_cfg, smart_value
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.torch_utils import autocast, parse_device

from depgraph_hsic_only.errors import ConfigError, one_line
from depgraph_hsic_only.support.yaml import read_value
from depgraph_hsic_only.yolo.device import check_device, select_device
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.tasks import TASKS, task_of
from depgraph_hsic_only.yolo.types import Network

TRAIN_ARGUMENTS: Final[dict[str, Any]] = DEFAULT_CFG_DICT
"""By name: the default."""

_USE, _OTHER_TASK = "no training reads it; pass it to", "only trainings of models for {} read it"
_READ_BY: Final = {  # what trainings of models for one task alone read: its name
    **dict.fromkeys(("pose", "kobj", "rle"), "pose"),
    "angle": "obb",
    **dict.fromkeys(("overlap_mask", "mask_ratio"), "segment"),
}
REFUSED: Final = {  # those that a run sets itself, that do nothing in its trainings, or that would break it: why
    **{
        key: f"it comes from {where}"
        for key, where in {
            "model": "pretrained at the top level",
            "pretrained": "pretrained at the top level",
            "data": "data at the top level",
            "task": "the checkpoint",
            "mode": "the workflow",
            "project": "project at the top level",
            "name": "name at the top level",
            "exist_ok": "exist_ok at the top level",
            "cfg": "the train arguments themselves",
            "resume": "a new run",
            "save": "the workflow, which needs the checkpoints",
        }.items()
    },
    **dict.fromkeys(
        (
            *("source", "vid_stride", "stream_buffer", "retina_masks", "embed"),
            *("show", "save_frames", "save_crop", "show_boxes", "line_width"),
        ),
        f"{_USE} YOLO('best.pt').predict()",
    ),
    **dict.fromkeys(("augment", "dnn"), f"{_USE} YOLO('best.pt').val() or predict()"),
    "tracker": f"{_USE} YOLO('best.pt').track()",
    **dict.fromkeys(("dynamic", "simplify", "opset"), "no training reads it; set it in the block export"),
    **dict.fromkeys(("format", "optimize", "workspace"), f"{_USE} YOLO('best.pt').export()"),
    "nms": "every mAP of a run is by Ultralytics' default; pass it to YOLO('best.pt').val(), predict() or export()",
    "split": "every figure of a run is of the split val; name other images as val in the data set's YAML",
    **dict.fromkeys(("dropout", "auto_augment", "erasing"), _OTHER_TASK.format("classification")),
    **dict.fromkeys(("dlog", "dgrad", "dlam"), _OTHER_TASK.format("depth")),
}

_OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop")  # as they are written
_Expected = tuple[Callable[[Any], bool], str]


def _is_batch(value: Any) -> bool:
    return (type(value) is int and (value >= 1 or value == -1)) or (type(value) is float and 0 < value < 1)


def is_device(value: Any) -> bool:
    """Whether a value may name a device, or several; whether this machine has it is another question."""
    several = isinstance(value, (list, tuple)) and all(type(item) is int for item in value)
    return value is None or type(value) in (int, str) or several


def _are_layers(value: Any) -> bool:
    def is_index(item: Any) -> bool:
        return isinstance(item, int) and item >= 0

    several = isinstance(value, list) and all(isinstance(item, str) or is_index(item) for item in value)
    return value is None or is_index(value) or several


def _are_classes(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return value is None or (bool(several) and all(type(item) is int and item >= 0 for item in several))


_COMPILERS = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # modes of torch.compile
_MOST_MASK_RATIO = 32  # pixels of the smallest images, whose masks would vanish

_EXPECTED: Final[Mapping[str, _Expected]] = {  # what Ultralytics finds out late, or passes over in silence
    "batch": (_is_batch, "an integer of at least 1, or for AutoBatch -1 or a share of the GPU's memory in (0, 1)"),
    "time": (lambda v: v is None or v > 0, "hours above 0, or null"),
    "optimizer": (lambda v: v.lower() in map(str.lower, _OPTIMIZERS), f"one of {', '.join(_OPTIMIZERS)}"),
    "copy_paste_mode": (lambda v: v in ("flip", "mixup"), "flip or mixup"),
    "cache": (lambda v: str(v).lower() in ("none", "false", "true", "ram", "disk"), "true, false, ram or disk"),
    "freeze": (_are_layers, "a number of layers, a list of layers such as [0, 1] or '22.cv2', or null"),
    "classes": (_are_classes, "a class or a list of classes by number, such as [0, 2], or null"),
    "device": (is_device, "cpu, 0, [0, 1], mps or null"),
    "compile": (lambda v: v in (False, True, *_COMPILERS), f"true, false or one of {', '.join(_COMPILERS)}"),
    "mask_ratio": (lambda v: 1 <= v <= _MOST_MASK_RATIO, f"an integer of 1 to {_MOST_MASK_RATIO}"),
    "workers": (lambda v: v >= 0, "an integer of at least 0"),
    "seed": (lambda v: v < 2**32 - 1, "an integer of at least 0 and below 4294967295"),
}


def refused(name: str, key: str) -> str:
    """What to say of an argument of Ultralytics that the trainings of a run don't take."""
    return f"{name}: not a setting here; {REFUSED[key]}"


def value_fault(key: str, value: Any) -> str | None:
    """What Ultralytics has against the value of one of its arguments, in one line; None where it takes it."""
    try:
        canonical(key, value)
    except (TypeError, ValueError) as error:
        return one_line(error, 400)
    return None


def canonical(key: str, value: Any) -> Any:
    """A value of one of Ultralytics' arguments as it means it, such as 8 for quantize="int8".

    Raises:
        TypeError, ValueError: It doesn't take it.
    """
    settings = {key: value}
    check_cfg(settings)
    return settings[key]


def training_fault(key: str, value: Any) -> str | None:
    """What is wrong with the value of a train argument, in one line; None where Ultralytics can train with it."""
    fault = value_fault(key, value)
    if fault is None and key in _EXPECTED and not _EXPECTED[key][0](value):
        return f"expected {_EXPECTED[key][1]}, got {value!r}"
    return fault


def check_training(block: str, settings: Mapping[str, Any], network: Network, classes: int, device: Any) -> None:
    """Refuse a block of train arguments with which Ultralytics would not begin to train a network.

    Args:
        block: Its name, for messages.
        settings: Train arguments, each of a good value.
        network: What is to be trained, or what it will be cut from.
        classes: How many the data set has; asked for only where the arguments choose some.
        device: Where it is to be trained if the arguments don't say.

    Raises:
        CheckpointError, UnsupportedModelError: A teacher (`distill_model`) can't be used.
        ConfigError: Trainings for its task don't read an argument, all layers are frozen, a class is not in the data
            set, or the device, which this machine may not have, can't do what is asked of it; or it is to be quantised,
            which takes epochs and goes without `compile`.
    """
    if settings.get("distill_model"):
        load_model(settings["distill_model"])
    quantized = settings.get("quantize") is not None
    for key, good, expected in (("epochs", True, "at least 1"), ("compile", False, "false")) if quantized else ():
        if bool(settings.get(key)) is not good:
            raise ConfigError(
                f"{block}.{key}: expected {expected} with {block}.quantize, got {settings.get(key)}; change either"
            )
    if not settings["epochs"]:
        return
    task = task_of(network).name
    for key in settings.keys() & _READ_BY.keys():
        if task != (only := _READ_BY[key]):
            raise ConfigError(f"{block}.{key}: {_OTHER_TASK.format(TASKS[only].noun)}; leave it out")
    device = settings.get("device", device)
    check_device(device)
    frozen = settings.get("freeze") or []
    names = [f"model.{layer}." for layer in (range(frozen) if isinstance(frozen, int) else frozen)] + [".dfl"]
    if all(any(name in key for name in names) for key, _ in network.named_parameters()):
        raise ConfigError(f"{block}.freeze: expected a layer that is left to train, got {frozen!r}; freeze fewer")
    chosen = settings.get("classes")
    unknown = [k for k in (chosen if isinstance(chosen, list) else [chosen]) if k is not None and k >= classes]
    if unknown:
        raise ConfigError(
            f"{block}.classes: expected classes of the data set, 0 to {classes - 1}, got {unknown[0]}; leave it out"
        )
    if settings.get("batch", 1) < 1 and "," in parse_device(device):
        raise ConfigError(
            f"{block}.batch: expected an integer of at least 1 with several GPUs, got {settings['batch']}, which "
            "Ultralytics' AutoBatch finds out for one GPU only; pass the images of all GPUs together"
        )
    if settings.get("amp") == "bf16":
        try:
            autocast(torch.bfloat16, device=select_device(device).type)
        except RuntimeError as error:
            raise ConfigError(f"{block}.amp: {one_line(error)}, got bf16; pass amp=true") from error


def parse_override(text: str) -> tuple[str, Any]:
    """A command-line override "block.key=value" as the dotted key and the value, a list or mapping as a file has it.

    Raises:
        ConfigError: It has another form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"expected an override such as train.epochs=5, got {text!r}; write key=value without spaces")
    key, value = key.strip(), value.strip()
    found = None if value.lower() == "null" else smart_value(value)  # which knows "none" only, and words in quotes
    if isinstance(found, str) and found.startswith(("[", "{")):
        found = read_value(key, found)
    return key, found
