"""The command line: names, flags and exit codes; no logic.

torch and Ultralytics take seconds to import, so what needs them is imported where it is called: help, completion and
mistakes are answered at once.
"""

import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import shtab

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.cli import compare, doctor, info
from depgraph_hsic_only.cli.command import (
    MODEL_FILES,
    PROGRAM,
    YAML_FILES,
    Answer,
    Command,
    Flag,
    Parser,
    given_settings,
)
from depgraph_hsic_only.criteria import list_criteria
from depgraph_hsic_only.errors import PruningError, one_line
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.support.progress import say, show
from depgraph_hsic_only.support.refusals import refusal
from depgraph_hsic_only.support.resource_errors import out_of_memory, storage_reason
from depgraph_hsic_only.support.visible import visible

_CRITERIA = shtab.cmd(f"echo {' '.join(list_criteria())}")
_FLAGS = {
    "pretrained": Flag(
        "pretrained", str, "FILE", "checkpoint (.pt), or a YOLO's YAML to train from scratch", MODEL_FILES
    ),
    "data": Flag("data", str, "NAME", "data set: a name, the path of its data.yaml, or 'shapes'", YAML_FILES),
    "criterion": Flag(
        "prune.criterion", str, "NAME", "what ranks channels, such as magnitude or hsic_lasso", _CRITERIA
    ),
    "ratio": Flag("prune.ratio", float, "R", "share of the channels to cut from each width, 0 <= R < 1"),
    "threshold": Flag("prune.threshold", float, "T", "instead of a ratio: the smallest score that stays"),
    "target": Flag("prune.target", str, "WHAT=R", "instead, what is left: gmacs=0.75 or latency=9ms,size=5MB"),
    "axes": Flag("prune.axes", str, "AXES", "what meets it: width (default),depth,imgsz,precision"),
    "imgsz": Flag("imgsz", int, "PX", "side of the input image (default: the checkpoint's own)"),
    "batch": Flag("batch", int, "N", "images per batch"),
    "device": Flag("device", str, "NAME", "cpu, 0, 0,1 or mps (default: Ultralytics' choice)"),
    "workers": Flag("workers", int, "N", "data loading processes"),
    "seed": Flag("seed", int, "N", "of every random choice"),
    "project": Flag("project", str, "FOLDER", "folder of the run folders", shtab.DIRECTORY),
    "name": Flag("name", str, "NAME", "name of the run folder"),
}
_SWITCHES = {
    "exist-ok": "use an existing run folder again",
    "verbose": "Ultralytics' output too, not only in run.log",
    "trust": "let code in the checkpoint run: only one of your own",
    "dry-run": "print what would be cut and write nothing",
    "demo": "train, prune and export on drawn shapes, in minutes",
}
_EXAMPLES = f"""\
examples:
  {PROGRAM} --pretrained best.pt --ratio 0.25 --dry-run
  {PROGRAM} --pretrained best.pt --data my.yaml --ratio 0.25
  {PROGRAM} --pretrained best.pt --data my.yaml --target gmacs=0.8
"""


DEMO_TASKS = ("segment", "detect", "pose", "obb")  # those of `tasks.TASKS`, which imports torch
_OF_A_TARGET, _INSTEAD_OF_A_TARGET = ("prune.target", "prune.axes"), ("prune.ratio", "prune.threshold")
_DEMO_TRAINING = {"imgsz": 128, "epochs": 20}  # of the recipe's 160 px and 22: enough to show what a cut costs
_DEMO_TUNING = {"epochs": 4, "lr0": 0.001, "warmup_epochs": 0.25}  # shorter and gentler than what goes before


def _add_flags(parser: Parser) -> None:
    parser.add_flags(_FLAGS)
    cfg, resume = "settings (default: default.yaml)", "go on with a run that was cut off"
    parser.add_argument("--cfg", metavar="FILE", help=cfg, complete=YAML_FILES)
    parser.add_argument("--resume", metavar="FOLDER", help=resume, complete=shtab.DIRECTORY)
    for switch, meaning in _SWITCHES.items():
        parser.add_argument(f"--{switch}", action="store_true", help=meaning)
    meaning = "of --demo: segment (default), detect, pose or obb"
    parser.add_argument("--task", choices=DEMO_TASKS, metavar="NAME", help=meaning)
    version = f"depgraph_hsic_only {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version")


def _parser() -> Parser:
    commands = "\n".join(f"  {command.name:<19}{command.summary}" for command in _COMMANDS.values())
    parser = Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [COMMAND] [--flag value ...] [key=value ...]",
        description="Prune a YOLO model into an ordinary, narrower Ultralytics model.",
        epilog=f"commands:\n{commands}\n\n{_EXAMPLES}",
    )
    _add_flags(parser)
    settings = parser.add_argument_group("any setting of default.yaml")
    settings.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.epochs=0 prune.layers=[3,4]")
    return parser


def _whole() -> Parser:
    """A parser of the plain run's flags and of every command, for shells to complete from."""
    parser = Parser(prog=PROGRAM)
    _add_flags(parser)
    commands = parser.add_subparsers()
    for command in _COMMANDS.values():
        command.add_arguments(commands.add_parser(command.name, help=command.summary))
    return parser


