"""Blocks in split form: a convolution whose outputs go separate ways as several, each a channel group of its own.

Ultralytics computes both halves of a C2f with one convolution and `chunk`s the result, and queries, keys and values of
all attention heads with another. torch-pruning 1.6.1 infers wrong split sizes where such a part has several consumers,
so channels are grouped and cut in this form, and the parts are joined again afterwards. The two forms have the same
parameters and give the same outputs.
"""

from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import C2, C2PSA, A2C2f, C2f, C3k2
from ultralytics.nn.modules.block import AAttn, Attention

from depgraph_hsic_only.yolo.blocks.attention import SplitAAttn, SplitHeads, heads_of
from depgraph_hsic_only.yolo.blocks.forms import Rows, Split, SplitA2C2f, SplitC2, SplitC2f, SplitC2PSA


def _halves(block: Any) -> Rows:
    first, second = torch.arange(block.cv1.conv.out_channels).chunk(2)
    return {"first": first, "second": second}


_FORMS: dict[type[nn.Module], type[Split]] = {
    C2f: SplitC2f,
    C3k2: SplitC2f,
    C2: SplitC2,
    C2PSA: SplitC2PSA,
    Attention: SplitHeads,
    AAttn: SplitAAttn,
}
_LAYER_ATTRIBUTES = ("i", "f", "type", "np")  # what Ultralytics' parse_model sets on each layer of a model


def split_blocks(module: nn.Module) -> nn.Module:
    """Replace every block in `module` that has a split form by it, in place.

    Args:
        module: A block, or any module that contains some (a whole model).

    Returns:
        `module` itself; where it is such a block, what takes its place.
    """
    for name, child in module.named_children():
        setattr(module, name, split_blocks(child))
    if type(module) is A2C2f:
        return _placed(SplitA2C2f.of(module), module)
    form = _FORMS.get(type(module))
    if form is None:
        return module
    made: Any = form.of(module, heads_of(module) if issubclass(form, SplitHeads) else _halves(module))
    if isinstance(made, SplitHeads):
        made.traced = None
    return _placed(made, module)


def merge_blocks(module: nn.Module) -> nn.Module:
    """Replace every block in split form in `module` by the stock block, in place: the inverse of `split_blocks`.

    Raises:
        ValueError: The halves of one differ in width, which no stock block can hold.
    """
    for name, child in module.named_children():
        setattr(module, name, merge_blocks(child))
    return _placed(module.merged(), module) if isinstance(module, (Split, SplitA2C2f)) else module


def _placed(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new block as the layer that the old one was, where it was one."""
    for name in _LAYER_ATTRIBUTES:
        if name in old.__dict__:
            setattr(new, name, getattr(old, name))
    return new


def stock_rows(network: nn.Module, path: str) -> tuple[str, torch.Tensor] | None:
    """Where the outputs of a convolution of a network in split form are in the stock one.

    Its path there, and the (c,) rows of its weights; None of a convolution that stands for no convolution.
    """
    conv: Any = network.get_submodule(path)
    rows = torch.arange(conv.out_channels)
    block, _, part = path.removesuffix(".conv").rpartition(".")
    parent = network.get_submodule(block)
    if isinstance(parent, SplitA2C2f) and part == "scale":
        return None
    if isinstance(parent, Split) and part in parent.parts:
        return f"{block}.{parent.joint}.conv", parent.rows()[part]
    return path, rows
