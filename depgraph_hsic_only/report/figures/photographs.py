"""Photographs in figures: side by side, and written small enough to be sent around."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

_DPI = 120
_SIDE = 4.0  # inches of a picture's longer side
_LONG = 2.0 * _SIDE  # the same of a panorama
_SLIM = 2.5  # longer side to the shorter one, above which a picture is a panorama
_TITLE = 1.7  # inches that a title needs


def plot_pair(before: NDArray[np.uint8], after: NDArray[np.uint8], titles: tuple[str, str]) -> Figure:
    """Two pictures (h, w, 3), RGB, of the same size, under their titles: side by side, or wide ones as rows."""
    height, width = before.shape[:2]
    wide, slim = width > _SLIM * height, max(height, width) > _SLIM * min(height, width)
    scale = (_LONG if slim else _SIDE) / max(height, width)
    rows, columns = (2, 1) if wide else (1, 2)
    size = columns * max(width * scale, _TITLE) + 0.1, rows * (height * scale + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    for axes, picture, title in zip(figure.subplots(rows, columns), (before, after), titles, strict=True):
        axes.imshow(picture, interpolation="antialiased")
        axes.set_title(title, fontsize=12)
        axes.set_axis_off()
    return figure


def save_photograph(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG of 256 colours of its own: a byte a pixel at most, whatever is in the picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(256).save(path, format="PNG", optimize=True)
