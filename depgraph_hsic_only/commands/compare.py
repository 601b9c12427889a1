"""`compare`: which criterion, and how far can I go on my data?"""

import argparse
from typing import Any

from depgraph_hsic_only.commands.command import MODEL_FILES, PROGRAM, YAML_FILES, Command, complete_as
from depgraph_hsic_only.comparison.backends import BACKENDS
from depgraph_hsic_only.comparison.recommendation import MAX_MAP_DROP
from depgraph_hsic_only.comparison.run import CRITERIA, compare
from depgraph_hsic_only.errors import ComparisonError
from depgraph_hsic_only.progress import show
from depgraph_hsic_only.settings import parse_override

_EPILOG = f"""\
example:
  {PROGRAM} compare --pretrained best.pt --data my/data.yaml --targets params=0.9,0.8

At one target all criteria cut the same widths, so that channels are compared: a
target's widths are chosen by the damage of each width with the channels of
'reconstruction'. Interrupted, the same command goes on where it was, and criteria,
targets and seeds can be added; with other settings a folder is refused.
"""
_SETTINGS = {  # flag: (key of the configuration, type, meaning)
    "pretrained": ("pretrained", str, "checkpoint that everything is cut from"),
    "data": ("data", str, "data set: a name, the path of its data.yaml, or 'shapes'"),
    "train-epochs": (
        "train.epochs",
        int,
        "of training before everything, once (default: 0, it is trained already)",
    ),
    "fine-tune-epochs": ("fine_tune.epochs", int, "after each cut, and of the unpruned control (default: 0)"),
    "layers": ("prune.layers", str, "backbone, all, or a list such as [6,7,22] (default: backbone)"),
    "imgsz": ("imgsz", int, "side of the input image in pixels (default: the checkpoint's own)"),
    "batch": ("batch", int, "images per batch"),
    "device": ("device", str, "cpu, 0, 0,1 or mps (default: Ultralytics' choice)"),
    "workers": ("workers", int, "data loading processes"),
    "seed": ("seed", int, "the first of the seeds (default: 0)"),
    "project": ("project", str, "folder of the comparisons (default: runs/compare)"),
    "name": ("name", str, "name of the comparison's folder (default: exp)"),
}
_COMPLETED = {"pretrained": MODEL_FILES, "data": YAML_FILES}
_ARGUMENTS = (
    *("criteria", "targets", "ratios", "seeds", "max_map_drop"),
    *("backend", "address", "task_cpus", "task_gpus", "cfg"),
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `compare`."""
    for flag, (_, kind, meaning) in _SETTINGS.items():
        action = parser.add_argument(f"--{flag}", type=kind, help=meaning)
        if flag in _COMPLETED:
            complete_as(action, _COMPLETED[flag])
    parser.add_argument("--criteria", default=",".join(CRITERIA), help="names with commas (default: %(default)s)")
    parser.add_argument("--targets", help="what may be left, such as params=0.9,0.8,gmacs=0.75")
    parser.add_argument("--ratios", help="shares to cut from each width, such as 0.25,0.5")
    parser.add_argument("--seeds", type=int, default=1, help="how many (default: 1)")
    parser.add_argument(
        "--max-map-drop",
        type=float,
        default=MAX_MAP_DROP,
        help="largest loss of mask mAP50-95 that a recommended size may have (default: %(default)s)",
    )
    parser.add_argument("--backend", default="serial", help=f"{' or '.join(BACKENDS)} (default: %(default)s)")
    parser.add_argument("--address", help="of a Ray cluster: auto, host:port or ray://host:port (default: a new one)")
    parser.add_argument("--task-cpus", type=float, default=1, help="cores of a part on Ray (default: 1)")
    parser.add_argument("--task-gpus", type=float, help="GPUs of a part on Ray (default: 1 where there are any)")
    parser.add_argument("--cfg", help="YAML file of settings, whose criterion, amounts and epochs are not read")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any other setting of default.yaml, over the file's"
    )


def _run(arguments: argparse.Namespace) -> Any:
    """What was found, to be shown.

    Raises:
        ComparisonError: Some parts failed; what the others found has been shown.
    """
    keys = {flag.replace("-", "_"): key for flag, (key, _, _) in _SETTINGS.items()}
    given = {key: value for flag, key in keys.items() if (value := getattr(arguments, flag)) is not None}
    given |= dict(parse_override(text) for text in arguments.overrides)
    if "prune.layers" in given:
        given["prune.layers"] = parse_override(f"layers={given['prune.layers']}")[1]
    found = compare(**{name: getattr(arguments, name) for name in _ARGUMENTS}, **given)
    if found.failures:
        show(found)
        raise ComparisonError(
            f"{found.folder}: {len(found.failures)} parts failed ({', '.join(found.failures)}); the table holds the "
            "others, and the same command tries these again"
        )
    return found


COMMAND = Command(
    "compare",
    "Which criterion, and how far? Many cuts, side by side.",
    _EPILOG,
    _add_arguments,
    _run,
)
