"""Blocks in split form: a convolution whose outputs go separate ways as several, each a channel group of its own.

Ultralytics computes both halves of a C2f with one convolution and `chunk`s the result, and queries, keys and values of
all attention heads with another. torch-pruning 1.6.1 infers wrong split sizes where such a part has several consumers,
so channels are grouped and cut in this form, and the parts are joined again afterwards. The two forms have the same
parameters and give the same outputs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import nn
from ultralytics.nn.modules import C2, C2PSA, A2C2f, C2f, C3k2, Conv
from ultralytics.nn.modules.block import AAttn, Attention

Rows = Mapping[str, torch.Tensor]
"""By part, (c,) rows of the joint convolution that it computes, in the order of its own outputs."""


class Split(nn.Module):
    """A block with its convolution `joint` as several; all else as in the stock block, under the same names."""

    joint: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    kind: type[nn.Module]  # of the stock block

    def rows(self) -> Rows:
        """Which rows of the joint convolution the parts compute, at the widths that they have."""
        raise NotImplementedError

    def measure(self) -> None:
        """Set what the stock block keeps of its widths, from those that its convolutions have."""
        raise NotImplementedError

    @classmethod
    def of(cls, block: Any, rows: Rows) -> nn.Module:
        """The split form of a stock block."""
        split: Any = cls.__new__(cls)
        nn.Module.__init__(split)
        split.__dict__ |= {name: value for name, value in block.__dict__.items() if name not in split.__dict__}
        split.kind, split.training = type(block), block.training
        joint = getattr(block, cls.joint)
        for name, child in block.named_children():
            if name != cls.joint:
                setattr(split, name, child)
                continue
            weights = joint.state_dict()
            for part, taken in rows.items():
                setattr(split, part, _conv(joint, {k: t[taken] if t.ndim else t for k, t in weights.items()}))
        return cast(nn.Module, split)

    def merged(self) -> nn.Module:
        """The stock block; a `ValueError` where the parts have widths that it can't hold."""
        self.measure()
        block: Any = self.kind.__new__(self.kind)  # its __init__ would draw random weights
        nn.Module.__init__(block)
        own = {"kind", *block.__dict__}
        block.__dict__ |= {name: value for name, value in self.__dict__.items() if name not in own}
        block.training = self.training
        rows, convs = self.rows(), [cast(Any, self.get_submodule(part)) for part in self.parts]
        order = torch.cat([rows[part] for part in self.parts]).argsort()
        states = [conv.state_dict() for conv in convs]
        joined = {k: torch.cat([s[k] for s in states])[order] if t.ndim else t for k, t in states[0].items()}
        for name, child in self.named_children():
            if name == self.parts[0]:
                setattr(block, self.joint, _conv(convs[0], joined))
            if name not in self.parts:
                setattr(block, name, child)
        return cast(nn.Module, block)


class SplitHalves(Split):
    """A block whose `cv1` makes two halves, `first` and `second`, each (B, c1, H, W) to (B, c, H, W)."""

    joint = "cv1"
    parts = ("first", "second")
    first: Any
    second: Any
    cv2: Any
    m: Any

    def rows(self) -> Rows:
        """One half after the other."""
        c = self.first.conv.out_channels
        return {"first": torch.arange(c), "second": torch.arange(c, 2 * c)}

    def measure(self) -> None:
        """Its hidden width."""
        widths = {self.first.conv.out_channels, self.second.conv.out_channels}
        if len(widths) > 1:
            raise ValueError(f"expected two halves of one width, got {sorted(widths)}; cut both to the same width")
        self.c = widths.pop()


class SplitC2f(SplitHalves):
    """C2f or C3k2 with `cv1` as two convolutions, `first` and `second` (the half that the inner blocks read).

    Attributes:
        first: Convolution of the half that goes straight to the concatenation, (B, c1, H, W) to (B, c, H, W).
        second: Convolution of the half that goes through the inner blocks, (B, c1, H, W) to (B, c, H, W).
        m: The inner blocks, each (B, c, H, W) to (B, c, H, W).
        cv2: Convolution of the concatenation, (B, (2 + n) c, H, W) to (B, c2, H, W).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the stock block computes: (B, c1, H, W) to (B, c2, H, W)."""
        y = [self.first(x), self.second(x)]
        y.extend(block(y[-1]) for block in self.m)
        return cast(torch.Tensor, self.cv2(torch.cat(y, 1)))


class SplitC2(SplitHalves):
    """C2 in split form: the first half goes through the bottlenecks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the C2 computes: (B, c1, H, W) to (B, c2, H, W)."""
        return cast(torch.Tensor, self.cv2(torch.cat((self.m(self.first(x)), self.second(x)), 1)))


class SplitC2PSA(SplitHalves):
    """C2PSA in split form: the second half goes through the attention blocks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the C2PSA computes: (B, c1, H, W) to (B, c1, H, W)."""
        return cast(torch.Tensor, self.cv2(torch.cat((self.first(x), self.m(self.second(x))), 1)))


