"""Nothing that a file says is run: Ultralytics' restricted mode, which its own functions read from a global.

And what that mode doesn't cover: label caches, which Ultralytics reads as pickles.
"""

import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


_ARRAYS = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _CodeError(pickle.UnpicklingError):
    """A pickle names something that is no plain data."""


class _Plain(pickle.Unpickler):
    """Reads arrays and Python's plain values."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise _CodeError(f"{module}.{name}")
        return super().find_class(module, name)


def code_in_cache(path: Path) -> str | None:
    """What a label cache would run in Ultralytics' reader, `numpy.load` with pickles.

    Returns:
        The name of the first function that is no array's; None where there is none, or where the reader can't read the
        file either, and scans the labels anew.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                version = file.read(2)
                size = int.from_bytes(file.read(2 if version[0] == 1 else 4), "little")
                file.seek(size, os.SEEK_CUR)
            else:
                file.seek(0)  # it reads a bare pickle too
            _Plain(file).load()
    except _CodeError as error:
        return str(error)
    except Exception:  # a damaged pickle raises anything
        return None
    return None
