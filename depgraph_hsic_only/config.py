"""The configuration of a run: read, merged, checked as a whole, frozen.

Three layers, each over the one before: the defaults below, the YAML file, the overrides. Within a layer, Ultralytics
train arguments at the top level apply to both training stages, and the blocks `train` and `fine_tune` go over them.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ultralytics.cfg import check_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

from depgraph_hsic_only.criteria import create_criterion, list_criteria
from depgraph_hsic_only.errors import ConfigError, PruningError
from depgraph_hsic_only.graph import check_layers
from depgraph_hsic_only.limits import Limits, MaxRatio
from depgraph_hsic_only.names import nearest
from depgraph_hsic_only.planning import check_amount, default_criterion
from depgraph_hsic_only.recovery import check_method
from depgraph_hsic_only.settings import read_yaml

DEFAULT_CFG = "default.yaml"
STAGES = ("train", "fine_tune")
_OWNED = {  # train arguments that the run sets itself: where they are set instead
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
_VALUES = ("data", "target", "max_ratio")  # mappings that are one value: replaced, not merged
_EXPORT_OWNED = dict.fromkeys(("format", "model", "data", "mode", "task", "project", "name"), "the workflow")
_EXPORT_KEYS = ("imgsz", "batch", "opset", "dynamic", "simplify", "quantize", "device")


@dataclass(frozen=True)
class PruneConfig:
    """What to cut and how: the block `prune`.

    Attributes:
        criterion: Name of a registered criterion.
        ratio: Share of the channels to cut from each width, 0 ≤ ratio < 1; where the next two are None.
        threshold: The smallest score that stays; None to go by `ratio` or `target`.
        target: A budget as a share of the unpruned model, such as {"params": 0.8} (see `target.Target`), met by cutting
            each width by its measured damage; None to go by `ratio` or `threshold`.
        layers: "backbone", "all", or a list of layers (see `graph.trace_channels`).
        round_to: What block outputs are multiples of: 8, 16 or 32.
        min_channels: No width is cut below this many channels.
        max_ratio: Largest share that may be cut of every width, or by layer or width (see `limits.Limits`).
        recover: What brings the cut model back before any training: "none", "bn", "least_squares" or
            "distill".
        distill_seconds: Time that "distill" may train for.
        steps: In how many cuts, with fine-tuning in between.
        max_map_drop: Largest loss of mask mAP50-95 after a step's fine-tuning, in [0, 1]; None for any.
        options: Options of the criterion.
    """

    criterion: str = "magnitude"
    ratio: float | None = 0.5
    threshold: float | None = None
    target: Any = None
    layers: Any = "backbone"
    round_to: int = 8
    min_channels: int = 0
    max_ratio: MaxRatio = 1.0
    recover: str = "least_squares"
    distill_seconds: float = 600.0
    steps: int = 1
    max_map_drop: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def limits(self) -> Limits:
        """Bounds of every width."""
        return Limits(self.round_to, self.min_channels, self.max_ratio)


@dataclass(frozen=True)
class Config:
    """The resolved configuration of a run; see `default.yaml` for what each setting means.

    Attributes:
        pretrained: Path or known name of a checkpoint, or a YOLOv8 model YAML.
        data: Data set name, path of its YAML, "shapes", or its keys.
        imgsz: Side of the input image, pixels; None for the checkpoint's own.
        batch: Images per batch.
        device: As Ultralytics takes it; None for its choice.
        workers: Data loading processes.
        seed: Of every random choice.
        project: Folder of the run folders.
        name: Name of the run folder.
        exist_ok: Whether an existing run folder is used again.
        trust: Whether code in the checkpoint may run; no other file is ever loaded that way.
        verbose: Whether Ultralytics writes to the terminal as it does by itself, instead of only to the run's log.
        calibration: Of the training images that criteria and recovery measure on: `images`, how many.
        train: Ultralytics train arguments of the stage before pruning.
        prune: What to cut.
        fine_tune: Ultralytics train arguments of the stage after pruning.
        export: Ultralytics export arguments.
    """

    pretrained: str
    data: Any
    imgsz: int | None
    batch: int
    device: Any
    workers: int
    seed: int
    project: str
    name: str
    exist_ok: bool
    trust: bool
    verbose: bool
    calibration: Mapping[str, Any]
    train: Mapping[str, Any]
    prune: PruneConfig
    fine_tune: Mapping[str, Any]
    export: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as `args.yaml` holds it: a file that `cfg` takes again."""
        return asdict(self)


