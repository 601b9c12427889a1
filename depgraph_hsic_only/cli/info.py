"""`depgraph-hsic info model.pt`: what a model is, and whether it was pruned."""

import argparse
import json

from depgraph_hsic_only.cli.command import MODEL_FILES, Answer, Command, Parser, nothing_else_on_stdout

_EPILOG = """\
For models of any task. Runs no code from the file.

examples:
  depgraph-hsic info runs/prune/exp/weights/best.pt
  depgraph-hsic info yolov8n-seg.pt --imgsz 320
  depgraph-hsic info best.pt --json | jq .parameters
"""


def _add_arguments(parser: Parser) -> None:
    meaning = "checkpoint (.pt), or a YOLO's YAML"
    parser.add_argument("model", metavar="model.pt", help=meaning, complete=MODEL_FILES)
    parser.add_argument("--imgsz", type=int, metavar="PX", help="side that GMACs are of (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")


@nothing_else_on_stdout()
def _run(arguments: argparse.Namespace) -> Answer:
    from depgraph_hsic_only.pruning.describe import describe
    from depgraph_hsic_only.yolo.load import load_model

    found = describe(load_model(arguments.model, task=None), arguments.imgsz)
    return Answer(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if arguments.json else found)


COMMAND = Command("info", "What a model is, what it costs, whether it was pruned.", _EPILOG, _add_arguments, _run)
