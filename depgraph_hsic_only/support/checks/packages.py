"""The packages that this one needs: whether each is here, of a version that it takes, and can be loaded.

What is needed is what the installed distribution says of itself, which is what `pyproject.toml` says.
"""

import importlib
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.support.checks.check import FAIL, OK, WARN, Check, load_fault
from depgraph_hsic_only.support.checks.torchvision import pair_fault, torchvision_fault, torchvision_remedy

DISTRIBUTION = "depgraph-hsic-only"
_NOT_FOR_USE = ("dev", "docs")  # extras
_MODULES = {"opencv-python": "cv2", "pillow": "PIL", "pyyaml": "yaml"}  # of other names than their packages
_LIBRARY = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")
_DEBIAN = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0", "libglib-2.0.so.0": "libglib2.0-0"}


@dataclass(frozen=True)
class Needed:
    """A package that this one takes.

    Attributes:
        requirement: Its name and range of versions.
        optional: Whether only an extra asks for it.
    """

    requirement: Requirement
    optional: bool = False

    @property
    def install(self) -> str:
        """The command that installs it."""
        wanted = self.requirement
        extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
        return f"pip install '{wanted.name}{extras}{wanted.specifier}'"


@dataclass(frozen=True)
class Installed:
    """What there is of a package.

    Attributes:
        version: Of the package; None where it is not installed.
        fault: Why it can't be loaded; None where it can, or was not tried.
        module: Version of a module that can be loaded though no package of that name is installed, as onnxruntime can
            with onnxruntime-gpu; None where there is none.
    """

    version: str | None
    fault: str | None = None
    module: str | None = None


def needed_packages() -> list[Needed]:
    """What the installed distribution needs, then what its extras for users do.

    Raises:
        importlib.metadata.PackageNotFoundError: It is not installed.
    """
    every = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    extras = [name for name in metadata(DISTRIBUTION).get_all("Provides-Extra", ()) if name not in _NOT_FOR_USE]

    def wanted(one: Requirement, extra: str) -> bool:
        return one.marker is None or one.marker.evaluate({"extra": extra})

    always = [one for one in every if wanted(one, "")]
    asked = [one for one in every if not wanted(one, "") and any(wanted(one, extra) for extra in extras)]
    optional = {one.name: one for one in asked if one.name != DISTRIBUTION}  # which an extra may name for its others
    return [Needed(one) for one in always] + [Needed(one, optional=True) for one in optional.values()]


def check_own(version: str, installed: str | None, place: str) -> Check:
    """The version of this package that runs, the one that is installed, if any, and the folder that runs."""
    found = f"{version} in {place}"
    if installed == version:
        return Check(DISTRIBUTION, OK, found)
    if installed is None:
        return Check(DISTRIBUTION, WARN, f"{found}, not installed: what it needs is not known", f"pip install {place}")
    return Check(DISTRIBUTION, WARN, f"{found}, while {installed} is installed", "pip install the one that is to run")


def check_python(own: str, wanted: str | None) -> Check:
    """A version of Python against the range that is wanted, such as ">=3.10"."""
    found = f"{own} on {platform.platform()}"
    if SpecifierSet(wanted or "").contains(own, prereleases=True):
        return Check("python", OK, found)
    return Check("python", FAIL, f"{found}, which is not {wanted}", f"make an environment with Python {wanted}")


def check_package(needed: Needed, found: Installed, remedy: str | None = None) -> Check:
    """What is installed of a package against what is needed.

    Args:
        needed: What is needed.
        found: What there is.
        remedy: What to do where it is not right; None for the command that installs any version of the range.
    """
    name, inside = needed.requirement.name, needed.requirement.specifier
    own = found.version or found.module
    if own is None and needed.optional:
        return Check(name, OK, "not installed, optional", needed.install)
    if own is None:
        return Check(name, FAIL, "not installed", remedy or needed.install)
    if found.fault is not None:
        return Check(name, FAIL, f"{own} can't be loaded ({found.fault})", remedy or _repair(found.fault, needed))
    if not inside.contains(own, prereleases=True):
        status = WARN if needed.optional else FAIL
        return Check(name, status, f"{own}, which is not {inside}", remedy or needed.install)
    return Check(name, OK, own if found.version else f"{own}, from a package of another name")


def check_torchvision(needed: Needed, found: Installed, torch: str | None) -> Check:
    """The same of torchvision, beside the torch that is installed."""
    remedy = torchvision_remedy(torch)
    check = check_package(needed, found, remedy)
    if check.status == OK and torch and found.version and (fault := pair_fault(torch, found.version)):
        return Check(check.name, WARN, fault, remedy)
    return check


def look_at_packages(place: str) -> Iterator[Check]:
    """This package, which runs from a place, Python, and every package, in the order of `pyproject.toml`.

    What is not optional is loaded.
    """
    own = _version(DISTRIBUTION)
    yield check_own(__version__, own, place)
    yield check_python(platform.python_version(), metadata(DISTRIBUTION)["Requires-Python"] if own else None)
    for needed in needed_packages() if own else ():
        name = needed.requirement.name
        if name == "torchvision":
            yield check_torchvision(needed, Installed(_version(name), torchvision_fault()), _version("torch"))
        else:
            yield check_package(needed, _installed(name, load=not needed.optional))


def _installed(name: str, *, load: bool) -> Installed:
    module, own = _MODULES.get(name, name.replace("-", "_")), _version(name)
    fault = load_fault(module) if load else None
    if own is not None or not load or fault is not None:
        return Installed(own, fault)
    return Installed(None, None, str(getattr(importlib.import_module(module), "__version__", "0")))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _repair(fault: str, needed: Needed) -> str:
    missing = _LIBRARY.search(fault)
    if missing is None:
        return needed.install.replace("install", "install --force-reinstall", 1)
    library = missing.group(1)
    package = f" (Debian, Ubuntu: apt install {_DEBIAN[library]})" if library in _DEBIAN else ""
    return f"install the system's library {library}{package}"
