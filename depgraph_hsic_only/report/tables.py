"""Values that show themselves: a line, a table in a terminal, HTML in a notebook, JSON, a figure."""

import abc
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from depgraph_hsic_only.support.visible import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In a notebook rich's own console shows on the page what it is to write to a file.
_Console = partial(Console, legacy_windows=False, force_jupyter=False)


class Shown(abc.ABC):
    """A report: what it measured is its own, how it is shown is here."""

    columns: ClassVar[int] = 100  # of its text: figures are never cut off by a narrow terminal

    @abc.abstractmethod
    def summary(self) -> str:
        """The report in one line."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""

    @abc.abstractmethod
    def __rich__(self) -> Any:
        """The tables that rich prints."""

    @abc.abstractmethod
    def plot(self) -> "Figure":
        """The figure that says most; it draws itself in a notebook, and `savefig` writes it."""

    def to_json(self) -> str:
        """The figures as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def __str__(self) -> str:
        return to_text(self, self.columns)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The tables in a notebook; rich escapes what is in them."""
        console = _Console(file=io.StringIO(), width=self.columns, record=True)
        console.print(self)
        page = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'
        return console.export_html(inline_styles=True, code_format=page)


@dataclass(frozen=True)
class Sheet:
    """A table of texts, for a terminal and for a page."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str  # a letter for each column: "l" of names, "r" of figures, "t" of text, which alone may be wrapped

    def __rich__(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for heading, side in zip(self.headings, self.align, strict=True):
            table.add_column(heading, justify="right" if side == "r" else "left", no_wrap=side != "t")
        for row in self.rows:
            table.add_row(*map(Text, map(visible, row)))  # a name is no markup
        return table


def kinds_in(row: Mapping[str, Any], key: str = "map50_95_") -> tuple[str, ...]:
    """The kinds of predictions of which a row of a JSON file holds such a figure, the kind that counts most last."""
    return tuple(name.removeprefix(key) for name in row if name.startswith(key))


def figure_text(figure: float | None, form: str) -> str:
    """A figure as it is shown, by a format such as ".3f"; "-" where it was not measured."""
    return "-" if figure is None else format(figure, form)


def to_text(renderable: Any, width: int = 100) -> str:
    """Anything rich can draw as plain text, at a fixed width."""
    buffer = io.StringIO()
    _Console(file=buffer, width=width, color_system=None).print(renderable)
    return buffer.getvalue().rstrip()