DEFAULTS: dict[str, Any] = {
    "pretrained": "yolov8n-seg.pt",
    "data": "coco128-seg.yaml",
    "imgsz": None,
    "batch": 16,
    "device": None,
    "workers": 8,
    "seed": 0,
    "project": "runs/prune",
    "name": "exp",
    "exist_ok": False,
    "trust": False,
    "verbose": False,
    "calibration": {"images": 256},
    "train": {"epochs": 10},
    "prune": asdict(PruneConfig()) | {"criterion": None},
    "fine_tune": {"epochs": 10},
    "export": {"simplify": True, "dynamic": False, "images": 8},
}


def load_config(cfg: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read, merge and check a configuration.

    Args:
        cfg: A YAML file, looked up in the working directory, then in this package; None for the defaults alone.
        overrides: Settings that go over the file, nested ({"prune": {"ratio": 0.3}}) or dotted ("prune.ratio").

    Raises:
        ConfigError: The file can't be read, or there are faults: all of them are named at once.
    """
    merged = dict(DEFAULTS)
    faults: list[str] = []
    for layer in (read_yaml(cfg) if cfg is not None else {}, _nested(overrides or {}, faults)):
        merged = _over(merged, _spread_flat(layer, faults))
    if isinstance(merged["prune"], Mapping):
        filled = {"criterion": default_criterion(merged["prune"]["target"]), "recover": "none"}
        unset = {key: value for key, value in filled.items() if merged["prune"][key] is None}
        merged["prune"] = {**merged["prune"], **unset}  # recover=none on the command line is null here
    merged = _plain(merged)
    faults += _faults(merged)
    if faults:
        raise ConfigError("; ".join(dict.fromkeys(textwrap.shorten(fault, 400, placeholder=" …") for fault in faults)))
    return Config(**{**merged, "prune": PruneConfig(**merged["prune"])})


def _nested(overrides: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Overrides with dotted keys as nested ones; later ones go over earlier ones."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        block, dot, rest = key.partition(".")
        if dot and not isinstance(DEFAULTS.get(block), dict):
            faults.append(f"{key}: unknown block {block!r}{nearest(block, _blocks())}")
        elif dot:
            first, dot, last = rest.partition(".")
            nested = _over(nested, {block: {first: {last: value}} if dot else {rest: value}})
        else:
            nested = _over(nested, {key: value})
    return nested


def _plain(value: Any) -> Any:
    """Settings as files hold them: a path as text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _blocks() -> list[str]:
    return [key for key, value in DEFAULTS.items() if isinstance(value, dict)]


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, block by block; anything but a block is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping) and key not in _VALUES
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _spread_flat(layer: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """A layer with its flat train arguments moved into both training stages, under the stages' own."""
    flat = {key: value for key, value in layer.items() if key not in DEFAULTS}
    for key in [key for key in flat if key not in DEFAULT_CFG_DICT or key in _OWNED]:
        known = [*DEFAULTS, *DEFAULT_CFG_DICT]
        faults.append(f"{key}: unknown setting{nearest(key, known)}" if key not in _OWNED else _owned(key, key))
        del flat[key]
    spread = {key: value for key, value in layer.items() if key in DEFAULTS}
    for stage in STAGES if flat else ():
        own = spread.get(stage, {})
        spread[stage] = {**flat, **own} if isinstance(own, Mapping) else own
    return spread


def _owned(name: str, key: str) -> str:
    return f"{name}: not a setting here; it comes from {_OWNED[key]}"


def _faults(merged: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with merged settings."""
    faults: list[str] = []
    for key, (check, expected) in _TOP.items():
        if not check(merged[key]):
            faults.append(f"{key}: expected {expected}, got {merged[key]!r}")
    for block in _blocks():
        if not isinstance(merged[block], Mapping):
            faults.append(f"{block}: expected a block of settings, got {merged[block]!r}")
    if all(isinstance(merged[block], Mapping) for block in _blocks()):
        for stage in STAGES:
            faults += _train_faults(stage, merged[stage])
        faults += [*_prune_faults(merged["prune"]), *_export_faults(merged["export"])]
        faults += _unknown("calibration", merged["calibration"], DEFAULTS["calibration"])
        if not _at_least(1)(merged["calibration"].get("images")):
            faults.append(
                f"calibration.images: expected an integer of at least 1, got {merged['calibration']['images']!r}"
            )
    return faults


def _at_least(smallest: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= smallest


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, Path)) and bool(str(value).strip())


def _is_data(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, Mapping) and {"train", "val", "names"} <= set(value))


_TOP: dict[str, tuple[Callable[[Any], bool], str]] = {
    "pretrained": (_is_text, "the path of a checkpoint"),
    "data": (_is_data, "a data set's name or YAML, or its keys with at least train, val and names"),
    "imgsz": (lambda v: v is None or _at_least(32)(v), "a side in pixels of at least 32, or null"),
    "batch": (_at_least(1), "an integer of at least 1"),
    "device": (lambda v: v is None or isinstance(v, (int, str, list, tuple)), "cpu, 0, [0, 1], mps or null"),
    "workers": (_at_least(0), "an integer of at least 0"),
    "seed": (_at_least(0), "an integer of at least 0"),
    "project": (_is_text, "a folder"),
    "name": (lambda v: _is_text(v) and Path(str(v)).name == str(v), "the name of a folder, without slashes"),
    "exist_ok": (lambda v: isinstance(v, bool), "true or false"),
    "trust": (lambda v: isinstance(v, bool), "true or false"),
    "verbose": (lambda v: isinstance(v, bool), "true or false"),
}


def _unknown(block: str, settings: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    known = list(known)
    return [f"{block}.{key}: unknown setting{nearest(str(key), known)}" for key in settings if key not in known]


def _train_faults(stage: str, settings: Mapping[str, Any]) -> list[str]:
    faults = [_owned(f"{stage}.{key}", key) for key in settings if key in _OWNED]
    faults += _unknown(stage, {k: v for k, v in settings.items() if k not in _OWNED}, DEFAULT_CFG_DICT)
    if not _at_least(0)(settings.get("epochs")):
        faults.append(f"{stage}.epochs: expected an integer of at least 0, got {settings.get('epochs')!r}")
    for key, value in settings.items():
        if key in DEFAULT_CFG_DICT and key not in _OWNED and key != "epochs":
            try:
                check_cfg({key: value})
            except (TypeError, ValueError) as error:
                faults.append(f"{stage}.{key}: {' '.join(str(error).split())}")
    return faults


def _prune_faults(settings: Mapping[str, Any]) -> list[str]:
    faults = _unknown("prune", settings, DEFAULTS["prune"])
    if settings["threshold"] is not None and settings["steps"] != 1:
        faults.append("prune.steps: expected 1 with a threshold, since steps go towards a ratio; leave one of them out")
    seconds = settings["distill_seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        faults.append(f"prune.distill_seconds: expected a number of seconds above 0, got {seconds!r}")
    drop, options = settings["max_map_drop"], settings["options"]
    if not _at_least(1)(settings["steps"]):
        faults.append(f"prune.steps: expected an integer of at least 1, got {settings['steps']!r}")
    if drop is not None and (isinstance(drop, bool) or not isinstance(drop, (int, float)) or not 0 <= drop <= 1):
        faults.append(f"prune.max_map_drop: expected a number in [0, 1] or null, got {drop!r}")
    named = isinstance(options, Mapping) and all(isinstance(key, str) for key in options)
    if not named:
        faults.append(f"prune.options: expected the criterion's options as a block, got {options!r}")
    if not isinstance(settings["criterion"], str):
        faults.append(f"prune.criterion: expected one of {', '.join(list_criteria())}, got {settings['criterion']!r}")
    others = settings["threshold"] is not None or settings["target"] is not None
    ratio = None if others else settings["ratio"]  # it has a default, so the others go over it
    checks: list[Callable[[], object]] = [
        lambda: check_amount(ratio, settings["threshold"], settings["target"]),
        lambda: check_layers(settings["layers"]),
        lambda: Limits(*(settings[key] for key in ("round_to", "min_channels", "max_ratio"))),
        lambda: check_method(settings["recover"]),
    ]
    if named and isinstance(settings["criterion"], str):
        checks.append(lambda: create_criterion(settings["criterion"], **options))
    for check in checks:
        try:
            check()
        except PruningError as error:
            of_one = str(error).replace(":", " ").split()[0] in DEFAULTS["prune"]
            faults.append(f"prune.{error}" if of_one else f"prune: {error}")
    return faults


def _export_faults(settings: Mapping[str, Any]) -> list[str]:
    faults = [
        f"export.{k}: not a setting here; it comes from {_EXPORT_OWNED[k]}" for k in settings if k in _EXPORT_OWNED
    ]
    rest = {k: v for k, v in settings.items() if k not in _EXPORT_OWNED}
    faults += _unknown("export", rest, [*_EXPORT_KEYS, "images"])
    if not _at_least(1)(settings.get("images")):
        faults.append(f"export.images: expected an integer of at least 1, got {settings.get('images')!r}")
    for key, value in rest.items():
        if key in _EXPORT_KEYS:
            try:
                check_cfg({key: value})
            except (TypeError, ValueError) as error:
                faults.append(f"export.{key}: {' '.join(str(error).split())}")
    return faults
