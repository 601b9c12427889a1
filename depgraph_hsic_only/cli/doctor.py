"""`depgraph-hsic doctor`: what a bug report needs to know of this machine, what is wrong with it, and what to do."""

import argparse
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from depgraph_hsic_only.cli.command import Answer, Command, Parser
from depgraph_hsic_only.support.checks.check import FAIL, OK, WARN, Check, checked, load_fault
from depgraph_hsic_only.support.checks.machine import (
    check_accelerators,
    check_folder,
    find_accelerators,
    look_at_machine,
)
from depgraph_hsic_only.support.checks.packages import look_at_packages

_EPILOG = """\
ok, warn (slower, or missing what not everybody needs) or fail, what was found,
and what to do; without a network, git or a model. The exit code is 1 where
something fails.

examples:
  depgraph-hsic doctor
  depgraph-hsic doctor --json > doctor.json
"""
_SCRIPTS = {
    "Arabic": "قطة",
    "Chinese": "猫",
    "Cyrillic": "кошка",
    "Greek": "γάτα",
    "Hebrew": "חתול",
    "Hindi": "बिल्ली",
    "Japanese": "ねこ",
    "Korean": "고양이",
    "Thai": "แมว",
}


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> Answer:
    with redirect_stdout(sys.stderr), warnings.catch_warnings():  # not even the imports' warnings are of the answer
        warnings.simplefilter("ignore")
        checks = _look()
    failed, warned = (sum(check.status == status for check in checks) for status in (FAIL, WARN))
    if arguments.json:
        shown = json.dumps({"ok": not failed, "checks": list(map(asdict, checks))}, indent=1, ensure_ascii=False)
    else:
        shown = "\n".join([*map(str, checks), f"{len(checks)} checks: {failed} failed, {warned} with a warning"])
    return Answer(shown, int(failed > 0))


def _look() -> tuple[Check, ...]:
    """Everything, in the order in which one thing explains another."""
    return (
        *checked("packages", lambda: look_at_packages(str(Path(__file__).parents[2]))),
        *checked("runtimes", _look_at_runtimes),
        *checked("device", lambda: [check_accelerators(find_accelerators())]),
        *checked("machine", look_at_machine),
        *checked("folders", _look_at_folders),
        *checked("Ultralytics' settings", _look_at_settings),
        *checked("fonts", _look_at_fonts),
    )


def _look_at_runtimes() -> Iterator[Check]:
    from depgraph_hsic_only.evaluation.deployed.deployment import RUNTIMES  # it imports torch

    faults = {name: load_fault(name) for name in RUNTIMES if importlib.util.find_spec(name) is not None}
    loaded = ", ".join(name for name, fault in faults.items() if fault is None)
    missing = ", ".join(name for name in RUNTIMES if name not in faults)
    for name, fault in faults.items():
        if fault is not None:
            yield Check("runtimes", WARN, f"{name} can't be loaded ({fault})", "its files are written and not compared")
    yield Check("runtimes", OK, f"{loaded or 'none'} can be loaded{missing and f'; not installed: {missing}'}")


def _look_at_folders() -> Iterator[Check]:
    yield check_folder("runs", Path.cwd() / "runs", "work in another folder, or pass --project one that can be written")
    yield check_folder("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a folder that can be written")


def _look_at_settings() -> Iterator[Check]:
    from depgraph_hsic_only.yolo.device import settings_folder  # it imports torch

    folder, advice = settings_folder(), "set YOLO_CONFIG_DIR to a folder that can be written"
    check = check_folder("Ultralytics' settings", folder, advice)
    elsewhere = "YOLO_CONFIG_DIR" not in os.environ and folder.is_relative_to(tempfile.gettempdir())
    if check.status == OK and elsewhere:
        check = Check(check.name, WARN, f"{check.found}, since the usual folder can't be written", advice)
    yield check


def _look_at_fonts() -> Iterator[Check]:
    from depgraph_hsic_only.report.figures.fonts import find_fonts, font_cache  # matplotlib loads slowly

    missing = find_fonts(_SCRIPTS.values()).missing
    scripts = ", ".join(script for script, text in _SCRIPTS.items() if not missing.isdisjoint(text))
    if not scripts:
        yield Check("fonts", OK, "for every script that was tried")
        return
    advice = f"install fonts (Debian, Ubuntu: apt install fonts-noto-core fonts-noto-cjk) and remove {font_cache()}"
    yield Check("fonts", WARN, f"none for {scripts}: figures show the numbers of classes with such names", advice)


COMMAND = Command("doctor", "What is wrong with this machine, and what to do.", _EPILOG, _add_arguments, _run)
