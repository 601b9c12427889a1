"""How all figures look: colours that everybody can tell apart, and plain axes."""

from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

# Okabe & Ito (2008): told apart by everybody.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
GREY: Final = "#999999"


def open_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, *, fitted: bool = True, **subplots: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches and its panels, row by row, without the two lines that say nothing.

    Its margins are `fitted` to what stands in them, or given as `gridspec_kw`.
    """
    figure = Figure(figsize=(width, height), layout="constrained" if fitted else None)
    panels = list(figure.subplots(rows, columns, squeeze=False, **subplots).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def name_powers_plainly(axis: Axis) -> None:
    """Ticks of a logarithmic axis as 0.01, and not as formulas, which runs leave unparsed: class names may look so."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def add_legend(axes: Axes) -> None:
    """A legend in which every label stands once."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    axes.legend(named.values(), named.keys(), fontsize=8)
