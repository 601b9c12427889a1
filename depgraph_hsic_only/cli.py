"""The command line: names, flags and exit codes; no logic."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.commands import compare
from depgraph_hsic_only.demo import DEMO
from depgraph_hsic_only.errors import PruningError
from depgraph_hsic_only.preview import preview
from depgraph_hsic_only.progress import say, show
from depgraph_hsic_only.pruners import DefaultYolov8SegPruner
from depgraph_hsic_only.settings import parse_override

_FLAGS = {  # flag: (key of the configuration, type, meaning)
    "pretrained": ("pretrained", str, "checkpoint to prune (.pt), or a YOLOv8 segmentation YAML to train from scratch"),
    "data": ("data", str, "data set: a name, the path of its data.yaml, or 'shapes'"),
    "criterion": ("prune.criterion", str, "what ranks channels"),
    "ratio": ("prune.ratio", float, "share of the channels to cut from each width, 0 <= ratio < 1"),
    "threshold": ("prune.threshold", float, "instead of a ratio: the smallest score that stays"),
    "target": (
        "prune.target",
        str,
        "instead of a ratio: what may be left, such as params=0.8, gmacs=0.8 or latency=0.8",
    ),
    "imgsz": ("imgsz", int, "side of the input image in pixels (default: the checkpoint's own)"),
    "batch": ("batch", int, "images per batch"),
    "device": ("device", str, "cpu, 0, 0,1 or mps (default: Ultralytics' choice)"),
    "workers": ("workers", int, "data loading processes"),
    "seed": ("seed", int, "of every random choice"),
    "project": ("project", str, "folder of the run folders"),
    "name": ("name", str, "name of the run folder"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake."""
        self.exit(2, f"{self.prog}: error: {message}; --help lists what there is\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="depgraph-hsic",
        description="Prune a YOLOv8 segmentation model into an ordinary, narrower Ultralytics model.",
        epilog="Everything else is set as key=value: train.epochs=0 fine_tune.epochs=5 prune.layers=[3,4] lr0=0.001",
    )
    for flag, (_, kind, meaning) in _FLAGS.items():
        parser.add_argument(f"--{flag}", type=kind, help=meaning)
    parser.add_argument("--cfg", default="default.yaml", help="YAML file of settings (default: default.yaml)")
    parser.add_argument("--exist-ok", action="store_true", default=None, help="use an existing run folder again")
    parser.add_argument("--dry-run", action="store_true", help="print what would be cut and write nothing")
    parser.add_argument("--demo", action="store_true", help="train, prune and export on drawn shapes, in minutes")
    parser.add_argument("--version", action="version", version=f"depgraph_hsic_only {__version__}")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any setting of default.yaml, over the file's"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None for those of the process.

    Returns:
        Exit code: 0, or 2 where something given can't be used.
    """
    given_argv = list(sys.argv[1:] if argv is None else argv)
    comparing = given_argv[:1] == [compare.NAME]
    if comparing:
        parser: argparse.ArgumentParser = _Parser(
            prog=f"depgraph-hsic {compare.NAME}", description=compare.SUMMARY, epilog=compare.EPILOG
        )
        compare.add_arguments(parser)
        given_argv = given_argv[1:]
    else:
        parser = _parser()
    arguments = parser.parse_intermixed_args(given_argv)  # overrides may stand between flags
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    try:
        if comparing:
            show(compare.run(arguments))
            return 0
        given: dict[str, Any] = dict(DEMO) if arguments.demo else {}
        given |= {key: v for flag, (key, _, _) in _FLAGS.items() if (v := getattr(arguments, flag)) is not None}
        given |= {"exist_ok": True} if arguments.exist_ok else {}
        given |= dict(parse_override(text) for text in arguments.overrides)
        pruner = DefaultYolov8SegPruner(cfg=arguments.cfg, **given)
        show(preview(pruner.config) if arguments.dry_run else pruner.run())
    except PruningError as error:
        print(f"depgraph-hsic: error: {error}", file=sys.stderr)
        return 2
    return 0
