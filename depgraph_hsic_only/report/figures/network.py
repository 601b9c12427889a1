"""A picture of the network: backbone, neck and head, with what is left of every width."""

from collections.abc import Mapping
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from depgraph_hsic_only.report.figures.style import BLUE, GREY, ORANGE

# Where the layers stand: column (backbone, neck upwards, neck downwards) and row; a layer reads from its own stride.
_PLACES: Final = {
    **{layer: (0, layer) for layer in range(10)},
    12: (1, 6),
    15: (1, 4),
    16: (2, 5),
    18: (2, 6),
    19: (2, 8),
    21: (2, 9),
}
_HEAD: Final = {"box": "boxes", "class": "classes", "mask": "masks", "npr": "prototypes"}
_HEAD_ROWS: Final = {"npr": 4, "mask": 5.67, "class": 7.33, "box": 9}
_EDGES: Final = (
    *((layer, layer + 1) for layer in range(9)),
    *((4, 15), (6, 12), (9, 12), (9, 21), (12, 15), (12, 18), (15, 16), (16, 18), (18, 19), (19, 21)),
)
_COLUMNS: Final = ("backbone", "neck, upwards", "neck, downwards", "head")
_WIDTH, _HEIGHT, _STEP = 2.7, 0.76, 3.4  # of a box, and from column to column; rows are 1 apart
_STRIDED: Final = (16, 19)  # the neck's plain convolutions


def can_be_drawn(widths: Mapping[str, int]) -> bool:
    """Whether the layers of some widths are those of a plain YOLOv8 network, not of a variant with more scales."""
    return {f"w{layer}" for layer in _PLACES} == {name for name in widths if name.startswith("w")}


def plot_network(before: Mapping[str, int], after: Mapping[str, int]) -> Figure:
    """The layers with their widths: the share that is left is filled, the share that was cut is hatched.

    Args:
        before: Channels by width group (see `graph.WidthGroup`), all of a YOLOv8 network (see `can_be_drawn`).
        after: The same after the cut.
    """
    figure = Figure(figsize=(11, 8.6), layout="constrained")
    axes = figure.subplots()
    for start, end in _EDGES:
        _arrow(axes, _PLACES[start], _PLACES[end])
    for layer, place in _PLACES.items():
        hidden = {f"h{layer}": "hidden"} if f"h{layer}" in before else {}
        _box(axes, place, f"{layer}  {_kind(layer)}", {f"w{layer}": "out", **hidden}, before, after)
    for name, row in _HEAD_ROWS.items():
        if name in before:
            _box(axes, (3, row), _HEAD[name], {name: "channels" if name == "npr" else "hidden"}, before, after)
    x = 3 * _STEP - _WIDTH / 2 - 0.2
    axes.add_patch(Rectangle((x, 3.4), _WIDTH + 0.4, 6.2, facecolor="none", edgecolor=GREY, linestyle=":"))
    for layer in (15, 18, 21):
        column, row = _PLACES[layer]
        _connect(axes, (column * _STEP + _WIDTH / 2, row), (x, row))
    for column, title in enumerate(_COLUMNS):
        axes.text(column * _STEP, -0.75, title, ha="center", va="center", fontsize=11, weight="bold")
    handles = [Patch(color=BLUE, label="stays"), Patch(facecolor="white", edgecolor=ORANGE, hatch="////", label="cut")]
    axes.legend(handles=handles, loc="upper right", fontsize=10, bbox_to_anchor=(1, 0.9))
    axes.set_xlim(-_WIDTH / 2 - 0.1, 3 * _STEP + _WIDTH / 2 + 0.3)
    axes.set_ylim(9.75, -1.05)
    axes.set_axis_off()
    return figure


def _kind(layer: int) -> str:
    if layer == 9:
        return "SPPF"
    return "Conv" if layer in _STRIDED or (layer < 9 and (layer == 0 or layer % 2)) else "C2f"


def _box(
    axes: Axes,
    place: tuple[int, float],
    title: str,
    bars: Mapping[str, str],
    before: Mapping[str, int],
    after: Mapping[str, int],
) -> None:
    """A layer: its title, and for each width a bar of the share that is left, with the numbers."""
    left, top = place[0] * _STEP - _WIDTH / 2, place[1] - _HEIGHT / 2
    frame = FancyBboxPatch(
        (left, top), _WIDTH, _HEIGHT, boxstyle="round,pad=0.02", facecolor="white", edgecolor="black", linewidth=0.8
    )
    axes.add_patch(frame)
    axes.text(left + 0.06, top + 0.13, title, va="center", fontsize=10, weight="bold")
    for k, (name, label) in enumerate(bars.items()):
        y = top + 0.28 + 0.25 * k
        share, full, bar = after[name] / before[name], 1.0, 0.17
        axes.add_patch(Rectangle((left + 0.08, y), full * share, bar, facecolor=BLUE))
        if share < 1:
            cut = Rectangle((left + 0.08 + full * share, y), full * (1 - share), bar, hatch="//////", linewidth=0.6)
            cut.set(facecolor="white", edgecolor=ORANGE)
            axes.add_patch(cut)
        numbers = f"{before[name]} → {after[name]}" if share < 1 else f"{before[name]}"
        axes.text(left + full + 0.16, y + bar / 2, f"{label} {numbers}", va="center", fontsize=9)


def _arrow(axes: Axes, start: tuple[int, float], end: tuple[int, float]) -> None:
    """An arrow from one layer's box to another's: down or up within a column, else from side to side."""
    if start[0] == end[0]:
        down = 1 if end[1] > start[1] else -1
        x = start[0] * _STEP
        _connect(axes, (x, start[1] + down * _HEIGHT / 2), (x, end[1] - down * _HEIGHT / 2))
    else:
        _connect(axes, (start[0] * _STEP + _WIDTH / 2, start[1]), (end[0] * _STEP - _WIDTH / 2, end[1]))


def _connect(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=GREY, shrinkA=1, shrinkB=1))
