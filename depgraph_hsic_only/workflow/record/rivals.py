"""The rivals of a run's result, measured: the unpruned model on smaller images and in int8, and other checkpoints."""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from depgraph_hsic_only.errors import ConfigError, ExportError
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, INT8, Deployment
from depgraph_hsic_only.evaluation.validation import Metrics
from depgraph_hsic_only.workflow.record.latencies import Latencies
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.device import on_device, select_device
from depgraph_hsic_only.yolo.input_shape import InputShape, rounded_up
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_LEAST = 32  # pixels


@dataclass(frozen=True, eq=False)
class Entrant:
    """A rival before it is measured.

    Attributes:
        name: What it is, for people.
        model: The `YOLO`.
        imgsz: Side of its images, pixels.
        precision: Of its file.
        epochs: That it was trained on for, as the result was.
    """

    name: str
    model: Yolo
    imgsz: int
    precision: str = FLOAT
    epochs: int = 0

    @property
    def called(self) -> str:
        """Its name, with its training."""
        return f"{self.name}, trained on" if self.epochs else self.name


def sizes_of_equal_cost(network: Network, gmacs: float, imgsz: int) -> list[int]:
    """Sides of square images, below `imgsz`, at which a network costs about so many multiply-adds.

    They are the largest at which it costs no more, and the next larger one, where there are such.
    """
    step = rounded_up(network, _LEAST)
    sides = range(imgsz - step, 0, -step)
    dear = list(itertools.takewhile(lambda side: measure_cost(network, side).gmacs > gmacs, sides))
    return [*dear[-1:], *sides[len(dear) :][:1]]


def find_entrants(
    unpruned: Yolo, gmacs: float, imgsz: int, checkpoints: Sequence[str], deployment: Deployment, device: object
) -> list[Entrant]:
    """What else costs about so many multiply-adds (10^9), or less time than it looks.

    That is the unpruned model at the image sizes of equal cost, in int8 where what it is deployed in runs that, and the
    `checkpoints` on images of a side, pixels; all in the precision of the result's `deployment` where that is int8.
    """
    sizes = sizes_of_equal_cost(unpruned.model, gmacs, imgsz)
    found = [Entrant(f"the unpruned model at {side} px", unpruned, side) for side in sizes]
    names = [Path(path).name for path in checkpoints]
    shown = (name if names.count(name) == 1 else str(path) for name, path in zip(names, checkpoints, strict=True))
    found += [Entrant(name, load_model(path), imgsz) for name, path in zip(shown, checkpoints, strict=True)]
    if deployment.precision == INT8:
        found = [replace(entrant, name=f"{entrant.name} in int8", precision=INT8) for entrant in found]
    if runs_int8(deployment, device):
        found.append(Entrant("the unpruned model in int8", unpruned, imgsz, INT8))
    return found


def runs_int8(deployment: Deployment, device: object) -> bool:
    """Whether what is deployed could be in int8."""
    try:
        return deployment.command is None and bool(replace(deployment, precision=INT8).on(select_device(device)))
    except ConfigError:
        return False


def time_entrants(
    entrants: Sequence[Entrant],
    clock: Latencies,
    imgsz: int,
    validate: Callable[[Path, InputShape], Metrics],
    note: Callable[[str], None],
) -> list[tuple[Entrant, Metrics | None]]:
    """Give what times each entrant to the clock, under its name; and what a file in int8 is worth, None of any other.

    Each is deployed as the result is, but for the size of its images, of which `imgsz` is the unpruned model's. One
    whose file can't be made is left out with a note, since the result is worth having without it.
    """
    found = []
    for entrant in entrants:
        network = on_device(entrant.model.model, clock.device)
        shape = clock.given.shape.scaled(network, entrant.imgsz / imgsz)
        way = replace(clock.deployment, shape=shape, precision=entrant.precision)
        folder = Path(tempfile.mkdtemp(dir=clock.folder))
        try:
            path = way.write(network, folder, clock.images) if entrant.precision == INT8 else None
            clock.add(entrant.called, way.prepare(network, folder, path))
        except ExportError as error:
            note(f"{entrant.called} was not compared: {error}")
            continue
        found.append((entrant, None if path is None else validate(path, shape)))
    return found


def check_rivals(checkpoints: Sequence[str], task: str, classes: int) -> None:
    """Refuse, by a `ConfigError`, checkpoints of another task or number of classes than the data set's."""
    for path in checkpoints:
        other = load_model(path)
        found = task_of(other.model).name
        if found != task or len(other.names) != classes:
            raise ConfigError(
                f"rivals: expected models to {task} {classes} classes, got {path}, one to {found} {len(other.names)}; "
                "leave it out, or train it on this data first"
            )
