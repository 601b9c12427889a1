"""What Ultralytics says goes into the log of a run instead of over its display, and beside the answer of a command."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TextIO

from ultralytics.utils import LOGGER, remove_colorstr

from depgraph_hsic_only.support.progress import Display
from depgraph_hsic_only.yolo.patches import bars_in_file


@contextmanager
def run_display(stages: int, log: Path, *, verbose: bool) -> Iterator[Display]:
    """The display of a run, and its log.

    Args:
        stages: How many stages the run has.
        log: The file, which is added to.
        verbose: Whether Ultralytics writes to the terminal as it does by itself; then no live line is drawn.
    """
    with ExitStack() as stack:
        file = stack.enter_context(log.open("a", encoding="utf-8"))
        display = stack.enter_context(Display(stages, bars=not verbose))
        display.log = file
        stack.enter_context(_heard(_Written(file)))
        if not verbose:
            stack.enter_context(_silenced())
            stack.enter_context(bars_in_file(file))
            stack.enter_context(_heard(_Warnings(display)))
        yield display


@contextmanager
def aside() -> Iterator[None]:
    """Everything that is said on the way goes to stderr: stdout is for the answer of a command."""
    streams = [h for h in LOGGER.handlers if type(h) is logging.StreamHandler]
    before = [h.setStream(sys.stderr) for h in streams]
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for handler, stream in zip(streams, before, strict=True):
            handler.setStream(stream or sys.stderr)  # None: it was there before


@contextmanager
def _heard(handler: logging.Handler) -> Iterator[None]:
    """Ultralytics' logger has one more handler."""
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


@contextmanager
def _silenced() -> Iterator[None]:
    """Ultralytics' logger writes nothing to the terminal."""
    streams = [h for h in LOGGER.handlers if type(h) is logging.StreamHandler]

    def nothing(_: logging.LogRecord) -> bool:  # one of its own for each run: another's end takes away another's
        return False

    for handler in streams:
        handler.addFilter(nothing)
    try:
        yield
    finally:
        for handler in streams:
            handler.removeFilter(nothing)


class _Written(logging.Handler):
    """Writes records to a file, without the colours."""

    def __init__(self, file: TextIO) -> None:
        super().__init__(logging.INFO)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        print(remove_colorstr(record.getMessage()).rstrip(), file=self._file, flush=True)


class _Warnings(logging.Handler):
    """Lets warnings and errors through to the display; the log has them already."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.console.print(remove_colorstr(record.getMessage()).strip(), markup=False, highlight=False)
