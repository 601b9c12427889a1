"""A picture of the network: backbone, neck and head, with what is left of every width."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from depgraph_hsic_only.report.figures.style import BLUE, GREY, ORANGE
from depgraph_hsic_only.yolo.architecture import Layer

Place = tuple[int, float]  # column, and row from the top

_COLUMNS: Final = ("backbone", "neck, upwards", "neck, downwards", "head")
# What a layer's widths count, by the letter before its index, and the boxes of a head's, from top to bottom.
_WIDTHS: Final = {"w": "out", "h": "hidden", "b": "inner", "a": "heads", "f": "ffn", "d": "repeats"}
_BRANCHES: Final = {"mask": "masks", "keypoint": "keypoints", "angle": "angles", "class": "classes", "box": "boxes"}
_HEAD: Final = {"npr": "prototypes", **_BRANCHES}
_WIDTH, _HEIGHT, _STEP = 2.7, 0.76, 3.4  # of a box, and from column to column; rows are 1 apart
_ABOVE, _BELOW = 1.05, 0.75  # rows above the first layer and below the last one


def plot_network(before: Mapping[str, int], after: Mapping[str, int], layers: Sequence[Layer]) -> Figure:
    """The layers with their widths: the share that is left is filled, the share that was cut is hatched.

    Args:
        before: Channels by width group (see `channels.groups.WidthGroup`), all of the network, and changed repeats.
        after: The same after the cut.
        layers: The network's layers, of `yolo.architecture.list_layers`.
    """
    named = {layer.index: {f"{letter}{layer.index}": label for letter, label in _WIDTHS.items()} for layer in layers}
    bars = {index: {n: label for n, label in names.items() if n in before} for index, names in named.items()}
    shown = [layer for layer in layers if bars[layer.index]]  # Concat and Upsample have no width
    places, head = _places(shown), layers[-1]
    scales = [places[source] for source in _sources(head, layers, places)]
    first, last, bottom = scales[0][1], scales[-1][1], max(row for _, row in places.values())
    figure = Figure(figsize=(11, 0.8 * (bottom + _ABOVE + _BELOW)), layout="constrained")
    axes = figure.subplots()
    for layer in shown:
        for source in _sources(layer, layers, places):
            _arrow(axes, places[source], places[layer.index])
        _box(axes, places[layer.index], f"{layer.index}  {layer.kind}", bars[layer.index], before, after)
    parts = [name for name in _HEAD if name in before]
    for k, name in enumerate(parts):
        place, label = (3, first + (last - first) * k / (len(parts) - 1)), "channels" if name == "npr" else "hidden"
        bins = {"reg_max": "bins"} if name == "box" and "reg_max" in before else {}
        _box(axes, place, _HEAD[name], {name: label} | bins, before, after)
    left = 3 * _STEP - _WIDTH / 2 - 0.2
    axes.add_patch(Rectangle((left, first - 0.6), _WIDTH + 0.4, last - first + 1.2, fc="none", ec=GREY, ls=":"))
    for column, row in scales:
        _connect(axes, (column * _STEP + _WIDTH / 2, row), (left, row))
    for column, title in enumerate(_COLUMNS):
        axes.text(column * _STEP, -0.75, title, ha="center", va="center", fontsize=11, weight="bold")
    handles = [Patch(color=BLUE, label="stays"), Patch(facecolor="white", edgecolor=ORANGE, hatch="////", label="cut")]
    axes.legend(handles=handles, loc="upper right", fontsize=10, bbox_to_anchor=(1, 0.9))
    axes.set(xlim=(-_WIDTH / 2 - 0.1, 3 * _STEP + _WIDTH / 2 + 0.3), ylim=(bottom + _BELOW, -_ABOVE))
    axes.set_axis_off()
    return figure


def _places(layers: Sequence[Layer]) -> dict[int, Place]:
    """Where the layers of backbone and neck stand, by index.

    The backbone goes down, a layer a row. The neck goes up until its first layer of a larger stride, and from there on
    down; of its layers of one stride the last stands in the row in which the backbone leaves that stride, and those
    before it above, so that a layer reads from its own stride.
    """
    places: dict[int, Place] = {}
    ends: dict[int, int] = {}  # row in which the backbone leaves a stride
    neck: dict[tuple[int, int], list[int]] = defaultdict(list)  # by column and stride
    column, stride = 1, 0
    for layer in layers:
        if layer.part == "backbone":
            places[layer.index] = (0, layer.index)
            ends[layer.stride] = layer.index
        else:
            column = 2 if layer.stride > stride else column
            neck[column, layer.stride].append(layer.index)
        stride = layer.stride
    for (column, stride), indices in neck.items():
        for above, index in enumerate(reversed(indices)):
            places[index] = (column, ends[stride] - above)
    return places


def _sources(layer: Layer, layers: Sequence[Layer], shown: Collection[int]) -> Iterator[int]:
    """What a layer reads, followed through layers that are not shown, such as Concat."""
    for source in layer.sources:
        if source in shown:
            yield source
        elif source >= 0:  # not the image
            yield from _sources(layers[source], layers, shown)


def _box(
    axes: Axes, place: Place, title: str, bars: Mapping[str, str], before: Mapping[str, int], after: Mapping[str, int]
) -> None:
    """A layer: its title, and for each width a bar of the share that is left, with the numbers."""
    left, top = place[0] * _STEP - _WIDTH / 2, place[1] - _HEIGHT / 2
    axes.add_patch(FancyBboxPatch((left, top), _WIDTH, _HEIGHT, "round,pad=0.02", fc="white", ec="black", lw=0.8))
    axes.text(left + 0.06, top + 0.13, title, va="center", fontsize=10, weight="bold")
    # Two bars stand below each other; of more, two stand side by side, in small.
    columns, length, height, step, size = (1, 1.0, 0.17, 0.25, 9) if len(bars) <= 2 else (2, 0.25, 0.11, 0.17, 6.5)
    for k, (name, label) in enumerate(bars.items()):
        start, y = left + 0.08 + k % columns * (_WIDTH / columns - 0.05), top + 0.28 + step * (k // columns)
        share, cut = length * after[name] / before[name], after[name] < before[name]
        axes.add_patch(Rectangle((start, y), share, height, fc=BLUE))
        if cut:
            left_out = Rectangle((start + share, y), length - share, height)
            left_out.set(hatch="//////", linewidth=0.6, facecolor="white", edgecolor=ORANGE)
            axes.add_patch(left_out)
        numbers = f"{before[name]}{'→' if columns > 1 else ' → '}{after[name]}" if cut else f"{before[name]}"
        axes.text(start + length + 0.05, y + height / 2, f"{label} {numbers}", va="center", fontsize=size)


def _arrow(axes: Axes, start: Place, end: Place) -> None:
    """An arrow from one layer's box to another's: down or up within a column, else from side to side."""
    if start[0] == end[0]:
        down = 1 if end[1] > start[1] else -1
        x = start[0] * _STEP
        _connect(axes, (x, start[1] + down * _HEIGHT / 2), (x, end[1] - down * _HEIGHT / 2))
    else:
        _connect(axes, (start[0] * _STEP + _WIDTH / 2, start[1]), (end[0] * _STEP - _WIDTH / 2, end[1]))


def _connect(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=GREY, shrinkA=1, shrinkB=1))
