"""Entries of the table for what backbones and necks are made of."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from ultralytics.nn.modules import C2, C2PSA, SPPF, A2C2f, Bottleneck, C2f, C3k2, Concat, Conv
from ultralytics.nn.modules.block import C3k, PSABlock

from depgraph_hsic_only.yolo.blocks.block import HIDDEN_MULTIPLE, OUTPUT_MULTIPLE, Block, Depth, Tie, Width

_AREA_MULTIPLE = 32  # of A2C2f's hidden width: Ultralytics builds it with heads of 32 channels
_C3K2 = (False, 0.5, False, 1, True)  # arguments of a C3k2 behind its output, where the row doesn't say


def _output(index: int, convolution: Any, path: str, tie: Tie | None = None) -> Width:
    return Width(f"w{index}", convolution.out_channels, OUTPUT_MULTIPLE, (path,), tie, OUTPUT_MULTIPLE)


def _share(hidden: int, whole: int) -> float:
    """`e`, of which Ultralytics takes int(whole * e): half a channel beats the rounding."""
    return (hidden + 0.5) / whole


def _made(block: Any, path: str) -> Iterator[tuple[str, str]]:
    """Which kind of width each convolution, or attention, within a block of equal input and output makes.

    "h" is the width of the input and output, "b" that within a bottleneck, "f" that of a feed-forward part, and "a" are
    the heads of an attention.
    """
    kind = type(block)
    if kind is nn.Sequential:
        for name, child in block.named_children():
            yield from _made(child, f"{path}.{name}")
    elif kind is Bottleneck:
        yield "b" if block.cv1.conv.out_channels < block.cv2.conv.out_channels else "h", f"{path}.cv1.conv"
        yield "h", f"{path}.cv2.conv"
    elif kind is C3k:
        yield from (("b", f"{path}.{conv}.conv") for conv in ("cv1", "cv2"))
        yield from (("b", f"{path}.m.{k}.{conv}.conv") for k in range(len(block.m)) for conv in ("cv1", "cv2"))
        yield "h", f"{path}.cv3.conv"
    else:
        feed = "ffn" if kind is PSABlock else "mlp"
        yield from (("a", f"{path}.attn"), ("h", f"{path}.attn.proj.conv"))
        yield from (("f", f"{path}.{feed}.0.conv"), ("h", f"{path}.{feed}.1.conv"))


def _inner(layer: Any, index: int, hidden: int, own: Sequence[str], multiple: int, needs: int = 1) -> list[Width]:
    """The hidden width of a layer, made by its `own` convolutions too, and those that follow from it within.

    Where there is an attention, it goes in whole heads.
    """
    makers: dict[str, list[str]] = {"h": [*own]}
    for kind, path in (made for k, block in enumerate(layer.m) for made in _made(block, f"m.{k}")):
        makers.setdefault(kind, []).append(path)
    to, tied = f"h{index}", dict[str, tuple[int, Tie]]()
    if "b" in makers:
        inside = layer.get_submodule(makers["b"][0]).out_channels
        tied["b"] = inside, Tie((to,), lambda w: w // 2, f"half of {to}")
    if "a" in makers:
        attention = layer.get_submodule(makers["a"][0])
        each = multiple = needs = attention.head_dim
        tied["a"] = attention.num_heads, Tie((to,), lambda w: w // each, f"{to} / {each}")
        inside = layer.get_submodule(makers["f"][0]).out_channels
        ratio = _share(inside, hidden)
        tied["f"] = inside, Tie((to,), lambda w: int(w * ratio), f"{inside / hidden:.3g} {to}")
    widths = [Width(to, hidden, multiple, tuple(makers["h"]), None, needs)]
    return widths + [Width(f"{k}{index}", channels, 1, tuple(makers[k]), tie) for k, (channels, tie) in tied.items()]


def _halved(multiple: int) -> Any:
    """Widths of a block whose first convolution makes two halves (see `split.SplitHalves`)."""

    def widths(layer: Any, index: int, read: Sequence[str]) -> list[Width]:
        hidden = _inner(layer, index, layer.c, ("first.conv", "second.conv"), multiple)
        return [*hidden, _output(index, layer.cv2.conv, "cv2.conv")]

    return widths


def _c2psa_widths(layer: Any, index: int, read: Sequence[str]) -> list[Width]:
    tie = Tie((read[0],), lambda w: w, f"equal to {read[0]}")
    hidden = _inner(layer, index, layer.c, ("first.conv", "second.conv"), HIDDEN_MULTIPLE)
    return [*hidden, _output(index, layer.cv2.conv, "cv2.conv", tie)]


def _a2c2f_widths(layer: Any, index: int, read: Sequence[str]) -> list[Width]:
    hidden = _inner(layer, index, layer.cv1.conv.out_channels, ("cv1.conv",), _AREA_MULTIPLE, _AREA_MULTIPLE)
    return hidden if layer.gamma is not None else [*hidden, _output(index, layer.cv2.conv, "cv2.conv")]


def _sppf_widths(layer: Any, index: int, read: Sequence[str]) -> list[Width]:
    tie = Tie((read[0],), lambda width: width // 2, f"half of {read[0]}")
    hidden = Width(f"h{index}", layer.cv1.conv.out_channels, HIDDEN_MULTIPLE, ("cv1.conv",), tie)
    return [hidden] if _adds(layer) else [hidden, _output(index, layer.cv2.conv, "cv2.conv")]


def _adds(layer: Any) -> bool:
    return bool(getattr(layer, "add", False))  # checkpoints of older versions know of no shortcut


def _sppf_row(layer: Any, args: list[Any]) -> list[Any]:
    # A cut may make input and output equal in number; a row that asks for a shortcut would then have one.
    return [layer.cv2.conv.out_channels, *args[1:3], *(_adds(layer) for _ in args[3:4]), *args[4:]]


def _halved_row(shortcut: bool) -> Any:
    """Arguments of a C2 or C2f, by whether it has a shortcut where the row doesn't say."""

    def row(layer: Any, args: list[Any]) -> list[Any]:
        c2, told = layer.cv2.conv.out_channels, [*args[1:3]]
        return [c2, *told, *[shortcut, 1][len(told) :], _share(layer.c, c2)]

    return row


