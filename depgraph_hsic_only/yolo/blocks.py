"""What this package knows of Ultralytics' blocks: one entry for each, by exact type.

A subclass is another block (`C3k2` *is a* `C2f` to `isinstance`): half understood is worse than refused. Everything
that asks what a layer is made of is a loop over this table: the channel groups, the model YAML of a cut network, the
split form, cost by part, `info`, the re-fit of a head, and what an int8 file leaves in float. A new block is one entry
here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn
from ultralytics.nn.modules import OBB, SPPF, C2f, Concat, Conv, Detect, Pose, Segment

from depgraph_hsic_only.yolo.c2f import merge_c2f, split_c2f, stock_output
from depgraph_hsic_only.yolo.types import Network

OUTPUT_MULTIPLE = 8  # Ultralytics' parse_model rounds every block output, and npr, up to a multiple of 8
HIDDEN_MULTIPLE = 4  # nothing asks for it, but kernels on narrower steps are no faster


@dataclass(frozen=True, eq=False)
class Tie:
    """How a width follows from another one, as Ultralytics builds it."""

    to: str  # name of the width that it follows
    rule: Callable[[int], int]  # the width that Ultralytics builds, from that of `to`
    text: str  # the rule, for people


@dataclass(frozen=True, eq=False)
class Width:
    """A number of channels that a layer is built with.

    It is named "w<layer>" for the layer's output, "h<layer>" for a hidden width, "npr" for the prototypes, and "box",
    "class", "mask" for the hidden widths of a head's branches.
    """

    name: str
    channels: int
    multiple: int  # what Ultralytics, or speed, wants it to be a multiple of
    convolutions: tuple[str, ...]  # that make the channels, by path within the layer in split form
    tie: Tie | None = None  # None where it is free


@dataclass(frozen=True)
class Block:
    """One of Ultralytics' blocks."""

    type: type[nn.Module]
    # Widths of a layer, hidden ones first, from the layer and its index.
    widths: Callable[[Any, int], Sequence[Width]]
    # Arguments of the YAML's row that build the layer with the widths that it has, from those that it was built from.
    row: Callable[[Any, list[Any]], list[Any]] = lambda layer, args: args
    repeats: Callable[[Any], int] = lambda layer: 1  # of the block's inner part, by the row
    # The form in which torch-pruning groups its channels right, with the same outputs, in place or new; the way back.
    split: Callable[[nn.Module], nn.Module] = lambda layer: layer
    merge: Callable[[nn.Module], nn.Module] = lambda layer: layer
    # Path and offset of a convolution's outputs in the stock form, from path and number of outputs in the split one.
    stock_output: Callable[[str, int], tuple[str, int]] = lambda path, half: (path, 0)
    stride: Callable[[Any, int], int] = lambda layer, stride: stride  # of the output, from that of the first input
    branches: Mapping[str, str] = field(default_factory=dict)  # of a head: its children's names in a table of costs
    integer: str = ""  # of a head: a pattern of the convolutions that a file may hold in int8 (see `evaluation.onnx`)
    # The pass through no more than a convolution, by its path in the layer, depends on; it takes what the layer takes.
    part: Callable[[Any, str], Callable[[Any], object]] = lambda layer, path: layer

    @property
    def in_backbone(self) -> bool:
        """Whether a backbone may be made of it: it reads one layer and makes channels of its own."""
        return self.widths is not _no_widths and not self.is_head

    @property
    def is_head(self) -> bool:
        """Whether it predicts: the last layer of a network, and no other, is such a block."""
        return bool(self.branches)


def sources(layer: Any, index: int) -> tuple[int, ...]:
    """Indices of the layers that a layer reads; -1 for the image."""
    read = layer.f if isinstance(layer.f, list) else [layer.f]
    return tuple(index + j if j < 0 else j for j in read)


def _no_widths(layer: Any, index: int) -> tuple[Width, ...]:
    return ()


def _output(index: int, block: Any, path: str) -> Width:
    return Width(f"w{index}", block.conv.out_channels, OUTPUT_MULTIPLE, (path,))


def _c2f_widths(layer: Any, index: int) -> tuple[Width, ...]:
    inside = [f"m.{k}.{conv}.conv" for k in range(len(layer.m)) for conv in ("cv1", "cv2")]
    hidden = Width(f"h{index}", layer.c, HIDDEN_MULTIPLE, ("first.conv", "second.conv", *inside))
    return hidden, _output(index, layer.cv2, "cv2.conv")


def _c2f_row(layer: Any, args: list[Any]) -> list[Any]:
    c2 = layer.cv2.conv.out_channels
    shortcut, groups = (args[1:3] + [False, 1][len(args[1:3]) :])[:2]
    return [c2, shortcut, groups, (layer.c + 0.5) / c2]  # C2f takes int(c2 * e): half a channel beats the rounding


