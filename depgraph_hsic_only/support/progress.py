"""What a run says on its way: one live line in a terminal, plain lines elsewhere.

`say`, `track` and `step` are called wherever something takes time; a `Display`, while it is open, gathers what they say
into one line for the whole run and into its log. Without one each bar stands for itself.
"""

import importlib.util
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from depgraph_hsic_only.support.visible import visible

_TABLE_WIDTH = 120  # columns: no figure is cut off, however narrow the terminal
_SILENCE = 10.0  # seconds before a plain line; twice as many before each further one of the same work
_LONGEST_SILENCE = 320.0
_ROUNDING = 1e-6  # of amounts that were added up

T = TypeVar("T")


@dataclass
class _Work:
    """Something that is under way."""

    total: float  # in any unit
    start: float  # by the monotonic clock
    said: float  # when a plain line told of it
    done: float = 0.0
    figure: str = ""  # what it has come to
    pause: float = _SILENCE  # before the next plain line
    bar: TaskID | None = None


class Display:
    """The display of a run of so many stages: while it is open, everything in this module goes to it.

    Bars are drawn, unless they are not wanted, where there is a terminal or a notebook that can.
    """

    def __init__(self, stages: int = 0, *, bars: bool = True) -> None:
        self.console = Console()
        self.log: TextIO | None = None
        self.activity = ""  # of the stage at hand
        self._stages, self._stage, self._title = stages, 0, ""
        self._work: dict[str, _Work] = {}
        # rich needs ipywidgets to draw a live line in a notebook
        drawn = self.console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        self._bars = _bars(self.console) if bars and (self.console.is_terminal or drawn) else None

    def __enter__(self) -> "Display":
        self._outer = _open[-1] if _open else None
        if self._outer is not None:  # one terminal has one live line
            self.console, self._bars = self._outer.console, self._outer._bars
        elif self._bars is not None:
            self._bars.start()
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _open.remove(self)
        for label in list(self._work):
            self.end(label)
        if self._outer is None and self._bars is not None:
            self._bars.stop()

    def stage(self, title: str) -> None:
        """The next stage begins."""
        self._stage += 1
        self.activity = title
        self._title = f"{self._stage}/{self._stages} {title}"
        self.say(f"{title} (stage {self._stage} of {self._stages})")

    def say(self, line: str) -> None:
        """Print a line, and write it to the log."""
        line = "\n".join(map(visible, line.split("\n")))  # a warning of another library may have several
        self.console.print(Text("pruning » ", "bold cyan") + Text(line), highlight=False, soft_wrap=True)
        if self.log is not None:
            print(f"pruning » {line}", file=self.log, flush=True)

    def warn(self, line: str) -> None:
        """Print a line as it is, and to the terminal only."""
        self.console.print(line.strip(), markup=False, highlight=False)

    def begin(self, label: str, total: float) -> None:
        """Something that takes time begins."""
        self.end(label)
        now = time.monotonic()
        self._work[label] = work = _Work(total, now, now)
        if self._bars is not None:
            work.bar = self._bars.add_task(label, total=total, stage=self._title, figure="")

    def step(self, label: str, amount: float, figure: str = "") -> None:
        """So much more of it is done, in the unit of its total; what has not begun is passed over.

        A figure that it has come to, such as "mask mAP50-95 0.185", is told at once, also where no bars are drawn.
        """
        work = self._work.get(label)
        if work is None:
            return
        work.done += amount
        work.figure = figure or work.figure
        if self._bars is not None and work.bar is not None:
            self._bars.update(work.bar, completed=work.done, figure=work.figure)
        now, goes_on = time.monotonic(), work.done < work.total - _ROUNDING
        due = self._bars is None and now - work.said >= work.pause and goes_on
        if figure or due:
            left = (now - work.start) / work.done * (work.total - work.done)
            rest = f", about {_duration(left)} left" if goes_on else ""
            self.say(f"{label}: {_amount(work.done)} of {work.total:g}{', ' if figure else ''}{figure}{rest}")
            work.said = now
        if due:
            work.pause = min(2 * work.pause, _LONGEST_SILENCE)

    def stand(self, label: str, done: float, figure: str = "") -> None:
        """So much of it is done in all (see `step`)."""
        if label in self._work:
            self.step(label, done - self._work[label].done, figure)

    def end(self, label: str) -> None:
        """It is done, or given up."""
        work = self._work.pop(label, None)
        if work is not None and self._bars is not None and work.bar is not None:
            self._bars.remove_task(work.bar)


_open: list[Display] = []


def current() -> Display | None:
    """The display that is open, the innermost one; None where there is none."""
    return _open[-1] if _open else None


def say(line: str) -> None:
    """Print one line about the stage at hand."""
    (current() or Display(bars=False)).say(line)


def begin_stage(title: str) -> None:
    """The next stage of the run begins."""
    if _open:
        _open[-1].stage(title)
    else:
        say(title)


def begin_work(label: str, total: float, done: float = 0) -> None:
    """Something that takes time begins, or goes on, in the display that is open, if any."""
    if _open:
        _open[-1].begin(label, total)
        _open[-1].step(label, done)


def work_done(label: str, amount: float, figure: str = "") -> None:
    """Some of it is done (see `Display.step`)."""
    if _open:
        _open[-1].step(label, amount, figure)


def work_stands(label: str, done: float, figure: str = "") -> None:
    """So much of it is done in all (see `Display.stand`)."""
    if _open:
        _open[-1].stand(label, done, figure)


def end_work(label: str) -> None:
    """It is done, or given up."""
    if _open:
        _open[-1].end(label)


def show(result: Any) -> None:
    """Print a table or a report, whole."""
    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(result, soft_wrap=False)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The items, with a bar and the time left in a terminal or notebook, and now and then a plain line elsewhere.

    The work is done between one item and the next; there are `total` of them.
    """
    with nullcontext(_open[-1]) if _open else Display() as display:
        display.begin(label, total)
        try:
            for item in items:
                yield item
                display.step(label, 1)
        finally:
            display.end(label)


def _bars(console: Console) -> Progress:
    columns = (
        TextColumn("[bold cyan]{task.fields[stage]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figure]}"),
    )
    return Progress(*columns, console=console, transient=True)


def _amount(done: float) -> str:
    """So much of something, to a hundredth of its unit: "12", "0.28"."""
    return f"{done:.2f}".rstrip("0").rstrip(".")


def _duration(seconds: float) -> str:
    """A time that people take in: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