def _c3k2_row(layer: Any, args: list[Any]) -> list[Any]:
    told: list[Any] = [*args[1:6], *_C3K2[len(args) - 1 :]]
    c3k, _, attends, groups, shortcut = told
    if len(layer.m):  # of a scale, Ultralytics may have built another form than the row says
        c3k, attends = type(layer.m[0]) is C3k, type(layer.m[0]) is nn.Sequential
    c2 = layer.cv2.conv.out_channels
    return [c2, c3k, _share(layer.c, c2), attends, groups, shortcut]


def _a2c2f_row(layer: Any, args: list[Any]) -> list[Any]:
    c2, hidden, inner = layer.cv2.conv.out_channels, layer.cv1.conv.out_channels, layer.m[0]
    attends = type(inner) is nn.Sequential
    area = inner[0].attn.area if attends else [*args[2:3], 1][0]
    ratio = _share(inner[0].mlp[0].conv.out_channels, hidden) if attends else 2.0
    return [c2, attends, area, layer.gamma is not None, ratio, _share(hidden, c2), *args[6:]]


def _inner_repeats(layer: Any) -> int:
    return len(layer.m)


LAYERS = (
    Block(
        Conv,
        lambda layer, index, read: (_output(index, layer.conv, "conv"),),
        lambda layer, args: [layer.conv.out_channels, *args[1:]],
        output="conv",
        stride=lambda layer, stride: stride * int(layer.conv.stride[0]),
    ),
    Block(C2f, _halved(HIDDEN_MULTIPLE), _halved_row(False), 3, _inner_repeats, Depth(2, 0), output="cv2.conv"),
    Block(C2, _halved(HIDDEN_MULTIPLE), _halved_row(True), 3, _inner_repeats, output="cv2.conv"),
    Block(C3k2, _halved(2 * HIDDEN_MULTIPLE), _c3k2_row, 2, _inner_repeats, Depth(2, 0), output="cv2.conv"),
    Block(
        C2PSA,
        _c2psa_widths,
        lambda layer, args: [layer.cv2.conv.out_channels, _share(layer.c, layer.cv2.conv.out_channels)],
        1,
        _inner_repeats,
        output="cv2.conv",
    ),
    Block(
        A2C2f,
        _a2c2f_widths,
        _a2c2f_row,
        5,
        _inner_repeats,
        Depth(1, 1),  # its first inner block says of which kind they are
        output="cv2.conv",
        residual=lambda layer: layer.gamma is not None,
    ),
    Block(SPPF, _sppf_widths, _sppf_row, output="cv2.conv", residual=_adds),
    Block(Concat, lambda layer, index, read: ()),
    Block(
        nn.Upsample,
        lambda layer, index, read: (),
        passes=True,
        stride=lambda up, stride: int(stride / up.scale_factor),
    ),
)
