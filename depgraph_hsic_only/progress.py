"""What a run says on its way: plain lines where there is no terminal."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track as bar
from rich.text import Text

_TABLE_WIDTH = 120  # columns: no figure is cut off, however narrow the terminal
_SILENCE = 10.0  # seconds between plain lines

T = TypeVar("T")


def say(line: str) -> None:
    """Print one line about the stage at hand."""
    Console().print(Text("pruning » ", "bold cyan") + Text(line), highlight=False, soft_wrap=True)


def show(result: Any) -> None:
    """Print a table or a report, whole."""
    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(result, soft_wrap=False)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The items, with a bar and the time left in a terminal or notebook, and now and then a plain line elsewhere.

    Args:
        items: What is worked through; the work is done between one item and the next.
        label: What is being done.
        total: Number of items.
    """
    console = Console()
    if console.is_terminal or console.is_jupyter:
        yield from bar(items, label, total, console=console, transient=True)
        return
    start = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= _SILENCE and done < total:
            say(f"{label}: {done} of {total}, about {(now - start) / done * (total - done):.0f} s left")
            said = now
