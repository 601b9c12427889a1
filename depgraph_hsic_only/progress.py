"""What a run says on its way: plain lines where there is no terminal."""

from typing import Any

from rich.console import Console
from rich.text import Text

_TABLE_WIDTH = 120  # columns: no figure is cut off, however narrow the terminal


def say(line: str) -> None:
    """Print one line about the stage at hand."""
    Console().print(Text("pruning » ", "bold cyan") + Text(line), highlight=False, soft_wrap=True)


def show(result: Any) -> None:
    """Print a table or a report, whole."""
    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(result, soft_wrap=False)