_COMPLETION = Command(
    "completion",
    "Print the script for completion in bash or zsh.",
    f"""\
Completes the installed {PROGRAM}, not python -m depgraph_hsic_only.

examples:
  {PROGRAM} completion bash \\
      > ~/.local/share/bash-completion/completions/{PROGRAM}
  {PROGRAM} completion zsh > "${{fpath[1]}}/_{PROGRAM}"
""",
    lambda parser: parser.add_argument("shell", choices=("bash", "zsh"), help="whose script to print"),
    lambda arguments: Answer(shtab.complete(_whole(), arguments.shell)),
)
_COMMANDS = {command.name: command for command in (info.COMMAND, compare.COMMAND, doctor.COMMAND, _COMPLETION)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: a command where the first argument names one, else the plain run.

    Args:
        argv: Arguments without the program's name; None for those of the process.

    Returns:
        Exit code: 0, 1 after an error of this package's own, whose traceback is kept in a file, or where `doctor` finds
        something wrong, 2 where something given can't be used, 130 after Ctrl-C, or 143 after SIGTERM.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        with _terminable(), _warnings_said():
            if given and given[0] in _COMMANDS:
                command = _COMMANDS[given[0]]
                answer = command.run(command.parser().parse(given[1:]))
                if isinstance(answer.shown, str):
                    print(answer.shown)
                else:
                    show(answer.shown)
                return answer.code
            _prune(given)
        return 0
    except PruningError as error:
        code, said = 2, f"error: {error}"
    except KeyboardInterrupt as interrupt:
        return 128 + (signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT)  # as a shell says it
    except Exception as error:
        code, what = 2, one_line(error)
        if (reason := storage_reason(error)) is not None:
            said = f"error: expected to write files, but {reason}; make room, or pass another folder"
        elif out_of_memory(error):
            said = f"error: expected more memory than there is ({what}); pass a smaller imgsz or batch, or fewer images"
        elif (refused := refusal(error)) is not None:
            said = f"error: Ultralytics says {refused}; change the setting or the data that this is about"
        else:
            prefix = f"{PROGRAM}-"
            with tempfile.NamedTemporaryFile("w", prefix=prefix, suffix=".txt", encoding="utf-8", delete=False) as file:
                traceback.print_exc(file=file)
            code, said = 1, f"internal error ({type(error).__name__}: {what}); please report it with {file.name}"
    print(visible(f"{PROGRAM}: {said}"), file=sys.stderr)
    return code


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: a batch system wants its machine back."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does: with a word on how to go on, and nothing half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may listen to signals
        return

    def terminate(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Warnings are lines as everything else that is said. Their filters stay: libraries set their own when imported."""
    before, warnings.showwarning = warnings.showwarning, lambda message, *_: say(f"warning: {message}")
    try:
        yield
    finally:
        warnings.showwarning = before


def _demo_settings(task: str) -> dict[str, Any]:
    """The settings of `--demo`: a nano model that learns drawn shapes in minutes, is cut, and learns again."""
    from depgraph_hsic_only.data.shapes import shapes_recipe
    from depgraph_hsic_only.yolo.tasks import TASKS

    recipe = shapes_recipe(task) | _DEMO_TRAINING
    settings: dict[str, Any] = {
        "pretrained": f"yolov8n{TASKS[task].suffix}.yaml",
        "data": "shapes",
        "imgsz": recipe["imgsz"],
        "name": "demo",
        "workers": 0,  # so few and small images are no work for a process beside the one that trains
        "calibration.images": 128,
        "prune.layers": "all",
        "prune.target": "gmacs=0.4",
        "prune.axes": "width,imgsz",
    }
    settings |= {f"train.{key}": value for key, value in recipe.items()}
    return settings | {f"fine_tune.{key}": value for key, value in (recipe | _DEMO_TUNING).items()}


def _prune(words: Sequence[str]) -> None:
    parser = _parser()
    if words and not words[0].startswith("-") and "=" not in words[0]:
        known = ", ".join(_COMMANDS)
        parser.error(
            f"expected a command ({known}), a flag or key=value, got {words[0]!r}{nearest(words[0], _COMMANDS)}"
        )
    arguments = parser.parse(words)
    if arguments.task and not arguments.demo:
        parser.error("expected --task with --demo only, since a model knows its task; pass --pretrained one of it")
    from depgraph_hsic_only.cli.dry_run import dry_run
    from depgraph_hsic_only.workflow.config import DEFAULT_CFG
    from depgraph_hsic_only.workflow.default import DefaultYoloPruner
    from depgraph_hsic_only.workflow.state import read_state

    given: dict[str, Any] = {flag: True for flag in ("exist_ok", "trust", "verbose") if getattr(arguments, flag)}
    given |= given_settings(arguments, _FLAGS)
    if arguments.demo:  # what is given for both trainings goes over what it sets for each
        replaced = _OF_A_TARGET if given.keys() & _INSTEAD_OF_A_TARGET else ()
        demo = {
            key: value
            for key, value in _demo_settings(arguments.task or "segment").items()
            if key.rpartition(".")[2] not in given and key not in replaced
        }
        given = demo | given
    cfg: Any = arguments.cfg or DEFAULT_CFG
    if arguments.resume is not None and arguments.cfg is None:
        kept = read_state(arguments.resume).settings  # in which a folder from elsewhere would say what may run
        cfg = {**kept, "trust": False, "latency": {**kept.get("latency", {}), "command": None}}
    pruner = DefaultYoloPruner(cfg=cfg, **given)
    show(dry_run(pruner.config) if arguments.dry_run else pruner.run(arguments.resume))
