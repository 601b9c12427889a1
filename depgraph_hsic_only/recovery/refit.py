"""Which convolutions a cut has touched, and their re-fit one after the other along the network."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.errors import PlanError
from depgraph_hsic_only.recovery.layerwise import Walk
from depgraph_hsic_only.recovery.least_squares import FittedLayer, fit_layer
from depgraph_hsic_only.recovery.positions import Places
from depgraph_hsic_only.yolo.c2f import stock_output


def fit_walks(
    student: Walk, teacher: Walk, places: Mapping[str, Places], kept: Mapping[str, torch.Tensor], ridge: float
) -> Iterator[FittedLayer]:
    """Fit every convolution that has places, one by one in the order of the network, in place.

    Args:
        student: A walk through the cut network, at or before the first layer that has places; it ends at the last.
        teacher: A walk through the original, over the same images in the same batches, at the same layer.
        places: Where to sample, by path of the convolution.
        kept: The original's output channels that are left, by such a path (see `kept_outputs`).
        ridge: Of the fit (see `least_squares.py`).
    """
    last = max((int(name.split(".")[1]) for name in places), default=student.index)
    for i in range(student.index, last + 1):
        prefix = f"model.{i}."
        here = {name.removeprefix(prefix): p for name, p in places.items() if name.startswith(prefix)}
        outputs = {name.removeprefix(prefix): k for name, k in kept.items() if name.startswith(prefix)}
        for fitted in fit_layer(student, teacher, here, outputs, ridge=ridge) if here else ():
            yield FittedLayer(prefix + fitted.name, fitted.before, fitted.after)
        if i < last:
            student.step()
            teacher.step()


def touched_convolutions(pruned: nn.Module, original: nn.Module) -> list[str]:
    """Paths of the convolutions that have lost inputs or outputs."""
    shapes = {
        name: m.weight.shape for name, m in original.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    }
    return [name for name, shape in shapes.items() if pruned.get_parameter(f"{name}.weight").shape != shape]


def kept_outputs(pruned: nn.Module, original: nn.Module, plan: PruningPlan) -> dict[str, torch.Tensor]:
    """The output channels that stay, ascending, by path of the convolution in the stock model."""
    keep = {cut.name: torch.tensor(cut.keep) for cut in plan.groups}
    outputs: dict[str, list[torch.Tensor]] = {}
    for group in trace_channels(original, list(plan.layers)).groups:
        for member in group.members:
            if member.role == "output":
                name, offset = stock_output(member.name, group.channels)
                outputs.setdefault(name, []).append(offset + keep[group.name])
    kept = {name: torch.cat(parts).sort().values for name, parts in outputs.items()}
    for name, channels in kept.items():
        has = len(pruned.get_parameter(f"{name}.weight"))
        if has != len(channels) and not isinstance(pruned.get_submodule(name), nn.ConvTranspose2d):
            raise PlanError(
                f"{name}: expected the {len(channels)} channels that the plan keeps, got {has}; pass its plan"
            )
    return kept


def untouched_layers(pruned: Any, original: Any) -> list[int]:
    """Indices of the layers with weights that a cut has left as they were, but for the weights' values."""
    touched = {int(name.split(".")[1]) for name in touched_convolutions(pruned, original)}
    return [i for i, layer in enumerate(original.model) if i not in touched and list(layer.parameters())]


def head_channels(pruned: Any, original: Any, plan: PruningPlan) -> tuple[tuple[int, ...] | None, ...]:
    """The original's channels that each input of the head still has, ascending; None for all."""
    kept = kept_outputs(pruned, original, plan)
    outputs = (kept.get(f"model.{i}.cv2.conv") for i in original.model[-1].f)
    return tuple(None if channels is None else tuple(channels.tolist()) for channels in outputs)
