"""Blocks of samples: an average over small blocks stands for the n×n problem.

Block HSIC-Lasso (Climente-González et al. 2019) permutes the samples M times, cuts every permutation into ⌊n/B⌋ blocks
of B samples and averages over all of them. Rules as in pyHSICLasso 1.4.2: the permutations are cumulative (each
permutes the order the one before left), the m-th is drawn from NumPy's legacy generator seeded with ``seed + m``, the
last n mod B samples of a permutation are left out of it, and where there is only one block there is only one
permutation.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def samples_per_block(n: int, block_size: int) -> int:
    """B: ``block_size``, or n where that is 0 or more than n."""
    return min(block_size, n) if block_size else n


def sample_blocks(n: int, block_size: int, permutations: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The indices (B,) of every block of every permutation of n samples."""
    B = samples_per_block(n, block_size)
    blocks = n // B
    order = np.arange(n)
    for m in range(permutations if blocks > 1 else 1):
        order = np.random.RandomState(seed + m).permutation(order)
        yield from order[: blocks * B].reshape(blocks, B)
