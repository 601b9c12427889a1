"""A plain least-squares re-fit of a cut network, to compare criteria by what can be had from the kept channels.

Every convolution whose inputs or outputs were cut is fitted in turn to the outputs of the unpruned model (before
BatchNorm, kept channels) at the same (image, position) pairs, from the inputs that the already fitted network gives it
(He et al. 2017, *Channel Pruning*, section 3.2, asymmetric): min ‖Y − X(W + ΔW)‖² + ridge ‖ΔW‖², in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from depgraph_hsic_only.activations import sample_places, taken_outputs, taken_patches
from depgraph_hsic_only.graph import trace_channels
from depgraph_hsic_only.plan import PruningPlan


class _Stop(Exception):
    """Ends a forward pass at the layer at hand."""


def refit(pruned: Any, original: Any, plan: PruningPlan, images: torch.Tensor, *, positions: int, ridge: float) -> None:
    """Re-fit the cut convolutions of `pruned`, in place.

    Args:
        pruned: The cut network.
        original: The unpruned one.
        plan: What was cut.
        images: (n, 3, h, w) in [0, 1].
        positions: Positions sampled from each image.
        ridge: Of the mean of the diagonal of XᵀX.
    """
    kept = _kept_outputs(original, plan)
    cut = [name for name in _in_order(pruned) if _differs(pruned, original, name)]
    targets = _targets(original, cut, images, positions)
    for name in cut:
        conv = pruned.get_submodule(name)
        y = targets.pop(name)[:, kept[name]] if name in kept else targets.pop(name)
        x = torch.cat([patches.flatten(1) for patches in _inputs(pruned, name, images, positions)]).double()
        w = conv.weight.detach().double().flatten(1).T
        gram = x.T @ x
        gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        change = torch.linalg.solve(gram, x.T @ (y.double() - x @ w))
        conv.weight.data = (w + change).T.reshape(conv.weight.shape).to(conv.weight.dtype).contiguous()


def _differs(pruned: Any, original: Any, name: str) -> bool:
    return bool(pruned.get_submodule(name).weight.shape != original.get_submodule(name).weight.shape)


def _in_order(network: Any) -> Iterator[str]:
    """Paths of the convolutions of all layers but the head, in the order in which they run."""
    for i, layer in enumerate(network.model[:-1]):
        if hasattr(layer, "conv"):
            yield f"model.{i}.conv"
        elif hasattr(layer, "cv1"):
            yield f"model.{i}.cv1.conv"
            for j in range(len(layer.m) if hasattr(layer, "c") else 0):
                yield f"model.{i}.m.{j}.cv1.conv"
                yield f"model.{i}.m.{j}.cv2.conv"
            yield f"model.{i}.cv2.conv"


def _kept_outputs(original: Any, plan: PruningPlan) -> dict[str, list[int]]:
    """The output channels that stay, by convolution of the stock model."""
    keep = {cut.name: list(cut.keep) for cut in plan.groups}
    outputs: dict[str, list[int]] = {}
    for group in trace_channels(original, list(plan.layers)).groups:
        for member in group.members:
            if member.role == "output" and member.name.endswith((".first.conv", ".second.conv")):
                name = member.name.rsplit(".", 2)[0] + ".cv1.conv"
                offset = group.channels if member.name.endswith(".second.conv") else 0
                outputs.setdefault(name, []).extend(offset + k for k in keep[group.name])
            elif member.role == "output":
                outputs[member.name] = keep[group.name]
    return {name: sorted(channels) for name, channels in outputs.items()}


def _targets(original: Any, names: list[str], images: torch.Tensor, positions: int) -> dict[str, torch.Tensor]:
    """Outputs of the unpruned convolutions at sampled places, (n, c_out) each, from one pass."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    generators = {name: torch.Generator().manual_seed(0) for name in names}

    def tap(name: str) -> Any:
        def hook(conv: Any, inputs: Any, output: torch.Tensor) -> None:
            found[name].append(taken_outputs(output, sample_places(output, positions, generators[name])))

        return hook

    hooks = [original.get_submodule(name).register_forward_hook(tap(name)) for name in names]
    with torch.no_grad():
        for batch in torch.split(images, 10):
            original.eval()(batch)
    for handle in hooks:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def _inputs(network: Any, name: str, images: torch.Tensor, positions: int) -> Iterator[torch.Tensor]:
    """Patches that one convolution reads at the same places, (n, c_in, k²); the pass stops there."""
    generator = torch.Generator().manual_seed(0)
    found: list[torch.Tensor] = []

    def hook(conv: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.append(taken_patches(inputs[0], conv, sample_places(output, positions, generator), output.shape[3]))
        raise _Stop

    handle = network.get_submodule(name).register_forward_hook(hook)
    for batch in torch.split(images, 10):
        try:
            with torch.no_grad():
                network.eval()(batch)
        except _Stop:
            yield found.pop()
    handle.remove()