class SplitHeads(Split):
    """An attention with queries, keys and values from convolutions of their own; `num_heads` are cut whole.

    Where `traced` is a list, the forward pass computes what has the couplings of the attention in operations that
    torch-pruning follows: queries and keys channel by channel, whose products go into the list, and values passed on.
    """

    joint = "qkv"
    parts = ("q", "k", "v")
    q: Any
    k: Any
    v: Any
    pe: Any
    proj: Any
    num_heads: int
    head_dim: int
    traced: list[torch.Tensor] | None

    @property
    def makers(self) -> tuple[nn.Module, ...]:
        """Convolutions whose channel groups are all that its heads are."""
        return self.q.conv, self.v.conv

    def rows(self) -> Rows:
        """Head by head its queries, keys and values."""
        return _by_head(self.num_heads, self.q.conv.out_channels // self.num_heads, self.head_dim)

    def measure(self) -> None:
        """Its number of heads; their own sizes never change."""
        self.num_heads = self.v.conv.out_channels // self.head_dim

    def attended(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention by head: q, k (B, heads, d, N) and v (B, heads, e, N) to (B, heads, e, N)."""
        weights = ((q * q.shape[2] ** -0.5).transpose(-2, -1) @ k).softmax(-1)
        return cast(torch.Tensor, v @ weights.transpose(-2, -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the attention computes: (B, c, H, W) to (B, c, H, W)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.traced is not None:
            self.traced.append(q * k)
            return cast(torch.Tensor, self.proj(v + self.pe(v)))
        b, _, h, w = v.shape
        areas = getattr(self, "area", 1)  # horizontal strips that attend to themselves alone
        # (B, channels, H, W) to (B · areas, heads, d, H · W / areas)
        parts = (
            t.view(b, self.num_heads, -1, areas, h * w // areas).permute(0, 3, 1, 2, 4).flatten(0, 1) for t in (q, k, v)
        )
        found = self.attended(*parts).view(b, areas, self.num_heads, -1, h * w // areas).permute(0, 2, 3, 1, 4)
        return cast(torch.Tensor, self.proj(found.reshape(v.shape) + self.pe(v)))


class SplitAAttn(SplitHeads):
    """Area attention in split form."""

    def measure(self) -> None:
        """Its number of heads, and their channels in all."""
        super().measure()
        self.all_head_dim = self.v.conv.out_channels


class SplitA2C2f(nn.Module):
    """A2C2f whose scale of the residual branch is a depthwise convolution, which torch-pruning follows."""

    scale: Any
    cv1: Any
    cv2: Any
    m: Any

    @classmethod
    def of(cls, block: Any) -> nn.Module:
        """The split form of a stock A2C2f."""
        split = cls()
        split.__dict__["training"] = block.training
        for name, child in block.named_children():
            setattr(split, name, child)
        if block.gamma is not None:
            c = len(block.gamma)
            split.scale = nn.Conv2d(c, c, 1, groups=c, bias=False, device=torch.device("meta"))
            split.scale.weight = nn.Parameter(block.gamma.detach().clone().view(c, 1, 1, 1))
            split.scale.requires_grad_(block.gamma.requires_grad)
        return split

    def merged(self) -> nn.Module:
        """The stock block."""
        block: Any = A2C2f.__new__(A2C2f)
        nn.Module.__init__(block)
        block.gamma = None
        if hasattr(self, "scale"):
            weight = self.scale.weight
            del block.gamma
            block.gamma = nn.Parameter(weight.detach().flatten().clone(), requires_grad=weight.requires_grad)
        for name in ("cv1", "cv2", "m"):
            setattr(block, name, getattr(self, name))
        block.training = self.training
        return cast(nn.Module, block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the A2C2f computes: (B, c1, H, W) to (B, c2, H, W)."""
        y = [self.cv1(x)]
        y.extend(block(y[-1]) for block in self.m)
        out: torch.Tensor = self.cv2(torch.cat(y, 1))
        return x + self.scale(out) if hasattr(self, "scale") else out


def _halves(block: Any) -> Rows:
    first, second = torch.arange(block.cv1.conv.out_channels).chunk(2)
    return {"first": first, "second": second}


def _heads(attention: Any) -> Rows:
    heads, values = attention.num_heads, attention.head_dim
    return _by_head(heads, (attention.qkv.conv.out_channels // heads - values) // 2, values)


def _by_head(heads: int, keys: int, values: int) -> Rows:
    each = torch.split(torch.arange(heads * (2 * keys + values)).view(heads, -1), [keys, keys, values], 1)
    return {part: rows.flatten() for part, rows in zip(SplitHeads.parts, each, strict=True)}


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
    made: Any = form.of(module, _heads(module) if issubclass(form, SplitHeads) else _halves(module))
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


@contextmanager
def traceable(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The attentions of a network in split form compute what torch-pruning follows; gives outputs beside the head's."""
    traced: list[torch.Tensor] = []
    attentions = [m for m in network.modules() if isinstance(m, SplitHeads)]
    for attention in attentions:
        attention.traced = traced
    try:
        yield traced
    finally:
        for attention in attentions:
            attention.traced = None


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