def _sppf_widths(layer: Any, index: int) -> tuple[Width, ...]:
    to = f"w{sources(layer, index)[0]}"
    tie = Tie(to, lambda width: width // 2, f"half of {to}")
    hidden = Width(f"h{index}", layer.cv1.conv.out_channels, HIDDEN_MULTIPLE, ("cv1.conv",), tie)
    return hidden, _output(index, layer.cv2, "cv2.conv")


def _branch(head: Any, name: str, child: str, tie: Tie) -> Width:
    """The hidden width of a head's branch: the first two convolutions at each scale have it."""
    scales = getattr(head, child)
    paths = tuple(f"{child}.{k}.{conv}.conv" for k in range(len(scales)) for conv in (0, 1))
    return Width(name, scales[0][0].conv.out_channels, HIDDEN_MULTIPLE, paths, tie)


def _detect_widths(head: Any, index: int) -> tuple[Width, ...]:
    to, boxes, classes = f"w{sources(head, index)[0]}", max(16, 4 * head.reg_max), min(head.nc, 100)
    return (
        _branch(head, "box", "cv2", Tie(to, lambda w: max(w // 4, boxes), f"max({to} / 4, {boxes})")),
        _branch(head, "class", "cv3", Tie(to, lambda w: max(w, classes), f"max({to}, {classes})")),
    )


def _extra_widths(head: Any, index: int, name: str, channels: int) -> tuple[Width, ...]:
    """Widths of a head with a third branch, of so many channels at its end."""
    to = f"w{sources(head, index)[0]}"
    tie = Tie(to, lambda w: max(w // 4, channels), f"max({to} / 4, {channels})")
    return *_detect_widths(head, index), _branch(head, name, "cv4", tie)


def _segment_widths(head: Any, index: int) -> tuple[Width, ...]:
    made = ("proto.cv1.conv", "proto.upsample", "proto.cv2.conv")
    prototypes = Width("npr", head.proto.cv1.conv.out_channels, OUTPUT_MULTIPLE, made)
    return *_extra_widths(head, index, "mask", head.nm), prototypes


def _merge_segment(head: nn.Module) -> nn.Module:
    cast(Any, head).npr = cast(Any, head).proto.cv1.conv.out_channels
    return head


def _head_part(head: Any, path: str) -> Callable[[Any], object]:
    """Of a head one branch at one scale, or the prototypes, which read the first scale."""
    branch, scale = path.split(".")[:2]
    part, k = (head.proto, 0) if branch == "proto" else (head.get_submodule(f"{branch}.{scale}"), int(scale))
    return lambda x: part(x[k])


_DETECT = {"cv2": "boxes", "cv3": "classes"}
_INTEGER = r"cv\d\.\d/cv\d\.\d\.[01]"  # all but the last convolution of each branch

BLOCKS: dict[type[nn.Module], Block] = {
    block.type: block
    for block in (
        Block(
            Conv,
            lambda layer, index: (_output(index, layer, "conv"),),
            lambda layer, args: [layer.conv.out_channels, *args[1:]],
            stride=lambda layer, stride: stride * int(layer.conv.stride[0]),
        ),
        Block(C2f, _c2f_widths, _c2f_row, lambda layer: len(layer.m), split_c2f, merge_c2f, stock_output),
        Block(SPPF, _sppf_widths, lambda layer, args: [layer.cv2.conv.out_channels, *args[1:]]),
        Block(Concat, _no_widths),
        Block(nn.Upsample, _no_widths, stride=lambda up, stride: int(stride / up.scale_factor)),
        Block(
            Segment,
            _segment_widths,
            lambda head, args: [args[0], head.nm, head.proto.cv1.conv.out_channels],
            merge=_merge_segment,
            branches={**_DETECT, "cv4": "masks", "proto": "prototypes"},
            integer=f"{_INTEGER}|proto",
            part=_head_part,
        ),
        Block(Detect, _detect_widths, branches=_DETECT, integer=_INTEGER, part=_head_part),
        Block(
            Pose,
            lambda head, index: _extra_widths(head, index, "keypoint", head.nk),
            branches={**_DETECT, "cv4": "keypoints"},
            integer=_INTEGER,
            part=_head_part,
        ),
        Block(
            OBB,
            lambda head, index: _extra_widths(head, index, "angle", head.ne),
            branches={**_DETECT, "cv4": "angles"},
            integer=_INTEGER,
            part=_head_part,
        ),
    )
}


def block_of(layer: nn.Module) -> Block:
    """The entry of a layer of a network that was checked (see `architecture.check_architecture`)."""
    return BLOCKS[type(layer)]


def widths_of(network: Network) -> list[tuple[int, Width]]:
    """All widths of a network in its order, each with the index of its layer."""
    return [(i, width) for i, layer in enumerate(network.model) for width in block_of(layer).widths(layer, i)]


def output_convolution(network: Network, index: int) -> str:
    """Path of the convolution that makes what a layer puts out, in the stock network."""
    layer = network.model[index]
    width = next(width for width in block_of(layer).widths(layer, index) if width.name == f"w{index}")
    return f"model.{index}.{width.convolutions[0]}"


def stock_paths(network: Network, convolutions: Sequence[str]) -> list[str]:
    """Paths in the stock network of convolutions of its split form, each once."""
    return list(dict.fromkeys(block_at(network, path).stock_output(path, 0)[0] for path in convolutions))


def split_of(network: Any, path: str) -> str:
    """Path in the stock network of a convolution of a network in split form."""
    return stock_output(path, 0)[0]


def block_at(network: Network, path: str) -> Block:
    """The entry of the layer that a module belongs to, from its path, such as "model.2.cv1.conv"."""
    return block_of(network.model[int(path.split(".")[1])])
