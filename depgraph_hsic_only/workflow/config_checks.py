"""What is wrong with settings: every fault by its key, with what was expected and what came."""

from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Any, Final

from depgraph_hsic_only.axes.candidates import IMGSZ, PRECISION, WIDTH, read_axes
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.budgets import is_number
from depgraph_hsic_only.channels.groups import check_layers
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.criteria import create_criterion, list_criteria
from depgraph_hsic_only.errors import PruningError
from depgraph_hsic_only.evaluation.deployed.command import command_fault
from depgraph_hsic_only.evaluation.deployed.deployment import AUTO, FLOAT, PRECISIONS, RUNTIMES
from depgraph_hsic_only.evaluation.deployed.formats import named_formats
from depgraph_hsic_only.recovery.recover import check_method
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.training.arguments import (
    REFUSED,
    TRAIN_ARGUMENTS,
    canonical,
    is_device,
    training_fault,
    value_fault,
)
from depgraph_hsic_only.yolo.input_shape import is_side

_EXPORT_REFUSED = dict.fromkeys(("model", "data", "mode", "task", "project", "name"), "it comes from the workflow") | {
    "format": "pass export.formats=[onnx, ...]",
    "half": "pass export.quantize=16",
    "int8": "pass export.quantize=8",
}
_EXPORT_KEYS = ("imgsz", "batch", "opset", "dynamic", "simplify", "quantize", "device", "nms")


