"""A plan becomes a network: cut, back from split form, with the YAML that rebuilds it, and what was kept."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from depgraph_hsic_only.channels.groups import ChannelGraph, split_network, trace_channels
from depgraph_hsic_only.channels.plan import PruningPlan, make_plan
from depgraph_hsic_only.channels.widths import Widths, check_widths, follow_ties
from depgraph_hsic_only.errors import PlanError
from depgraph_hsic_only.yolo.architecture import check_architecture, record_origin, stock_yaml
from depgraph_hsic_only.yolo.blocks import block_of, merge_blocks, stock_rows
from depgraph_hsic_only.yolo.types import Network

Kept = Mapping[str, tuple[int, ...]]
"""Output channels of the original that stay, ascending, by path of the convolution; all of one that is not in it."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut network, with only stock modules and the YAML that rebuilds it, and what it has kept of the original."""

    network: Network
    kept: Kept


def cut(network: Network, plan: PruningPlan, graph: ChannelGraph | None = None) -> Cut:
    """A pruned copy of a network that was checked, which is left as it is.

    Training mode, device, number format, and which parameters take gradients are those of the network. Where the graph
    of the plan's layers is known, the cut is made in it, and uses it up; only its groups count, and weights that a
    criterion has changed are those of the network again.

    Raises:
        PlanError: The plan was made for other layers or widths.
    """
    if graph is None:
        graph = trace_channels(network, list(plan.layers), plan.depth)
    else:
        graph.model.load_state_dict(split_network(network).state_dict())
        graph.model.zero_grad()
    kept = kept_channels(network, plan, graph)
    for group, chosen in zip(graph.without_left_out(plan.after).groups, plan.groups, strict=True):
        removed = sorted(set(range(chosen.channels)) - set(chosen.keep))
        if removed:
            group.cut(removed)
    return Cut(_as_stock(graph.model, network, {w.layer: w.after for w in plan.widths if w.is_repeats}), kept)


def cut_to(network: Network, graph: ChannelGraph, widths: Widths) -> Network:
    """A copy of a network, whose graph is left as it is, cut to widths, tied ones following; any channels stay."""
    widths, scores = follow_ties(graph, widths), {group.name: torch.zeros(group.channels) for group in graph.groups}
    return cut(network, make_plan(graph, scores, widths, criterion="none", reasons=dict.fromkeys(widths, ""))).network


def kept_channels(network: Network, plan: PruningPlan, graph: ChannelGraph | None = None) -> Kept:
    """What the convolutions of a network keep by a plan; arguments and errors are those of `cut`."""
    graph = graph or trace_channels(network, list(plan.layers), plan.depth)
    left = _what_is_left(plan, graph)
    keep = {group.name: group.keep for group in plan.groups}
    found: dict[str, list[int]] = {}
    for group in left.groups:
        for member in group.members:
            if member.role == "output":
                placed = stock_rows(cast(Any, graph.model), member.name)
                if placed is not None:
                    path, rows = placed
                    chosen = torch.isin(member.channel, torch.tensor(keep[group.name]))
                    found.setdefault(path, []).extend(rows[member.index[chosen]].tolist())
    return {path: tuple(sorted(channels)) for path, channels in found.items()}


def _as_stock(split: Network, network: Network, repeats: Mapping[int, int]) -> Network:
    """The cut network in split form as a stock one, in place, with all else as in the network that it was cut from.

    Layers are shortened to their `repeats`, by index, where these are told.
    """
    merge_blocks(cast(Any, split))
    for i, layer in enumerate(split.model):
        block = block_of(layer)
        block.measure(layer)
        if block.depth is not None and i in repeats:
            block.depth.shorten(layer, repeats[i])
        layer.np = sum(parameter.numel() for parameter in layer.parameters())
    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    for name, parameter in split.named_parameters():
        parameter.requires_grad_(flags[name])
    split.train(network.training)
    if hasattr(network, "args"):
        split.args = copy.copy(network.args)
    split.__dict__.pop("criterion", None)  # a loss that a criterion has made
    split.yaml = record_origin(stock_yaml(split), network)
    split.to(next(network.parameters()).dtype)
    check_architecture(split)
    return split


def _what_is_left(plan: PruningPlan, graph: ChannelGraph) -> ChannelGraph:
    """The graph without what a plan leaves out.

    A plan of other widths or groups than the model has is refused, and one that leads to no stock model.
    """
    graph = graph.without_left_out(plan.after)
    groups = [(group.name, group.width, group.channels) for group in graph.groups]
    if [(chosen.name, chosen.width, chosen.channels) for chosen in plan.groups] != groups:
        wants = {chosen.name: chosen.channels for chosen in plan.groups}
        has = {group.name: group.channels for group in graph.groups}
        differing = [name for name in {**wants, **has} if wants.get(name) != has.get(name)]
        name = differing[0] if differing else "their order"
        raise PlanError(
            f"expected the model that the plan was made for, got one that differs in {name} ({has.get(name)} channels, "
            f"the plan has {wants.get(name)}); make the plan anew for this model"
        )
    for chosen, group in zip(plan.groups, graph.groups, strict=True):
        if group.bins and chosen.keep != tuple(range(len(chosen.keep))):
            kept = list(chosen.keep)
            raise PlanError(f"group {group.name}: expected the first bins to stay, got {kept}; make the plan anew")
    listed = [(width.name, width.layer, width.before) for width in plan.widths]
    if listed != [(width.name, width.layer, width.channels) for width in graph.widths]:
        raise PlanError(
            "expected the model that the plan was made for, got one of other widths; make the plan anew for this model"
        )
    check_widths(graph, plan.after)
    return graph
