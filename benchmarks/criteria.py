"""Which channels? Criteria and settings of HSIC-Lasso at equal widths, by mAP after the same recovery.

    python benchmarks/criteria.py WEIGHTS DATA.yaml --cuts deep,0.25 --variants hsic_lasso,magnitude,random --seeds 2

Everything but the scores is the same for all: widths, calibration images (drawn from the training split by the seed),
recovery (least squares), and validation. Each row is printed as soon as it is measured; at the end every variant is
compared with the first one, with a paired bootstrap interval over the validation images.
"""

import argparse
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import Measured, measure, paired_interval
from ultralytics.cfg import smart_value

from depgraph_hsic_only import load_model, score_channels
from depgraph_hsic_only.calibration import calibration_images, in_batches
from depgraph_hsic_only.dataset import Dataset, find_dataset, labelled_batches
from depgraph_hsic_only.evaluation import Validation
from depgraph_hsic_only.graph import trace_channels
from depgraph_hsic_only.planning import follow_ties, make_plan, uniform_widths
from depgraph_hsic_only.pruning import apply_plan
from depgraph_hsic_only.recovery import recover

DEEP = {"h8": 64, "h6": 48, "w7": 192, "w6": 96, "w5": 64}


def main() -> None:
    """Measure every variant at every cut with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("data")
    parser.add_argument("--cuts", default="deep,0.25,0.5", help="'deep', or ratios of a uniform cut")
    parser.add_argument(
        "--variants", default="hsic_lasso,magnitude,bn_scale,taylor,random", help="criterion:option=value:…"
    )
    parser.add_argument("--images", type=int, default=100, help="to score on; 'images=' in a variant goes over it")
    parser.add_argument("--recovery-images", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--imgsz", type=int, default=320)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    dataset, original = find_dataset(args.data), load_model(args.weights)
    graph = trace_channels(original.model)
    found: dict[tuple[str, str], list[Measured]] = {}
    headings = ("cut", "seed", "criterion", "box mAP50-95", "mask mAP50-95", "divergence", "scoring s", "recovery s")
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}", flush=True)
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            drawn = drawn_subset(dataset, seed, args.recovery_images, Path(folder))
            fitted = calibration_images(
                drawn.images("train"), original.model, imgsz=args.imgsz, limit=args.recovery_images
            )
            for variant in args.variants.split(","):
                criterion, *pairs = variant.split(":")
                options = {key: smart_value(value) for key, _, value in (pair.partition("=") for pair in pairs)}
                count = options.pop("images", args.images)
                if criterion in ("hsic_lasso", "random"):
                    options.setdefault("seed", seed)
                start = time.perf_counter()
                scores = score_channels(
                    original, criterion, batches=batches(criterion, drawn, original, count, args.imgsz), **options
                )
                scoring = time.perf_counter() - start
                for cut in args.cuts.split(","):
                    every = {w.name: w.channels for w in graph.widths}
                    free = every | DEEP if cut == "deep" else uniform_widths(graph, float(cut))
                    widths = follow_ties(graph, free)
                    plan = make_plan(graph, scores, widths, criterion=criterion, reasons=dict.fromkeys(widths, cut))
                    model = load_model(args.weights)
                    apply_plan(model, plan)
                    recovery = recover(model, original, plan, fitted, seed=seed)
                    row = measure(model, dataset.source or "", Validation(args.imgsz, 16))
                    found.setdefault((cut, variant), []).append(row)
                    print(
                        f"| {cut} | {seed} | {variant} | {row.box:.4f} | {row.mask:.4f} | "
                        f"{recovery.divergence[1]:.3f} | {scoring:.1f} | {recovery.seconds:.1f} |",
                        flush=True,
                    )
    compare(found, args.variants.split(","), args.cuts.split(","))


def drawn_subset(dataset: Dataset, seed: int, count: int, folder: Path) -> Dataset:
    """The data set with `count` of its training images, drawn by a seed."""
    files = dataset.images("train")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    listing = folder / "train.txt"
    listing.write_text("\n".join(str(files[k]) for k in order[:count]), encoding="utf-8")
    return replace(dataset, keys={**dataset.keys, "train": str(listing)})


def batches(criterion: str, dataset: Dataset, model: Any, count: int, imgsz: int) -> Any:
    """What a criterion measures on: the same images for all."""
    if criterion == "taylor":
        return labelled_batches(dataset, images=count, imgsz=imgsz, batch=10)
    return in_batches(calibration_images(dataset.images("train"), model.model, imgsz=imgsz, limit=count), 10)


def compare(found: dict[tuple[str, str], list[Measured]], variants: list[str], cuts: list[str]) -> None:
    """Means over seeds, and each variant's difference from the first in mask mAP50-95, with its interval."""
    print("\n| cut | criterion | box / mask | first − this, mask | 95 % interval |\n|---|---|---|---|---|")
    for cut in cuts:
        first = found[cut, variants[0]]
        for variant in variants:
            rows = found[cut, variant]
            box, mask = (sum(getattr(row, part) for row in rows) / len(rows) for part in ("box", "mask"))
            low, high = paired_interval(first, rows)
            base = sum(row.mask for row in first) / len(first)
            print(f"| {cut} | {variant} | {box:.3f} / {mask:.3f} | {base - mask:+.3f} | {low:+.3f} … {high:+.3f} |")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
