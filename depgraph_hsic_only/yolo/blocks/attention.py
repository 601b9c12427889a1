"""Split forms of attentions: queries, keys and values by convolutions of their own (see `split.py`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from depgraph_hsic_only.yolo.blocks.forms import Rows, Split


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


def heads_of(attention: Any) -> Rows:
    heads, values = attention.num_heads, attention.head_dim
    return _by_head(heads, (attention.qkv.conv.out_channels // heads - values) // 2, values)


def _by_head(heads: int, keys: int, values: int) -> Rows:
    each = torch.split(torch.arange(heads * (2 * keys + values)).view(heads, -1), [keys, keys, values], 1)
    return {part: rows.flatten() for part, rows in zip(SplitHeads.parts, each, strict=True)}


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
