"""The configuration of a run: read, merged, checked as a whole, frozen.

Three layers, each over the one before: the defaults below, the YAML file, the overrides. Within a layer, Ultralytics
train arguments at the top level apply to both training stages, and the blocks `train` and `fine_tune` go over them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from depgraph_hsic_only.axes.candidates import DEPTH, WIDTH, read_axes
from depgraph_hsic_only.channels.amount import Amount, default_criterion
from depgraph_hsic_only.channels.limits import Limits, MaxRatio
from depgraph_hsic_only.errors import ConfigError, one_line
from depgraph_hsic_only.evaluation.deployed.deployment import AUTO, FLOAT, PRECISIONS, Deployment
from depgraph_hsic_only.evaluation.deployed.formats import named_formats
from depgraph_hsic_only.evaluation.file_size import FileKind
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.support.yaml import read_yaml
from depgraph_hsic_only.training.arguments import REFUSED, TRAIN_ARGUMENTS, refused
from depgraph_hsic_only.workflow.config_checks import TRAININGS, amount_of, find_faults
from depgraph_hsic_only.workflow.stages.exported import export_arguments, wants_int8
from depgraph_hsic_only.yolo.input_shape import InputShape, input_side
from depgraph_hsic_only.yolo.load import bare_network
from depgraph_hsic_only.yolo.types import Yolo

DEFAULT_CFG = "default.yaml"
_AMOUNTS = ("ratio", "threshold", "target")  # of which one counts
_FINALISTS = 2  # of a search over axes
_VALUES = ("data", "target", "max_ratio")  # mappings that are one value: replaced, not merged


@dataclass(frozen=True)
class PruneConfig:
    """What to cut and how: the block `prune` of `default.yaml`, which says what each setting means."""

    criterion: str = "magnitude"
    ratio: float | None = 0.5
    threshold: float | None = None
    target: Any = None
    axes: Any = field(default_factory=lambda: [WIDTH])
    finalists: int | None = None
    layers: Any = "backbone"
    round_to: int = 8
    min_channels: int = 0
    max_ratio: MaxRatio = 1.0
    recover: str = "least_squares"
    steps: int = 1
    max_map_drop: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def amount(self) -> Amount:
        """How much is cut."""
        return amount_of(self.ratio, self.threshold, self.target)

    @property
    def spent_on(self) -> tuple[str, ...]:
        """What a target is met by (see `axes.candidates.AXES`)."""
        return read_axes(self.axes)

    @property
    def limits(self) -> Limits:
        """Bounds of every width."""
        return Limits(self.round_to, self.min_channels, self.max_ratio, WIDTH in self.spent_on)


@dataclass(frozen=True)
class Config:
    """The resolved configuration of a run: `default.yaml` says what each setting means."""

    pretrained: str = "yolov8n-seg.pt"
    data: Any = "coco128-seg.yaml"
    imgsz: int | None = None
    batch: int = 16
    device: Any = None
    workers: int = 8
    seed: int = 0
    project: str = "runs/prune"
    name: str = "exp"
    exist_ok: bool = False
    trust: bool = False
    verbose: bool = False
    rivals: Sequence[str] | None = field(default_factory=list)
    train_rivals: bool = False
    calibration: Mapping[str, Any] = field(default_factory=lambda: {"images": 256})
    train: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 10})
    prune: PruneConfig = PruneConfig()
    fine_tune: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 10})
    export: Mapping[str, Any] = field(
        default_factory=lambda: {
            **{"formats": ["onnx"], "simplify": True, "dynamic": False, "images": 8, "max_map_drop": 0.02}
        }
    )
    latency: Mapping[str, Any] = field(
        default_factory=lambda: {
            **{"runtime": AUTO, "precision": FLOAT, "threads": None, "batch": None},
            **{"command": None, "timeout": 600},
        }
    )

    def deployed(self, model: Yolo) -> InputShape:
        """What the exported file takes at once."""
        return InputShape.of(model, self.export.get("imgsz") or self.imgsz, self.export.get("batch") or 1)

    @property
    def formats(self) -> tuple[str, ...]:
        """What the result is exported to, by Ultralytics' names; ONNX is always among the files."""
        return named_formats(self.export["formats"])

    @property
    def file(self) -> FileKind:
        """What a target of size is of: the exported ONNX file, the one in int8 where there is one."""
        return FileKind(export_arguments(self.export), wants_int8(self.export))

    @property
    def finalists(self) -> int:
        """How many candidates of a search over axes are fine-tuned, at most: one where it could not be the last one."""
        single = self.prune.steps == 1 and self.prune.max_map_drop is None and self.fine_tune["epochs"] > 0
        return self.prune.finalists or (_FINALISTS if single else 1)

    def deployment(self, model: Yolo) -> Deployment:
        """What latency is of, and how it is measured."""
        given = {key: self.latency[key] for key in ("runtime", "precision", "threads", "command", "timeout")}
        shape = replace(self.deployed(model), batch=self.latency["batch"] or self.export.get("batch") or 1)
        return Deployment(shape, **given, format=self.formats[0], arguments=export_arguments(self.export))

    def planner(self, model: Yolo) -> Planner:
        """What plans the cut of a model; latency and size are of what is deployed."""
        prune = self.prune
        settings = prune.criterion, prune.amount, prune.limits, prune.layers, prune.options, self.seed
        where = input_side(model, self.imgsz), self.deployment(model), self.file
        return Planner(*settings, *where, depth=DEPTH in prune.spent_on)

    def deployed_as(self, model: Yolo, imgsz: int, precision: str) -> "Config":
        """The same for images of another side and a file of a precision, which a search has chosen for a model."""
        export, latency = _exported_as(self.export, precision), dict(self.latency)
        if precision != FLOAT:
            latency["precision"] = precision
        if self.export.get("imgsz"):
            share = imgsz / input_side(model, self.imgsz)
            export["imgsz"] = list(self.deployed(model).scaled(bare_network(model), share).size)
        return replace(self, imgsz=imgsz, export=export, latency=latency)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as `args.yaml` holds it: a file that `cfg` takes again."""
        return asdict(self)


DEFAULTS: dict[str, Any] = asdict(Config()) | {"prune": {**asdict(PruneConfig()), "criterion": None}}  # by the target


def load_config(
    cfg: str | Path | Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Read, merge and check a configuration.

    Args:
        cfg: A YAML file, looked up in the working directory, then in this package, or what it would hold; None for the
            defaults alone.
        overrides: Settings that go over the file, nested ({"prune": {"ratio": 0.3}}) or dotted ("prune.ratio"). The one
            of ratio, threshold and target that is given here goes over what the file has of them.

    Raises:
        ConfigError: The file can't be read, or there are faults: all of them are named at once.
    """
    merged = dict(DEFAULTS)
    faults: list[str] = []
    file = read_yaml(cfg) if isinstance(cfg, (str, Path)) else cfg or {}
    for layer in (file, _one_amount(_nested(overrides or {}, faults), faults)):
        merged = _over(merged, _spread_flat(layer, faults))
    for block, settings in DEFAULTS.items():
        if isinstance(settings, dict) and not isinstance(merged[block], Mapping):
            faults.append(f"{block}: expected a block of settings, got {merged[block]!r}")
            merged[block] = settings  # so that the faults of all others are found too
    filled = {"criterion": default_criterion(merged["prune"]["target"]), "recover": "none"}
    unset = {key: value for key, value in filled.items() if merged["prune"][key] is None}
    merged = _plain(merged | {"prune": {**merged["prune"], **unset}})  # recover=none on the command line is null here
    faults += find_faults(merged, DEFAULTS)
    if faults:
        raise ConfigError("; ".join(dict.fromkeys(one_line(fault, 400) for fault in faults)))
    if merged["export"].get("quantize") is None:  # what is timed is what is deployed
        merged["export"] = _exported_as(merged["export"], merged["latency"]["precision"])
    return Config(**{**merged, "prune": PruneConfig(**merged["prune"])})


