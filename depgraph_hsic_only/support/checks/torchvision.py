"""Whether torchvision is built for the torch that is here, and the command that installs the one that is."""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from depgraph_hsic_only.errors import one_line

STAND_IN = "stands_in_because"  # attribute of a module in the place of torchvision: why that can't be loaded
_MINOR = 15  # torch 2.6 goes with torchvision 0.21, and so on
_RELEASE = re.compile(r"2\.(\d+)\.(\d+)(\+(?:cpu|cu\d+|rocm[\d.]+|xpu))?")


def torchvision_fault() -> str | None:
    """Why torchvision can't be loaded; None where it can.

    Beside a torch that it was not built for, its compiled operators are missing. What a failed import leaves is
    removed.
    """
    present = sys.modules.get("torchvision")
    if present is not None:
        fault: str | None = getattr(present, STAND_IN, None)
        return fault
    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # missing; a library that can't be opened; a missing operator
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        return one_line(error)
    return None


def torchvision_remedy(torch: str | None = None) -> str:
    """What to do for a torchvision that was built for a torch: the command, but for builds that no rule tells.

    Args:
        torch: Version of the installed package, which names the build where it is not the usual one, as in
            "2.13.0+cpu"; None for the torch that is here.
    """
    if torch is None:
        try:
            torch = version("torch")
        except PackageNotFoundError:
            return "pip install torch torchvision"
    fits = _RELEASE.fullmatch(torch)
    if fits is None:
        return f"install the torchvision that was built for torch {torch}, from where that came from"
    minor, patch, build = fits.groups()
    wanted = f"pip install --force-reinstall --no-deps torchvision==0.{int(minor) + _MINOR}.{patch}"
    return (
        wanted if build is None else f"{wanted}{build} --index-url URL, the URL that torch {torch} was installed from"
    )


def pair_fault(torch: str, torchvision: str) -> str | None:
    """What is wrong with a pair of versions that both can be loaded; None where nothing is, or no rule tells."""
    fits = _RELEASE.fullmatch(torch)
    if fits is None or Version(torchvision).release[:2] == (0, int(fits.group(1)) + _MINOR):
        return None
    return f"{torchvision}, which was not released for torch {torch}"
