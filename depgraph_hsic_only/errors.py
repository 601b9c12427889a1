"""What can go wrong through no fault of this package.

PruningError
├── CheckpointError        a file that is not a usable YOLO checkpoint          (also OSError)
├── UnsupportedModelError  a model that is not an unmodified YOLO network       (also TypeError)
├── ConfigError            a setting that is unknown, of a wrong type or range  (also ValueError)
├── PlanError              a plan that does not belong to the model             (also ValueError)
├── DataError              images or a data set that can't be used              (also ValueError)
├── StorageError           a file that can't be written                         (also OSError)
├── OutOfMemoryError       memory that is too small for the images              (also MemoryError)
├── UltralyticsError       what Ultralytics refuses: its arguments, or the data (also RuntimeError)
├── ExportError            an exported file that does not do what the model does (also RuntimeError)
└── ComparisonError        a comparison of which some parts failed              (also RuntimeError)

Each message is one line: what was expected, what came, what to do next. The command line prints it and exits with 2.
"""

import textwrap


def one_line(message: BaseException | str, most: int = 300) -> str:
    """A message, such as another library's error, on one line.

    Args:
        message: What is said; of an error that says nothing, the name of its type stands for it.
        most: Characters; what is longer ends with "[...]".
    """
    return textwrap.shorten(str(message), most) or type(message).__name__


class PruningError(Exception):
    """Base of every error that this package raises on purpose."""


class CheckpointError(PruningError, OSError):
    """A file that is not a usable YOLO checkpoint."""


class UnsupportedModelError(PruningError, TypeError):
    """A model that is not an unmodified YOLO network of a family and task that can be pruned."""


class ConfigError(PruningError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


class PlanError(PruningError, ValueError):
    """A pruning plan that is malformed or belongs to another model."""


class DataError(PruningError, ValueError):
    """Images or a data set that can't be used."""


class StorageError(PruningError, OSError):
    """A file that can't be written: the disk is full, or read-only."""


class OutOfMemoryError(PruningError, MemoryError):
    """Memory, a GPU's or the machine's, that is too small for what was asked for."""


class UltralyticsError(PruningError, RuntimeError):
    """Arguments or data that Ultralytics refuses while it trains, validates or exports."""


class ExportError(PruningError, RuntimeError):
    """An export that failed, or a file whose outputs differ from the model's."""


class ComparisonError(PruningError, RuntimeError):
    """A comparison of which some parts failed, or a part that lacks one that it needs."""
