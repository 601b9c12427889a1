"""Files that are there whole, or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

from depgraph_hsic_only.errors import StorageError
from depgraph_hsic_only.support.resource_errors import storage_reason


def temporary_name(name: str, process: int | str) -> str:
    """Name of the file that is written first, by a process."""
    return f".{name}.{process}.tmp"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, bring it to the disk and move it into place.

    Raises:
        StorageError: It can't be written; what was there before is as it was.
    """
    temporary = path.with_name(temporary_name(path.name, os.getpid()))
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        if (reason := storage_reason(error)) is None:
            raise
        raise StorageError(f"{path}: expected to write it, but {reason}; make room, or pass another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """The same for a text, in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
