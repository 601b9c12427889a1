"""A command line as the judge of a file: another machine's clock, such as a Jetson's or a phone's."""

import math
import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from depgraph_hsic_only.errors import ConfigError, one_line

MODEL = "{model}"  # what the path of the file is put in place of
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NAMED = re.compile(r"^\s*latency_ms\s*[:=]\s*(.*)$", re.MULTILINE | re.IGNORECASE)
_VALUE = re.compile(rf"({_NUMBER})\s*(?:$|ms\b|[^\w\s.,%]|[,;]\s)")  # and what is said beside it, but no other unit
_BEFORE = r"(?<![\w./\\,+-])"  # not within a name, a path, a version, or a number that is written otherwise
_WITH_UNIT = re.compile(rf"{_BEFORE}({_NUMBER})\s*ms\b(?![/\\-]|\.\w)")
_ANY = re.compile(rf"{_BEFORE}({_NUMBER})(?![\w/\\-]|[.,]\w|\s?%)")


def command_fault(command: object) -> str | None:
    """What is wrong with a command line that is to judge files; None where nothing is."""
    expected = f"expected a command line with {MODEL} in it, such as 'ssh pi bench {MODEL}', or null"
    if command is None:
        return None
    if not isinstance(command, str) or MODEL not in command:
        return f"{expected}, got {command!r}"
    try:
        shlex.split(command)
    except ValueError as error:
        return f"{expected}, got {command!r} ({error})"
    return None


def told_seconds(command: str, path: Path, timeout: float) -> float:
    """Run a command on a file and return what it says that one call takes, in seconds.

    It is run without a shell. Of what it prints to stdout the last line `latency_ms: 12.3` counts, or where there is
    none the last number with "ms" after it, or the last one that is a word of its own: milliseconds.

    Args:
        command: The command line, with "{model}" where the path of the file goes.
        path: The file.
        timeout: Seconds that it may take.

    Raises:
        ConfigError: It can't be started, fails, takes longer, or prints no duration.
    """
    words = [word.replace(MODEL, str(path)) for word in shlex.split(command)]

    def refused(what: str) -> ConfigError:
        return ConfigError(
            f"latency.command: expected a command that prints milliseconds, but {shlex.join(words)} {what}; try it by "
            "hand, or leave it out"
        )

    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise refused(f"can't be started ({error.strerror})") from error
    try:
        out, err = (stream.decode(errors="replace") for stream in process.communicate(timeout=timeout))
    except BaseException as error:  # Ctrl-C too
        _kill(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise refused(f"took longer than {timeout:g} s (latency.timeout)") from None
        raise
    if process.returncode:
        raise refused(f"failed with {process.returncode}: {one_line(err.strip() or out.strip() or 'nothing said')}")
    if not 0 < (milliseconds := _milliseconds(out)) < math.inf:
        raise refused(f"printed {one_line(repr(out.strip()))}")
    return milliseconds / 1e3


def _milliseconds(printed: str) -> float:
    """The duration that a command has printed; NaN where it has none, or where its `latency_ms` is no such number."""
    if named := _NAMED.findall(printed):
        value = _VALUE.match(named[-1])
        return float(value[1]) if value else math.nan
    numbers = _WITH_UNIT.findall(printed) or _ANY.findall(printed)
    return float(numbers[-1]) if numbers else math.nan


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it has started, which may outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    process.communicate()
