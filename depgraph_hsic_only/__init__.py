"""Prune YOLO models into ordinary, narrower Ultralytics models.

The public names are those of `__init__.pyi`, for type checkers and at run time: each is imported when it is first used,
since torch and Ultralytics take seconds.
"""

import threading

import lazy_loader as lazy

from depgraph_hsic_only._version import __version__ as __version__
from depgraph_hsic_only.support import cores as _cores  # noqa: F401  # which reads the environment before Ultralytics

_imported, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
_lock = threading.RLock()  # two threads must not import Ultralytics at once: its modules import each other in circles


def __getattr__(name: str) -> object:
    with _lock:
        return _imported(name)
