"""What Ultralytics says goes into the log of a run instead of over its display, and beside the answer of a command."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from ultralytics.utils import LOGGER, remove_colorstr

from depgraph_hsic_only.support.progress import Display
from depgraph_hsic_only.yolo.patches import bars_in_file


@contextmanager
def run_display(stages: int, log: Path, *, verbose: bool) -> Iterator[Display]:
    """The display of a run of so many stages, and its log, which is added to.

    With `verbose` Ultralytics writes to the terminal as it does by itself, and no live line is drawn. An error that
    ends the run leaves its traceback in the log.
    """
    with ExitStack() as stack:
        file = stack.enter_context(log.open("a", encoding="utf-8"))
        display = stack.enter_context(Display(stages, bars=not verbose))
        display.log = file
        stack.enter_context(heard(lambda line: print(line.rstrip(), file=file, flush=True), logging.INFO))
        if not verbose:
            stack.enter_context(silenced())
            stack.enter_context(bars_in_file(file))
            stack.enter_context(heard(display.warn, logging.WARNING))  # the log has them already
        try:
            yield display
        except Exception:
            traceback.print_exc(file=file)
            raise


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


class _Listener(logging.Handler):
    tell: Callable[[str], object]

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(remove_colorstr(record.getMessage()))


@contextmanager
def heard(tell: Callable[[str], object], level: int) -> Iterator[None]:
    """`tell` is called with every line that Ultralytics logs at least at a level, without its colours."""
    handler = _Listener(level)
    handler.tell = tell
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


@contextmanager
def silenced() -> Iterator[None]:
    """Ultralytics' logger writes nothing to the terminal."""
    streams = [h for h in LOGGER.handlers if type(h) is logging.StreamHandler]

    def nothing(_: logging.LogRecord) -> bool:  # one of its own for each run: another's end takes away another's
        return False

    with ExitStack() as stack:
        for handler in streams:
            handler.addFilter(nothing)
            stack.callback(handler.removeFilter, nothing)
        yield
