"""Split forms of blocks: one convolution of the stock block as several (see `split.py`)."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn
from ultralytics.nn.modules import A2C2f, Conv

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
