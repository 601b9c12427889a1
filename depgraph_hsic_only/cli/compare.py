"""`compare`: which criterion, and how far can I go on my data?"""

import argparse

from depgraph_hsic_only.cli import command
from depgraph_hsic_only.cli.command import MODEL_FILES, YAML_FILES, Answer, Command, Flag, Parser
from depgraph_hsic_only.comparison.options import BACKENDS, CRITERIA, MAX_MAP_DROP
from depgraph_hsic_only.errors import ComparisonError
from depgraph_hsic_only.support.progress import show

_EPILOG = """\
examples:
  depgraph-hsic compare --pretrained best.pt --data my.yaml --targets gmacs=0.8
  depgraph-hsic compare --targets gmacs=0.8 --imgsz 640,512 --precision int8

At one target all criteria cut the same widths. Interrupted, the same command
goes on; criteria, targets, seeds, sizes and precisions can be added.
"""
_SETTINGS = {
    "pretrained": Flag("pretrained", str, "FILE", "checkpoint that everything is cut from", MODEL_FILES),
    "data": Flag("data", str, "NAME", "data set: a name, its data.yaml, or 'shapes'", YAML_FILES),
    "train-epochs": Flag("train.epochs", int, "N", "before everything, once (default: 0)"),
    "fine-tune-epochs": Flag("fine_tune.epochs", int, "N", "after each cut, and of the control (default: 0)"),
    "layers": Flag("prune.layers", str, "WHICH", "backbone (default), all, or a list: [6,7,22]"),
    "imgsz": Flag("imgsz", str, "PX,PX", "sides of the image; targets are of the first"),
    "precision": Flag("precision", str, "A,B", "of the files: float,int8,half (default: float)"),
    "batch": Flag("batch", int, "N", "images per batch"),
    "device": Flag("device", str, "NAME", "cpu, 0, 0,1 or mps"),
    "workers": Flag("workers", int, "N", "data loading processes"),
    "seed": Flag("seed", int, "N", "the first of the seeds (default: 0)"),
    "project": Flag("project", str, "FOLDER", "of the comparisons (default: runs/compare)"),
    "name": Flag("name", str, "NAME", "of the comparison's folder (default: exp)"),
}


def _add_arguments(parser: Parser) -> None:
    parser.add_flags(_SETTINGS)
    parser.add_argument("--criteria", default=",".join(CRITERIA), metavar="A,B", help="names with commas")
    parser.add_argument("--targets", metavar="WHAT=R", help="what is left: params=0.9,0.8,gmacs=3G+size=5MB")
    parser.add_argument("--ratios", metavar="R,R", help="instead: shares to cut of each width: 0.25,0.5")
    parser.add_argument("--axes", default="width", metavar="A,B", help="what targets are met by: width,depth (width)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument("--budget", metavar="WHAT=R", help="take the best within: latency=0.5, gmacs=0.5,params=2M")
    drop = "mAP that a size may cost (%(default)s)"
    parser.add_argument("--max-map-drop", type=float, default=MAX_MAP_DROP, metavar="D", help=drop)
    parser.add_argument("--backend", default="serial", metavar="NAME", help=" or ".join(BACKENDS))
    parser.add_argument("--address", metavar="WHERE", help="of Ray: auto, host:port, ray://host:port")
    parser.add_argument("--task-cpus", type=float, default=1, metavar="N", help="cores of a part on Ray (default: 1)")
    parser.add_argument("--task-gpus", type=float, metavar="N", help="GPUs of a part on Ray")
    parser.add_argument("--cfg", metavar="FILE", help="other settings", complete=YAML_FILES)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any other setting of default.yaml")


@command.nothing_else_on_stdout()
def _run(arguments: argparse.Namespace) -> Answer:
    """What was found; where parts failed, what the others found is shown before the `ComparisonError` that says so."""
    from depgraph_hsic_only.comparison.run import compare
    from depgraph_hsic_only.training.arguments import parse_override

    given = command.given_settings(arguments, _SETTINGS)
    if "prune.layers" in given:
        given["prune.layers"] = parse_override(f"layers={given['prune.layers']}")[1]
    flags = {"overrides", *(name.replace("-", "_") for name in _SETTINGS)}
    found = compare(**{name: value for name, value in vars(arguments).items() if name not in flags}, **given)
    if found.failures:
        show(found)
        raise ComparisonError(
            f"{found.folder}: {len(found.failures)} parts failed ({', '.join(found.failures)}); the table holds the "
            "others, and the same command tries these again"
        )
    return Answer(found)


COMMAND = Command("compare", "Which criterion, and how far? Many cuts, side by side.", _EPILOG, _add_arguments, _run)
