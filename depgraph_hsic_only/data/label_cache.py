"""Label caches, which Ultralytics reads as pickles: what one would run is found without running it."""

import os
import pickle
from pathlib import Path
from typing import Any

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
