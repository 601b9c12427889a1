"""What Ultralytics' train arguments are: their names and defaults, their values, and those that a run sets itself."""

from typing import Any, Final

from ultralytics.cfg import check_cfg, smart_value
from ultralytics.utils import DEFAULT_CFG_DICT

from depgraph_hsic_only.errors import ConfigError, one_line

TRAIN_ARGUMENTS: Final[dict[str, Any]] = DEFAULT_CFG_DICT
"""By name: the default."""

OWNED: Final = {  # those that a run sets itself: where they are set instead
    "model": "pretrained at the top level",
    "data": "data at the top level",
    "task": "the checkpoint",
    "mode": "the workflow",
    "project": "project at the top level",
    "name": "name at the top level",
    "exist_ok": "exist_ok at the top level",
    "cfg": "the train arguments themselves",
    "resume": "a new run",
    "save": "the workflow, which needs the checkpoints",
}


def owned_elsewhere(name: str, key: str) -> str:
    """What to say of a train argument that a run sets itself."""
    return f"{name}: not a setting here; it comes from {OWNED[key]}"


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


def parse_override(text: str) -> tuple[str, Any]:
    """A command-line override "block.key=value" as the dotted key and the value; a `ConfigError` for another form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"expected an override such as train.epochs=5, got {text!r}; write key=value without spaces")
    value = value.strip()
    return key.strip(), None if value.lower() == "null" else smart_value(value)  # which knows "none" only