def find_faults(merged: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with settings that were merged over the defaults, each block a mapping; a line each."""
    faults = _unexpected("", merged, _TOP)
    for block, checks in TRAININGS.items():
        faults += _block_faults(block, merged[block], checks, TRAIN_ARGUMENTS, REFUSED, training_fault)
    faults += _prune_faults(merged["prune"], defaults["prune"]) + _axes_faults(merged)
    faults += _block_faults("export", merged["export"], _EXPORT, _EXPORT_KEYS, _EXPORT_REFUSED)
    faults += _block_faults("latency", merged["latency"], _LATENCY, (), {})
    if (fault := command_fault(merged["latency"]["command"])) is not None:
        faults.append(f"latency.command: {fault}")
    try:
        named_formats(merged["export"]["formats"])
    except PruningError as error:
        faults.append(f"export.formats: {error}")
    return faults + _block_faults("calibration", merged["calibration"], {"images": _POSITIVE}, (), {})


def _at_least(smallest: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= smallest


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, Path)) and bool(str(value).strip())


def _is_data(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, Mapping) and {"train", "val", "names"} <= set(value))


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_size(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_side, value))
    return value is None or is_side(value) or pair


def _is_precision(*known: int) -> Callable[[Any], bool]:
    return lambda value: value_fault("quantize", value) is None and canonical("quantize", value) in (None, *known)


def _is_options(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


_Checks = Mapping[str, tuple[Callable[[Any], bool], str]]
"""By setting: whether a value is good, and what is expected."""
_POSITIVE = (_at_least(1), "an integer of at least 1")
_NATURAL = (_at_least(0), "an integer of at least 0")
_SWITCH = (lambda value: isinstance(value, bool), "true or false")
_TOP: _Checks = {
    "pretrained": (_is_text, "the path of a checkpoint"),
    "data": (_is_data, "a data set's name or YAML, or its keys with at least train, val and names"),
    "imgsz": (
        lambda v: v is None or is_side(v),
        "a side in pixels of at least 32, or null; for a camera's height and width see export.imgsz",
    ),
    "batch": (_POSITIVE[0], "an integer of at least 1 (AutoBatch: train.batch=-1 fine_tune.batch=-1)"),
    "device": (is_device, "cpu, 0, [0, 1], mps or null"),
    "workers": _NATURAL,
    "seed": (lambda v: _at_least(0)(v) and v < 2**32 - 1, "an integer of at least 0 and below 4294967295"),
    "project": (_is_text, "a folder"),
    "name": (lambda v: _is_text(v) and Path(str(v)).name == str(v) != "..", "the name of a folder, without slashes"),
    "exist_ok": _SWITCH,
    "trust": _SWITCH,
    "verbose": _SWITCH,
    "train_rivals": _SWITCH,
    "rivals": (
        lambda v: v is None or (isinstance(v, (list, tuple)) and all(map(_is_text, v))),
        "a list of checkpoints, [] for the unpruned model on smaller images alone, or null for none",
    ),
}
TRAININGS: Final[Mapping[str, _Checks]] = {  # the blocks of train arguments, with what is ours or other than elsewhere
    "train": {
        "epochs": _NATURAL,
        "quantize": (lambda v: v is None, "null, since only the pruned model is deployed: set fine_tune.quantize=8"),
    },
    "fine_tune": {
        "epochs": _NATURAL,
        "quantize": (_is_precision(8), "8, for an int8 file of a training of its own, or null"),
    },
}
_PRUNE: _Checks = {
    "steps": _POSITIVE,
    "finalists": (lambda v: v is None or _at_least(1)(v), f"{_POSITIVE[1]}, or null"),
    "max_map_drop": (lambda v: v is None or _is_share(v), "a number in [0, 1] or null"),
    "options": (_is_options, "the criterion's options as a block"),
}


_EXPORT: _Checks = {
    "formats": (lambda _: True, ""),  # see `named_formats`
    "images": _POSITIVE,
    "imgsz": (_is_size, "a side in pixels of at least 32, such as 640, or [height, width]"),
    "batch": (lambda v: v is None or _at_least(1)(v), _POSITIVE[1]),
    "quantize": (_is_precision(8, 16, 32), "32, 16 for float16, 8 for int8 beside the float file, or null"),
    "max_map_drop": (_is_share, "a number in [0, 1]"),
    "nms": (
        lambda v: v is None or v is False,
        "false, for a YOLO26 without NMS to come, or null; a file with NMS inside by YOLO('best.pt').export(nms=True)",
    ),
}


_LATENCY: _Checks = {
    "runtime": (lambda v: v in (AUTO, *RUNTIMES), f"one of {', '.join((AUTO, *RUNTIMES))}"),
    "precision": (lambda v: v in tuple(PRECISIONS), f"one of {', '.join(PRECISIONS)}"),
    "threads": (lambda v: v is None or _at_least(1)(v), f"{_POSITIVE[1]}, or null"),
    "batch": (lambda v: v is None or _at_least(1)(v), f"{_POSITIVE[1]}, or null"),
    "command": (lambda _: True, ""),  # see `command_fault`
    "timeout": (lambda v: is_number(v) and 0 < v < inf, "a number of seconds above 0"),
}


def _unexpected(block: str, settings: Mapping[str, Any], checks: _Checks) -> list[str]:
    """The settings that are not what is expected; `block` is "" or ends with a dot."""
    found = {key: settings.get(key) for key in checks}
    return [f"{block}{k}: expected {checks[k][1]}, got {v!r}" for k, v in found.items() if not checks[k][0](v)]


def _unknown(block: str, settings: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    known = list(known)
    return [f"{block}.{key}: unknown setting{nearest(str(key), known)}" for key in settings if key not in known]


def _block_faults(
    block: str,
    settings: Mapping[str, Any],
    checks: _Checks,
    arguments: Collection[str],
    refused: Mapping[str, str],
    fault_of: Callable[[str, Any], str | None] = value_fault,
) -> list[str]:
    """What is wrong with a block of settings of our own (`checks`) and of Ultralytics' arguments, by the `fault_of`
    their values; some of these are `refused`, for a reason."""
    faults = [f"{block}.{key}: not a setting here; {refused[key]}" for key in settings if key in refused]
    rest = {key: value for key, value in settings.items() if key not in refused}
    faults += _unknown(block, rest, {**dict.fromkeys(arguments), **checks})
    faults += _unexpected(f"{block}.", settings, checks)
    found = {key: fault_of(key, value) for key, value in rest.items() if key in arguments and key not in checks}
    return faults + [f"{block}.{key}: {fault}" for key, fault in found.items() if fault is not None]


def amount_of(ratio: object, threshold: object, target: object) -> Amount:
    """How much is cut, by settings that are checked here: the ratio has a default, so the others go over it."""
    return Amount.of(ratio if threshold is None and target is None else None, threshold, target)


def _axes_faults(merged: Mapping[str, Any]) -> list[str]:
    """What is wrong with the axes that a target is met by, and with what else says what they choose."""
    prune = merged["prune"]
    try:
        axes = read_axes(prune["axes"])
    except PruningError as error:
        return [f"prune.{error}"]
    several, faults = _at_least(2)(prune["finalists"]), []
    if several and IMGSZ not in axes:
        faults.append(
            f"prune.finalists: expected imgsz among prune.axes, of which they are sizes, got {', '.join(axes)}; add it"
        )
    if axes == (WIDTH,):
        return faults
    if prune["target"] is None:
        faults.append(
            f"prune.axes: expected a target to meet by {', '.join(axes)}, got a ratio or a threshold; pass --target "
            "gmacs=0.5, say, or leave axes out"
        )
    if several and (prune["steps"] != 1 or prune["max_map_drop"] is not None or merged["fine_tune"]["epochs"] == 0):
        faults.append(
            "prune.finalists: expected 1 with several steps, with max_map_drop, or without a fine-tuning, since each "
            f"finalist is cut once and fine-tuned, got {prune['finalists']}; leave one of them out"
        )
    chosen = {"export.quantize": merged["export"].get("quantize"), "latency.precision": merged["latency"]["precision"]}
    if PRECISION in axes and (set_ := [key for key, value in chosen.items() if value not in (None, FLOAT, 32)]):
        faults.append(f"{set_[0]}: expected none beside prune.axes with precision, which chooses it; leave one out")
    return faults


def _prune_faults(settings: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    faults = _unknown("prune", settings, known) + _unexpected("prune.", settings, _PRUNE)
    if settings["threshold"] is not None and settings["steps"] != 1:
        faults.append("prune.steps: expected 1 with a threshold, since steps go towards a ratio; leave one of them out")
    criterion, options = settings["criterion"], settings["options"]
    if not isinstance(criterion, str):
        faults.append(f"prune.criterion: expected one of {', '.join(list_criteria())}, got {criterion!r}")
    checks: list[Callable[[], object]] = [
        lambda: amount_of(settings["ratio"], settings["threshold"], settings["target"]),
        lambda: check_layers(settings["layers"]),
        lambda: Limits(*(settings[key] for key in ("round_to", "min_channels", "max_ratio"))),
        lambda: check_method(settings["recover"]),
    ]
    if isinstance(criterion, str) and _is_options(options):
        checks.append(lambda: create_criterion(criterion, **options))
    for check in checks:
        try:
            check()
        except PruningError as error:
            of_one = str(error).replace(":", " ").split()[0] in known
            faults.append(f"prune.{error}" if of_one else f"prune: {error}")
    return faults
