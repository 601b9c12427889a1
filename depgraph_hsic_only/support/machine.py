"""Whether this machine is quiet enough to time something on it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

_LEAST_SECONDS = 0.2  # the processor's own count is in hundredths
_TOLERATED = 0.1  # of the cores


@dataclass
class Watch:
    """What else ran on this machine for a while."""

    others: float = 0.0  # cores that other processes kept busy, on average

    def warning(self, threads: int | None) -> str | None:
        """That others took cores which `threads` (None: all cores) needed; None where they did not."""
        cores = os.cpu_count() or 1
        free = max(cores - (threads or cores), _TOLERATED * cores)
        if self.others <= free:
            return None
        return (
            f"the machine was busy: other processes had {self.others:.1f} of its {cores} cores while latency was "
            "measured; measure again on a quiet machine"
        )


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch what other processes do meanwhile; what is found is there at the end."""
    found, start, before = Watch(), time.perf_counter(), _busy_seconds()
    yield found
    seconds = time.perf_counter() - start
    if seconds >= _LEAST_SECONDS:
        found.others = max(0.0, (_busy_seconds() - before) / seconds)


def _busy_seconds() -> float:
    """Seconds that processors have worked for others than this process and those that it has waited for."""
    every, own = psutil.cpu_times(), os.times()
    idle = every.idle + getattr(every, "iowait", 0.0) + getattr(every, "guest", 0.0)  # a guest's are the user's too
    return float(sum(every) - idle - getattr(every, "guest_nice", 0.0) - sum(own[:4]))