def _exported_as(export: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """The block `export` for a file of a precision, one of `PRECISIONS`; of float it says what it said."""
    quantize = PRECISIONS[precision]
    return {**export} if quantize is None else {**export, "quantize": quantize}


def _nested(overrides: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Overrides with dotted keys as nested ones; later ones go over earlier ones."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        block, *inner = key.split(".", 2)
        if inner and not isinstance(DEFAULTS.get(block), dict):
            blocks = [name for name, settings in DEFAULTS.items() if isinstance(settings, dict)]
            faults.append(f"{key}: unknown block {block!r}{nearest(block, blocks)}")
            continue
        for name in reversed(inner):
            value = {name: value}
        nested = _over(nested, {block: value})
    return nested


def _one_amount(layer: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Overrides with the amount that they give in place of the one below; a ratio there yields to it anyhow."""
    prune = layer.get("prune")
    found = {key: prune.get(key) for key in _AMOUNTS} if isinstance(prune, Mapping) else {}
    given = {key: value for key, value in found.items() if value is not None}
    try:
        if len(given) > 1:
            Amount.of(**given)
    except ConfigError as error:
        faults.append(f"prune: {error}")
    return {**layer, "prune": {"threshold": None, "target": None, **given, **prune}} if given and prune else dict(layer)


def _plain(value: Any) -> Any:
    """Settings as files hold them: a path as text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


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
    for key in [key for key in flat if key not in TRAIN_ARGUMENTS or key in REFUSED]:
        known = [*DEFAULTS, *TRAIN_ARGUMENTS]
        faults.append(f"{key}: unknown setting{nearest(key, known)}" if key not in REFUSED else refused(key, key))
        del flat[key]
    spread = {key: value for key, value in layer.items() if key in DEFAULTS}
    for block in TRAININGS if flat else ():
        own = spread.get(block, {})
        spread[block] = {**flat, **own} if isinstance(own, Mapping) else own
    return spread
