"""A stand-in for torchvision where its compiled part can't load, and the time that NMS in Python takes.

Ultralytics imports torchvision in every validator, predictor and NMS export for one function, `torchvision.ops.nms`.
Beside a torch build that it was not compiled for (CPU torch with a CUDA torchvision, say) the import fails with
"operator torchvision::nms does not exist". Ultralytics has the same function in Python, so that takes its place.
"""

import functools
import importlib.machinery
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ultralytics.utils import nms
from ultralytics.utils.nms import TorchNMS

from depgraph_hsic_only.errors import one_line

_SECONDS_PER_IMAGE = 2.0


@contextmanager
def patient_nms() -> Iterator[None]:
    """Give Ultralytics' validators time for NMS.

    After 2 s and 0.05 s an image they leave the rest of a batch without detections, with a warning in the log and a mAP
    that is too low: a busy machine is enough for that where NMS runs in Python.
    """
    hasty = nms.non_max_suppression
    nms.non_max_suppression = functools.partial(hasty, max_time_img=_SECONDS_PER_IMAGE)
    try:
        yield
    finally:
        nms.non_max_suppression = hasty


def ensure_nms() -> bool:
    """Make `torchvision.ops.nms` importable; where torchvision loads, nothing is changed.

    Returns:
        Whether the stand-in is in place.
    """
    present = sys.modules.get("torchvision")
    if present is not None:
        return getattr(present, "is_stand_in", False)
    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # missing; a library that can't be opened; a missing operator
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]  # submodules of the failed import
        ops = ModuleType("torchvision.ops")
        ops.nms = TorchNMS.nms  # type: ignore[attr-defined]
        stand_in = ModuleType("torchvision")
        stand_in.__spec__ = importlib.machinery.ModuleSpec("torchvision", loader=None, is_package=True)
        stand_in.__path__ = []
        stand_in.__version__ = _version()  # type: ignore[attr-defined]
        stand_in.ops, stand_in.is_stand_in = ops, True  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": stand_in, "torchvision.ops": ops}
        warnings.warn(
            f"torchvision can't be loaded ({one_line(error)}); using Ultralytics' own NMS in its place. "
            "Install the torchvision build that matches your torch to be rid of this warning.",
            RuntimeWarning,
            stacklevel=2,
        )
        return True
    return False


def _version() -> str:
    try:
        return importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return "0"
