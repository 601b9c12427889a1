"""A stand-in for torchvision where its compiled part can't load.

Ultralytics imports torchvision in every validator, predictor and NMS export for one function, `torchvision.ops.nms`.
Beside a torch build that it was not compiled for (CPU torch with a CUDA torchvision, say) the import fails with
"operator torchvision::nms does not exist". Ultralytics has the same function in Python, so that takes its place.
"""

import importlib.machinery
import importlib.metadata
import sys
import warnings
from types import ModuleType

from ultralytics.utils.nms import TorchNMS


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
            f"torchvision can't be loaded ({str(error).splitlines()[0]}); using Ultralytics' own NMS in its place. "
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
