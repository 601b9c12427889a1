"""What is compared, as a value: the criteria, the amounts, the seeds, and everything that is the same for all."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.axes.candidates import DEPTH, IMGSZ, PRECISION, WIDTH, read_axes
from depgraph_hsic_only.channels.amount import NOTHING, Amount
from depgraph_hsic_only.criteria import create_criterion
from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, PRECISIONS
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.support.fingerprint import fingerprint
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.support.yaml import flattened
from depgraph_hsic_only.workflow.config import Config, load_config
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.workflow.stages.exported import export_arguments
from depgraph_hsic_only.yolo.input_shape import input_side
from depgraph_hsic_only.yolo.types import Yolo

REFERENCE = "reconstruction"  # whose channels the damage of the widths is measured with, for all criteria alike
UNPRUNED = "unpruned"  # the control, in the place of a criterion
DEFAULTS: dict[str, Any] = {  # over a file's settings, which are those of single runs
    **{"train.epochs": 0, "fine_tune.epochs": 0, "project": "runs/compare"},
    **{"prune.threshold": None, "prune.target": None, "prune.steps": 1, "prune.max_map_drop": None},
    **{"prune.axes": [WIDTH], "fine_tune.quantize": None},
}
_REPLACED = {  # settings of a single run: what says it here
    "prune.criterion": "criteria",
    "prune.options": "criteria, with the options that they have",
    "prune.ratio": "ratios",
    "prune.threshold": "targets or ratios: thresholds leave every criterion another size",
    "prune.target": "targets",
    "prune.steps": "targets or ratios: every cut is made in one step",
    "prune.max_map_drop": "max_map_drop",
    "prune.axes": "axes, and imgsz and precision",
    "prune.finalists": "fine_tune.epochs: everything is fine-tuned",
    "fine_tune.quantize": "a single run, which exports its result",
    "exist_ok": "name: an existing comparison of the same settings goes on",
}
# What figures don't depend on, or what is told apart by its content.
_OWN = ("project", "name", "exist_ok", "trust", "workers", "pretrained", "data")


@dataclass(frozen=True)
class Study:
    """A comparison that is to be made. It can be pickled, and holds nothing that is large; names have no repeats.

    Attributes:
        folder: Absolute.
        config: What is the same for all: `imgsz` is the first side, `seed` the first of the seeds.
        criteria: Names.
        amounts: What is cut, of the unpruned model on images of the first side.
        seeds: Of the draw of calibration images, positions, mosaics, random scores and fine-tuning.
        sides: Of the images that everything is compared at, pixels; empty, until `settled`, for the model's own.
        precisions: Of the files that everything is compared in, `FLOAT` first.
        axes: What a target is met by: `WIDTH`, `DEPTH` or both.
    """

    folder: Path
    config: Config
    criteria: tuple[str, ...]
    amounts: tuple[Amount, ...]
    seeds: tuple[int, ...]
    sides: tuple[int, ...] = ()
    precisions: tuple[str, ...] = (FLOAT,)
    axes: tuple[str, ...] = (WIDTH,)

    @property
    def trained(self) -> Path:
        """The checkpoint that everything is cut from."""
        return RunFolder(self.folder).weights / "trained.pt"

    @property
    def epochs(self) -> int:
        """Epochs of fine-tuning."""
        return int(self.config.fine_tune["epochs"])

    def settled(self, model: Yolo) -> "Study":
        """The same with sides that a model takes, without repeats.

        Raises:
            ConfigError: One is no side of an image.
        """
        sides = [input_side(model, side) for side in self.sides or (self.config.imgsz,)]
        return replace(self, sides=tuple(dict.fromkeys(sides)))

    def config_of(self, model: Yolo, imgsz: int, precision: str = FLOAT) -> Config:
        """The configuration of what is compared at a side and in a precision."""
        if (imgsz, precision) == (self.sides[0], FLOAT):
            return self.config
        return self.config.deployed_as(model, imgsz, precision)

    def planner(self, criterion: str, seed: int, model: Yolo, amount: Amount = NOTHING) -> Planner:
        """What scores by a criterion and plans the cut of an amount from a model."""
        settings, timed = self.config.prune, self.config.deployment(model)
        limits, depth = replace(settings.limits, channels=WIDTH in self.axes), DEPTH in self.axes
        given = criterion, amount, limits, settings.layers
        return Planner(*given, seed=seed, imgsz=self.sides[0], timed=timed, file=self.config.file, depth=depth)

    def identity(self, model: Yolo, dataset: Dataset) -> dict[str, Any]:
        """What every figure depends on, by name: two comparisons in which it is equal can share a folder.

        Criteria, amounts, the number of seeds, the other sides and the precisions are not in it, so that a comparison
        can be extended.
        """
        kept = {key: value for key, value in self.config.to_dict().items() if key not in _OWN}
        prune = {key: value for key, value in kept["prune"].items() if f"prune.{key}" not in _REPLACED}
        versions = {"depgraph_hsic_only": __version__, "ultralytics": metadata.version("ultralytics")}
        versions |= {"torch": torch.__version__}
        content = fingerprint(model.model) if model.ckpt else self.config.pretrained
        own = {"imgsz": self.sides[0], "prune": prune}
        own |= {"axes": list(self.axes)} if self.axes != (WIDTH,) else {}  # older ones don't say it
        found = {"checkpoint": content, "data set": dataset.digest(), "versions": versions, **kept, **own}
        plain: dict[str, Any] = json.loads(json.dumps(flattened(found), default=str))
        return plain


def make_study(
    criteria: object,
    targets: object,
    ratios: object,
    seeds: int,
    cfg: str | Path | None,
    settings: Mapping[str, Any],
    *,
    imgsz: object = None,
    precision: object = None,
    axes: object = WIDTH,
) -> Study:
    """A study from what a user gives: see `run.compare`, whose arguments go over those of the file `cfg`."""
    sides, precisions, spent_on = read_sides(imgsz), read_precisions(precision), read_axes(axes, (WIDTH, DEPTH))
    if elsewhere := {IMGSZ, PRECISION}.intersection(spent_on):
        raise ConfigError(
            f"axes: expected {WIDTH}, {DEPTH} or both, got {', '.join(sorted(elsewhere))}; what is compared at several "
            "sizes and precisions is said by imgsz and precision"
        )
    given = flattened(settings, depth=1) | ({"imgsz": sides[0]} if sides else {})
    for key in given:
        if key in _REPLACED:
            raise ConfigError(f"{key}: not a setting of a comparison; it comes from {_REPLACED[key]}")
    config = load_config(cfg, {**DEFAULTS, **given})
    names = tuple(dict.fromkeys(_listed(criteria)))
    for name in names:
        create_criterion(name)
    if not names:
        raise ConfigError("criteria: expected at least one, such as magnitude,hsic_lasso,random, got none")
    if len(precisions) > 1:
        _check_files(config)
    several = len(sides) > 1 or len(precisions) > 1
    amounts = () if several and not (_listed(targets) or _listed(ratios)) else parse_amounts(targets, ratios)
    if type(seeds) is not int or seeds < 1:
        raise ConfigError(f"seeds: expected how many, an integer of at least 1, got {seeds!r}")
    if DEPTH in spent_on and not all(amount.is_target for amount in amounts):
        raise ConfigError(f"axes: expected targets to meet by {DEPTH}, got ratios, which are of widths; leave one out")
    folder = Path(config.project).expanduser().resolve() / config.name
    drawn = tuple(range(config.seed, config.seed + seeds))
    return Study(folder, config, names, amounts, drawn, sides, precisions, spent_on)


def read_sides(value: object) -> tuple[int, ...]:
    """Sides of images as they are written: 320, "320,256" or a list of them, pixels; none of None.

    Raises:
        ConfigError: One is no integer.
    """
    words = _listed(value)
    for word in words:
        if not word.isdecimal():
            raise ConfigError(
                f"imgsz: expected a side in pixels such as 640, or several such as 640,512, got {word!r}; the first is "
                "the one that shares are of"
            )
    return tuple(map(int, words))


def read_precisions(value: object) -> tuple[str, ...]:
    """Precisions as they are written: "float,int8" or a list of them, without repeats; float always comes first.

    Raises:
        ConfigError: One is unknown.
    """
    words = _listed(value)
    for word in words:
        if word not in PRECISIONS:
            raise ConfigError(
                f"precision: expected some of {', '.join(PRECISIONS)}, got {word!r}{nearest(word, PRECISIONS)}"
            )
    return tuple(dict.fromkeys([FLOAT, *words]))


def _check_files(config: Config) -> None:
    """Refuse other settings of what precisions say."""
    reduced = config.latency["precision"], export_arguments(config.export).get("quantize")
    for key, value, plain in zip(("latency.precision", "export.quantize"), reduced, (FLOAT, None), strict=True):
        if value != plain:
            raise ConfigError(
                f"{key}: expected {plain or 'none'} beside precision, which says it, got {value}; leave it out"
            )


def parse_amounts(targets: object, ratios: object) -> tuple[Amount, ...]:
    """The amounts to compare, in the order given, without repeats.

    Args:
        targets: "params=0.9,0.8,gmacs=3G": several of one metric follow each other, and a + joins what has to hold at
            once, as in "latency=12ms+params=2M"; or a mapping of lists, or a list of targets (see `channels.budgets`).
        ratios: "0.25,0.5", a number, or a list of numbers.
    """
    found: list[Amount] = []
    metric = ""
    if isinstance(targets, Mapping):
        targets = [{metric: share} for metric, shares in targets.items() for share in _listed(shares)]
    if isinstance(targets, (list, tuple)):
        found, targets = [Amount.target(target) for target in targets], None
    for word in _listed(targets):
        if "=" in word:
            metric = word.partition("=")[0] if word.count("=") == 1 else ""
        elif not metric:
            raise ConfigError(
                f"targets: expected shares after a metric such as params=0.9,0.8,gmacs=0.75, got {word!r} after none; "
                "write params= before it"
            )
        found.append(Amount.target(word if "=" in word else f"{metric}={word}"))
    for word in _listed(ratios):
        try:
            ratio = float(word)
        except ValueError:
            raise ConfigError(f"ratios: expected numbers such as 0.25,0.5, got {word!r}") from None
        found.append(Amount.ratio(ratio))
    if not found:
        raise ConfigError("expected targets such as params=0.9,0.8 or ratios such as 0.25,0.5, got neither; pass one")
    return tuple(dict.fromkeys(found))


def _listed(value: object) -> list[str]:
    """The words of a list, or of text with commas."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    if value is None:
        return []
    return [str(word) for word in value] if isinstance(value, Iterable) else [str(value)]
