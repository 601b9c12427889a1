"""C2f in split form: its first convolution as two, so that each half is a channel group of its own.

Ultralytics computes both halves with one convolution and `chunk`s the result. torch-pruning 1.6.1 infers wrong split
sizes where the second half of a chunk has several consumers, so channels are grouped and cut in this form and the
halves are joined again afterwards. The two forms have the same parameters and give the same outputs.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from ultralytics.nn.modules import C2f, Conv

_LAYER_ATTRIBUTES = ("i", "f", "type", "np")  # what Ultralytics' parse_model sets on each layer of a model


class SplitC2f(nn.Module):
    """C2f with `cv1` as two convolutions, `first` and `second` (the half that the bottlenecks read).

    Attributes:
        first: Convolution of the half that goes straight to the concatenation, (B, c1, H, W) to (B, c, H, W).
        second: Convolution of the half that goes through the bottlenecks, (B, c1, H, W) to (B, c, H, W).
        m: The bottlenecks, each (B, c, H, W) to (B, c, H, W).
        cv2: Convolution of the concatenation, (B, (2 + n) c, H, W) to (B, c2, H, W).
    """

    def __init__(self, first: nn.Module, second: nn.Module, m: nn.ModuleList, cv2: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.m, self.cv2 = first, second, m, cv2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the C2f computes: (B, c1, H, W) to (B, c2, H, W)."""
        y = [self.first(x), self.second(x)]
        y.extend(block(y[-1]) for block in self.m)
        return cast(torch.Tensor, self.cv2(torch.cat(y, 1)))


def split_c2f(module: nn.Module) -> nn.Module:
    """Replace every C2f in `module` by its split form, in place.

    Args:
        module: A C2f, or any module that contains some (a whole model).

    Returns:
        `module` itself; where it is a C2f, the `SplitC2f` that takes its place.
    """
    return _replaced(module, C2f, _split)


def merge_c2f(module: nn.Module) -> nn.Module:
    """Replace every `SplitC2f` in `module` by a stock Ultralytics C2f, in place: the inverse of `split_c2f`.

    Args:
        module: A `SplitC2f`, or any module that contains some (a whole model).

    Returns:
        `module` itself; where it is a `SplitC2f`, the C2f that takes its place.

    Raises:
        ValueError: Its halves differ in width, which no C2f can hold.
    """
    return _replaced(module, SplitC2f, _merged)


def stock_output(name: str, half: int) -> tuple[str, int]:
    """Where a convolution of the split form stands in the stock model: its path and the offset of its outputs there.

    `half` is the number of output channels of one half of a C2f's first convolution.
    """
    if name.endswith((".first.conv", ".second.conv")):
        return name.rsplit(".", 2)[0] + ".cv1.conv", half if name.endswith(".second.conv") else 0
    return name, 0


def _replaced(module: nn.Module, kind: type[nn.Module], replace: Callable[[Any], nn.Module]) -> nn.Module:
    """The module with all of a kind in it replaced, each in the place of the old one."""
    if type(module) is kind:
        new = replace(module)
        for name in _LAYER_ATTRIBUTES:
            if hasattr(module, name):
                setattr(new, name, getattr(module, name))
        new.training = module.training
        return new
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, kind, replace))
    return module


def _split(c2f: Any) -> nn.Module:
    weights = c2f.cv1.state_dict()
    first, second = ({name: t.chunk(2)[k] if t.ndim else t for name, t in weights.items()} for k in (0, 1))
    return SplitC2f(_conv(c2f.cv1, first), _conv(c2f.cv1, second), c2f.m, c2f.cv2)


def _merged(split: Any) -> nn.Module:
    widths = {split.first.conv.out_channels, split.second.conv.out_channels}
    if len(widths) > 1:
        raise ValueError(f"expected two halves of one width, got {sorted(widths)}; cut both to the same width")
    c2f: Any = C2f.__new__(C2f)  # its __init__ would draw random weights, and with them the caller's random state
    nn.Module.__init__(c2f)
    a, b = split.first.state_dict(), split.second.state_dict()
    c2f.cv1 = _conv(split.first, {name: torch.cat([a[name], b[name]]) if a[name].ndim else a[name] for name in a})
    c2f.c, c2f.cv2, c2f.m = widths.pop(), split.cv2, split.m
    return cast(nn.Module, c2f)


def _conv(like: Any, weights: dict[str, torch.Tensor]) -> Any:
    """A Conv as `like` (stride, BatchNorm constants, activation, flags) with other weights."""
    c2, c1 = weights["conv.weight"].shape[:2]
    with torch.device("meta"):  # draws no random numbers; the weights come next
        conv = Conv(c1, c2, like.conv.kernel_size, like.conv.stride, like.conv.padding)
    conv.act = like.act
    conv.bn.eps, conv.bn.momentum = like.bn.eps, like.bn.momentum
    conv.load_state_dict({name: t.detach().clone() for name, t in weights.items()}, assign=True)
    for parameter, source in zip(conv.parameters(), like.parameters(), strict=True):
        parameter.requires_grad_(source.requires_grad)
    return conv.train(like.training)
