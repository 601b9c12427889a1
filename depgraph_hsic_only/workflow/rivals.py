"""The rivals of a run's result, measured: the unpruned model on smaller images, and other checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.validation import Metrics, Validation
from depgraph_hsic_only.report.rivals import Rival
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.input_shape import rounded_up
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_LEAST = 32  # pixels

Measure = Callable[[Yolo, Validation], Metrics]


def sizes_of_equal_cost(network: Network, gmacs: float, imgsz: int) -> list[int]:
    """Sides of square images, below `imgsz`, at which a network costs about so many multiply-adds.

    They are the largest at which it costs no more, and the next larger one, where there are such.
    """
    step = rounded_up(network, _LEAST)
    sides = range(imgsz - step, 0, -step)
    fits = next((side for side in sides if measure_cost(network, side).gmacs <= gmacs), None)
    larger = sides[-1] if fits is None else fits + step
    return [side for side in (larger, fits) if side is not None and side < imgsz]


def measure_rivals(
    unpruned: Yolo, gmacs: float, checkpoints: Sequence[str], validation: Validation, measure: Measure
) -> tuple[Rival, ...]:
    """What else costs about so many multiply-adds (10^9), without any training.

    That is the unpruned model at the image sizes of equal cost, and the `checkpoints` at the size of the validation.
    """
    tried = [
        (f"the unpruned model at {side} px", unpruned, replace(validation, imgsz=side))
        for side in sizes_of_equal_cost(unpruned.model, gmacs, validation.imgsz)
    ]
    tried += [(Path(path).name, load_model(path), validation) for path in checkpoints]
    found = []
    for name, model, of in tried:
        say(f"measuring {name}")
        cost = measure_cost(model.model, of.imgsz)
        found.append(Rival(name, of.imgsz, cost.parameters, cost.gmacs, measure(model, of).map50_95))
    return tuple(found)


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
