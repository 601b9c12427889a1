"""How all figures look: colours that everybody can tell apart, and plain axes."""

from typing import Final

from matplotlib.axes import Axes

# Okabe & Ito (2008): told apart by everybody.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
GREY: Final = "#999999"


def open_axes(axes: Axes) -> None:
    """Axes without the two lines that say nothing."""
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(axes: Axes) -> None:
    """A legend in which every label stands once."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    axes.legend(named.values(), named.keys(), fontsize=8)
