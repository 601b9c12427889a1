"""What Ultralytics refuses, its arguments or its data, told from a fault of this package that surfaces in it."""

import dis
from types import TracebackType

from depgraph_hsic_only.errors import one_line
from depgraph_hsic_only.support.resource_errors import out_of_memory, storage_reason

_OWN, _THEIRS = __name__.partition(".")[0], "ultralytics"
_CALLBACKS = "run_callbacks"  # where Ultralytics calls functions that others have given it
_WORKER_TRACEBACK = "Original Traceback"  # in what PyTorch says of an error in a process that loads data


def refusal(error: BaseException) -> str | None:
    """What Ultralytics says of what it was given, in one line with the kind of error; None for any other error.

    It is a refusal where the last call from this package into Ultralytics has led to a `raise` statement, in
    Ultralytics or below it, or to a file or a package that is missing. What fails without one, such as a sum of tensors
    of two shapes, may be our fault, and what a callback raises is its owner's. So is a shortage of the machine, of
    which `resource_errors` tells.
    """
    if not _by_ultralytics(error) or storage_reason(error) is not None or out_of_memory(error):
        return None
    said = str(error)
    if _WORKER_TRACEBACK in said:  # whose last line is the error itself
        return one_line(said.strip().splitlines()[-1])
    return f"{type(error).__name__}: {one_line(said)}" if said.strip() else type(error).__name__


def _by_ultralytics(error: BaseException) -> bool:
    calls: list[TracebackType] = []
    link = error.__traceback__
    while link is not None:
        calls.append(link)
        link = link.tb_next
    ours_or_theirs = [k for k, call in enumerate(calls) if _package(call) in (_OWN, _THEIRS)]
    if not ours_or_theirs or _package(calls[ours_or_theirs[-1]]) == _OWN:
        return False
    last = ours_or_theirs[-1]
    if calls[last].tb_frame.f_code.co_name == _CALLBACKS and last < len(calls) - 1:
        return False
    return isinstance(error, (OSError, ImportError)) or _raises(calls[-1])


def _package(call: TracebackType) -> str:
    return str(call.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _raises(call: TracebackType) -> bool:
    """Whether a frame stands at a `raise` or `assert` statement."""
    return dis.opname[call.tb_frame.f_code.co_code[call.tb_lasti]] == "RAISE_VARARGS"
