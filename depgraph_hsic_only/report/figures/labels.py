"""Words beside points, where they hide neither each other nor the points."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

_SIDES = ((1, -1), (-1, 1), (1, 1), (-1, -1), (0, -1), (0, 1))  # of the point, the best one first
_DISTANCES = (5, 12, 22, 34, 48)  # from it, points of type
_RADIUS = 5  # of what is kept free around a point, points of type
_DASHES = 40  # squares that a line between two points is covered by
_LINE = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
_TEXT: dict[str, Any] = {"color": "#333333", "in_layout": False}

Boxes = NDArray[np.float64]
"""Left, bottom, right and top, pixels: (4,) of one, (n, 4) of several."""


def label_points(
    axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[tuple[float, float, str]], *, size: int = 7
) -> None:
    """Write texts beside some points of a figure that is laid out, each where it hides the least.

    Args:
        axes: With limits that are final.
        points: All (x, y) that are to be seen, in the units of the axes.
        texts: (x, y, text) of those that have one; a line goes through these.
        size: Of the type, points.
    """
    unit = axes.get_figure().dpi / 72  # type: ignore[union-attr]
    inside, at = np.array(axes.get_window_extent().extents), axes.transData.transform
    taken = [_squares(at(np.array(points)), _RADIUS * unit)]
    taken += [_squares(np.linspace(at(a[:2]), at(b[:2]), _DASHES), unit) for a, b in pairwise(texts)]
    for x, y, text in texts:
        measured = axes.text(x, y, text, fontsize=size, **_TEXT)
        extent = np.array(measured.get_window_extent().size)
        measured.remove()
        spot, hindrances, found = at((x, y)), np.concatenate(taken), []
        for distance, side in product(_DISTANCES, _SIDES):
            offset = distance * unit * np.array(side) + extent * (np.array(side) - 1) / 2
            box = np.concatenate([spot + offset, spot + offset + extent])
            outside = float(extent.prod()) - _shared(box, inside.reshape(1, 4))
            found.append((_shared(box, hindrances) + 4 * outside + distance, tuple(offset / unit), box))
        _, beside, box = min(found, key=lambda place: place[0])
        axes.annotate(text, (x, y), beside, textcoords="offset points", fontsize=size, arrowprops=_LINE, **_TEXT)
        taken.append(box[None])


def _squares(middles: Boxes, radius: float) -> Boxes:
    """Around points (n, 2)."""
    return np.concatenate([middles - radius, middles + radius], axis=1)


def _shared(box: Boxes, others: Boxes) -> float:
    """Area that a box has in common with others, in sum."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(sides.clip(0).prod(axis=1).sum())
