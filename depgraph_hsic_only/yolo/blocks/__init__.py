"""What this package knows of Ultralytics' blocks: one entry for each, by exact type.

A subclass is another block (`C3k2` *is a* `C2f` to `isinstance`): half understood is worse than refused. Everything
that asks what a layer is made of is a loop over this table: the channel groups, the model YAML of a cut network, cost
by part, `info`, the re-fit of a head, and what an int8 file leaves in float. A new block is one entry here, and a form
in `split.py` where one of its convolutions makes channels that go separate ways.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from depgraph_hsic_only.yolo.blocks.attention import traceable
from depgraph_hsic_only.yolo.blocks.block import (
    HIDDEN_MULTIPLE,
    OUTPUT_MULTIPLE,
    Block,
    Tie,
    Width,
    inner_block,
    is_left_out,
    repeats_name,
)
from depgraph_hsic_only.yolo.blocks.heads import HEADS, auxiliary, idle, is_constant, is_end_to_end, prototypes
from depgraph_hsic_only.yolo.blocks.layers import LAYERS
from depgraph_hsic_only.yolo.blocks.split import merge_blocks, split_blocks, stock_rows
from depgraph_hsic_only.yolo.types import Network

__all__ = [
    "BLOCKS",
    "HIDDEN_MULTIPLE",
    "OUTPUT_MULTIPLE",
    "Block",
    "Tie",
    "Width",
    "auxiliary",
    "block_at",
    "block_of",
    "idle",
    "inner_block",
    "is_constant",
    "is_end_to_end",
    "is_left_out",
    "merge_blocks",
    "output_convolution",
    "prototypes",
    "repeats_name",
    "repeats_of",
    "sources",
    "split_blocks",
    "split_of",
    "stock_paths",
    "stock_rows",
    "traceable",
    "widths_of",
]

BLOCKS: dict[type[nn.Module], Block] = {block.type: block for block in (*LAYERS, *HEADS)}


def sources(layer: Any, index: int) -> tuple[int, ...]:
    """Indices of the layers that a layer reads; -1 for the image."""
    read = layer.f if isinstance(layer.f, list) else [layer.f]
    return tuple(index + j if j < 0 else j for j in read)


def block_of(layer: nn.Module) -> Block:
    """The entry of a layer of a network that was checked (see `architecture.check_architecture`)."""
    return BLOCKS[type(layer)]


def widths_of(network: Network) -> list[tuple[int, Width]]:
    """All widths of a network in its order, each with the index of its layer."""
    found: list[tuple[int, Width]] = []
    by_name: dict[str, Width] = {}
    outputs: dict[int, str] = {-1: ""}  # the width that each layer puts out, "" for no single one
    for i, layer in enumerate(network.model):
        block, read = block_of(layer), [outputs[j] for j in sources(layer, i)]
        for width in block.widths(layer, i, read):
            width = width if width.tie is None else replace(width, tie=_freely(width.tie, by_name))
            by_name[width.name] = width
            found.append((i, width))
        if block.residual(layer) or block.passes:
            outputs[i] = read[0]
        else:
            outputs[i] = f"w{i}" if block.output else ""
    return found


def repeats_of(network: Network) -> list[tuple[int, Width]]:
    """The repeats of the layers that some can be left out of, as free widths, each with the index of its layer."""
    depths = [(i, layer, block_of(layer).depth) for i, layer in enumerate(network.model)]
    return [(i, Width(repeats_name(i), len(layer.m), 1, (), least=d.least)) for i, layer, d in depths if d is not None]


def _freely(tie: Tie, by_name: dict[str, Width]) -> Tie:
    """A tie to free widths alone, for one to widths some of which may be tied to a free one themselves."""
    above = [by_name[name].tie if name in by_name else None for name in tie.to]
    to = tuple(name if up is None else up.to[0] for name, up in zip(tie.to, above, strict=True))

    def rule(*widths: int) -> int:
        return tie.rule(*(w if up is None else up.rule(w) for w, up in zip(widths, above, strict=True)))

    return Tie(to, rule, tie.text, tuple(by_name[name].channels if name in by_name else 0 for name in to))


def output_convolution(network: Network, index: int) -> str:
    """Path of the convolution that makes what a layer puts out, in the stock network."""
    return f"model.{index}.{block_of(network.model[index]).output}"


def split_of(network: Any, path: str) -> str:
    """Path in the stock network of a convolution of a network in split form; its own where it stands for none."""
    found = stock_rows(network, path)
    return path if found is None else found[0]


def stock_paths(network: Network, convolutions: Sequence[str]) -> list[str]:
    """Paths in the stock network of convolutions of its split form, each once."""
    return list(dict.fromkeys(split_of(network, path) for path in convolutions))


def block_at(network: Network, path: str) -> Block:
    """The entry of the layer that a module belongs to, from its path, such as "model.2.cv1.conv"."""
    return block_of(network.model[int(path.split(".")[1])])
