"""What was looked at on this machine, and how it is."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from depgraph_hsic_only.errors import one_line
from depgraph_hsic_only.support.visible import visible

OK: Literal["ok"] = "ok"
WARN: Literal["warn"] = "warn"
FAIL: Literal["fail"] = "fail"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is, such as "torch".
        status: "ok", "warn" where something is slower or missing that not everybody needs, "fail" where it is wrong.
        found: How it is.
        advice: What to do, "" where there is nothing to do.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return visible(f"{self.status:<4}  {self.name}: {self.found}{self.advice and f'; {self.advice}'}")


def checked(name: str, look: Callable[[], Iterable[Check]]) -> tuple[Check, ...]:
    """What is found by looking; an error on the way ends it and is told too, under that name."""
    found: list[Check] = []
    try:
        for check in look():
            found.append(check)
    except Exception as error:
        why = f"could not be looked at ({type(error).__name__}: {one_line(error)})"
        found.append(Check(name, FAIL, why, "report it, if nothing above explains it"))
    return tuple(found)


def load_fault(module: str) -> str | None:
    """Why a module can't be imported; None where it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever its compiled parts raise
        return one_line(error)
    return None
