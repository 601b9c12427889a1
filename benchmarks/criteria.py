"""Which channels? Criteria and settings of HSIC-Lasso at equal widths, by mAP after a plain least-squares re-fit.

    python benchmarks/criteria.py WEIGHTS DATA.yaml --cuts deep,0.25 --variants hsic_lasso:gamma=0,magnitude,random

Everything but the scores is the same for all: widths, calibration images (training split), positions, ridge, and the
validation (`split=val`, rectangular). Each row is printed as soon as it is measured.
"""

import argparse
import copy
import time
import warnings
from typing import Any

import torch
from refit import refit
from ultralytics.cfg import smart_value

from depgraph_hsic_only import load_model, score_channels
from depgraph_hsic_only.calibration import calibration_images, in_batches
from depgraph_hsic_only.dataset import find_dataset, labelled_batches
from depgraph_hsic_only.evaluation import Validation, validate_model
from depgraph_hsic_only.graph import trace_channels
from depgraph_hsic_only.planning import follow_ties, make_plan, uniform_widths
from depgraph_hsic_only.pruning import apply_plan

DEEP = {"h8": 64, "h6": 48, "w7": 192, "w6": 96, "w5": 64}


def main() -> None:
    """Measure every variant at every cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("data")
    parser.add_argument("--cuts", default="deep,0.25,0.5", help="'deep', or ratios of a uniform cut")
    parser.add_argument(
        "--variants", default="hsic_lasso,magnitude,bn_scale,taylor,random", help="criterion:option=value:…"
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--refit-images", type=int, default=100)
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--ridge", type=float, default=1e-3)
    parser.add_argument("--imgsz", type=int, default=320)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    dataset, original = find_dataset(args.data), load_model(args.weights)
    graph = trace_channels(original.model)
    scored, fitted = (
        calibration_images(args.data, original.model, imgsz=args.imgsz, limit=n)
        for n in (args.images, args.refit_images)
    )
    print(
        f"| cut | criterion | box mAP50-95 | mask mAP50-95 | parameters | scoring s | re-fit s |\n|{'---|' * 7}",
        flush=True,
    )
    for variant in args.variants.split(","):
        criterion, *pairs = variant.split(":")
        options = {key: smart_value(value) for key, _, value in (pair.partition("=") for pair in pairs)}
        start = time.perf_counter()
        batches: Any = list(in_batches(scored, 10))
        if criterion == "taylor":
            batches = labelled_batches(dataset, images=args.images, imgsz=args.imgsz, batch=10)
        scores = score_channels(original, criterion, batches=batches, **options)
        scoring = time.perf_counter() - start
        for cut in args.cuts.split(","):
            free = (
                {w.name: w.channels for w in graph.widths} | DEEP
                if cut == "deep"
                else uniform_widths(graph, float(cut))
            )
            widths = follow_ties(graph, free)
            plan = make_plan(graph, scores, widths, criterion=criterion, reasons=dict.fromkeys(widths, cut))
            model = load_model(args.weights)
            parameters = apply_plan(model, plan).after.parameters
            start = time.perf_counter()
            refit(model.model, copy.deepcopy(original.model), plan, fitted, positions=args.positions, ridge=args.ridge)
            fitting = time.perf_counter() - start
            found = validate_model(model, dataset.source or "", Validation(args.imgsz, 16), device="cpu", workers=0)
            note = "" if found.complete else " (NMS ran out of time)"
            print(
                f"| {cut} | {variant} | {found.map50_95_box:.4f} | {found.map50_95_mask:.4f}{note} | {parameters:,} | "
                f"{scoring:.1f} | {fitting:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
