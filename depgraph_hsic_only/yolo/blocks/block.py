"""What an entry of the table of blocks says."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

OUTPUT_MULTIPLE = 8  # Ultralytics' parse_model rounds every block output, and npr, up to a multiple of 8
HIDDEN_MULTIPLE = 4  # nothing asks for it, but kernels on narrower steps are no faster
_INNER = re.compile(r"model\.(\d+)\.m\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Tie:
    """How a width follows from others, as Ultralytics builds it."""

    to: tuple[str, ...]  # names of the widths that it follows
    rule: Callable[..., int]  # the width that Ultralytics builds, from those of `to`
    text: str  # the rule, for people
    now: tuple[int, ...] = ()  # those of `to` as they are, known of a whole network (see `widths_of`)


@dataclass(frozen=True, eq=False)
class Width:
    """A number of channels, or of repeats, that a layer is built with.

    It is named "w<layer>" for the layer's output, "h<layer>" for a hidden width, "b<layer>" and "f<layer>" for those of
    bottlenecks and feed-forward parts within, "a<layer>" for attention heads, "npr" for the prototypes, and "box",
    "class", "mask", "keypoint", "angle" for the hidden widths of a head's branches, "reg_max" for the bins of the
    distributions of a box's distances. "d<layer>" are the layer's repeats, which no convolution makes.
    """

    name: str
    channels: int  # or, of an attention, heads; or repeats
    multiple: int  # what Ultralytics, or speed, wants it to be a multiple of
    makers: tuple[str, ...]  # paths within the layer, in split form, of the convolutions or attentions that make them
    tie: Tie | None = None  # None where it is free
    needs: int = 1  # what Ultralytics alone needs it to be a multiple of
    least: int = 1  # the fewest that Ultralytics builds, or that make sense
    # Whether they are bins: distances of 0, 1, 2 ... strides. The first ones stay, whatever a criterion says, and the
    # outputs of a convolution are runs of as many.
    bins: bool = False


@dataclass(frozen=True)
class Depth:
    """How inner blocks of a layer are left out: the last of `m`, each with its slot in what `cv2` reads.

    `cv2` reads slots of one width: those that `cv1` puts out, and behind them what each inner block does.
    """

    slots: int  # that `cv1` puts out
    least: int  # the fewest inner blocks that stay

    def shorten(self, layer: Any, repeats: int) -> None:
        """Leave all but so many inner blocks of a stock layer out, in place."""
        del layer.m[repeats:]
        conv = layer.cv2.conv
        conv.in_channels = layer.cv1.conv.out_channels // self.slots * (self.slots + repeats)
        conv.weight = nn.Parameter(conv.weight.detach()[:, : conv.in_channels].clone(), conv.weight.requires_grad)


def repeats_name(layer: int) -> str:
    """Name of the repeats of a layer, as of a width."""
    return f"d{layer}"


def inner_block(path: str) -> tuple[str, int] | None:
    """Of a module in an inner block of a layer, from its path: the name of the layer's repeats, and which it is."""
    found = _INNER.match(path)
    return None if found is None else (repeats_name(int(found[1])), int(found[2]))


def is_left_out(path: str, widths: Mapping[str, int]) -> bool:
    """Whether a module, or a channel group named for one, is in an inner block beyond the repeats among some widths."""
    found = inner_block(path)
    return found is not None and found[1] >= widths.get(found[0], found[1] + 1)


@dataclass(frozen=True)
class Block:
    """One of Ultralytics' blocks."""

    type: type[nn.Module]
    # Widths of a layer, those that others are tied to first, from the layer, its index and the names of the widths that
    # it reads, "" for what is no one width.
    widths: Callable[[Any, int, Sequence[str]], Sequence[Width]]
    # Arguments of the YAML's row that build the layer with the widths that it has, from those that it was built from.
    row: Callable[[Any, list[Any]], list[Any]] = lambda layer, args: args
    share: int | None = None  # place among these of the hidden width, as a share of the output; None of a block without
    repeats: Callable[[Any], int] = lambda layer: 1  # of the block's inner part, by the row
    depth: Depth | None = None  # None where no repeats can be left out
    # Sets what the layer keeps of its widths, once its convolutions were cut.
    measure: Callable[[Any], None] = lambda layer: None
    output: str = ""  # path within the layer of the convolution that makes what it puts out
    # Whether what it puts out is added to what it reads, so that both are one width.
    residual: Callable[[Any], bool] = lambda layer: False
    passes: bool = False  # whether it puts out the channels that it reads
    stride: Callable[[Any, int], int] = lambda layer, stride: stride  # of the output, from that of the first input
    branches: Mapping[str, str] = field(default_factory=dict)  # of a head: its children's names in a table of costs
    integer: str = ""  # of a head: a pattern of the convolutions that a file may hold in int8 (see `evaluation.onnx`)
    # The pass through no more than a convolution, by its path in the layer, depends on; it takes what the layer takes.
    part: Callable[[Any, str], Callable[[Any], object]] = lambda layer, path: layer

    @property
    def in_backbone(self) -> bool:
        """Whether a backbone may be made of it: it reads one layer and makes channels of its own."""
        return bool(self.output)

    @property
    def is_head(self) -> bool:
        """Whether it predicts: the last layer of a network, and no other, is such a block."""
        return bool(self.branches)
