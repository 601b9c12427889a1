"""Photographs in figures: side by side, and written small enough to be sent around."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

_DPI = 120
_SIDE = 4.0  # inches of a picture's longer side


def plot_pair(before: NDArray[np.uint8], after: NDArray[np.uint8], titles: tuple[str, str]) -> Figure:
    """Two pictures (h, w, 3), RGB, of the same size, side by side under their titles."""
    height, width = before.shape[:2]
    scale = _SIDE / max(height, width)
    figure = Figure(figsize=(2 * width * scale + 0.1, height * scale + 0.4), layout="constrained")
    for axes, picture, title in zip(figure.subplots(1, 2), (before, after), titles, strict=True):
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
