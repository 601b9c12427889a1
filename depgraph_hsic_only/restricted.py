"""Nothing that a file says is run: Ultralytics' restricted mode, which its own functions read from a global."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ultralytics.nn import tasks

_lock = threading.RLock()
_FLAG = "ULTRALYTICS_SAFE_LOAD"  # what Ultralytics reads at its import, so in the processes that it starts


@contextmanager
def restricted(on: bool = True) -> Iterator[None]:
    """Make Ultralytics load tensors and known classes only, here and in processes that it starts.

    The same mode keeps it from evaluating what a model's YAML calls its activation, in a checkpoint too. `YOLO(path)`,
    its trainers and `parse_model` have no argument for that, and read a global.

    Args:
        on: False for the opposite: whatever a file holds is run.
    """
    with _lock:
        before, flag = tasks.SAFE_LOAD, os.environ.get(_FLAG)
        tasks.SAFE_LOAD, os.environ[_FLAG] = on, "1" if on else "0"
        try:
            yield
        finally:
            tasks.SAFE_LOAD = before
            if flag is None:
                del os.environ[_FLAG]
            else:
                os.environ[_FLAG] = flag
