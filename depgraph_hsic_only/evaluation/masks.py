"""Masks of many objects, compared in blocks: memory does not grow with objects times pixels."""

from typing import Final

import torch

_VALUES: Final = 2**24  # float32 values of a block, 64 MB; sums of so many zeros and ones are exact


def in_a_block(size: int) -> int:
    """How many things of so many values each, at least one value, are looked at together; at least one thing."""
    return max(1, _VALUES // size)


def pairwise_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of each mask of one list with each of another, (n, m), float64 in [0, 1]; 0 for two empty masks.

    Args:
        a: Masks (n, h, w) in {0, 1}, of any type; n is at least 1.
        b: The same (m, h, w).
    """
    both = torch.zeros(len(a), len(b), dtype=torch.float64)
    sizes = [torch.zeros(len(masks), dtype=torch.float64) for masks in (a, b)]
    pixels = in_a_block(max(len(a), len(b)))
    parts = (torch.split(masks.flatten(1), pixels, 1) for masks in (a, b))
    for one, other in zip(*parts, strict=True):
        blocks = one.float(), other.float()
        both += blocks[0] @ blocks[1].T
        for size, block in zip(sizes, blocks, strict=True):
            size += block.sum(1)
    return both / (sizes[0][:, None] + sizes[1] - both).clamp_min(1)
