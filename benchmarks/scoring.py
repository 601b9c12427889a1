"""What it costs to score a whole backbone by HSIC-Lasso, by layer, and how that grows.

    python benchmarks/scoring.py IMAGES_FOLDER [--weights yolov8n-seg.pt]

Each row is a process of its own, so that its peak of memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

ROWS = (
    *(("n", 100, 16), ("n", 50, 16), ("n", 200, 16), ("n", 100, 8), ("n", 100, 32)),
    *(("s", 100, 16), ("m", 100, 16)),
)


def main() -> None:
    """Measure all rows, or in a child process one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("--weights", help="checkpoint for scale n; otherwise random weights")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args, *json.loads(args.one))))
        return
    print(
        "| scale | images | positions | pass s | systems and paths s | peak GB |\n|---|---|---|---|---|---|", flush=True
    )
    for row in ROWS:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", json.dumps(row)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        figures = f"{found['gather']:.1f} | {sum(found['layers'].values()):.1f} | {found['peak']:.2f}"
        print(f"| {' | '.join(map(str, row))} | {figures} |", flush=True)
        if row == ROWS[0]:
            first = found["layers"]
    print("\n| convolutions | s |\n|---|---|")
    for name, seconds in first.items():
        print(f"| {name} | {seconds:.2f} |")


def one(args: argparse.Namespace, scale: str, count: int, positions: int) -> dict[str, object]:
    """Seconds of the pass, seconds by convolution, and the peak of memory in 10^9 bytes."""
    import torch
    from ultralytics import YOLO

    from depgraph_hsic_only import load_model
    from depgraph_hsic_only.channels.groups import trace_channels
    from depgraph_hsic_only.criteria.hsic_lasso import HsicLasso
    from depgraph_hsic_only.data.calibration import calibration_images, in_batches
    from depgraph_hsic_only.recovery.samples import gather_samples

    warnings.simplefilter("ignore")
    model = load_model(args.weights) if args.weights and scale == "n" else YOLO(f"yolov8{scale}-seg.yaml")
    torch.set_num_threads(2)
    graph = trace_channels(model.model)
    images = calibration_images(args.images, model.model, imgsz=args.imgsz, limit=count)
    readers = dict.fromkeys(m.name for group in graph.groups for m in group.members if m.role == "input")
    criterion, layers = HsicLasso(positions=positions), {}
    start = time.perf_counter()
    samples = gather_samples(graph.model, list(readers), in_batches(images, 8), positions=positions, seed=0)
    gather = time.perf_counter() - start
    for s in samples:
        start = time.perf_counter()
        criterion.score_inputs(s)
        layers[" + ".join(name.removeprefix("model.").removesuffix(".conv") for name in s.convolutions)] = (
            time.perf_counter() - start
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"gather": gather, "layers": layers, "peak": peak}


if __name__ == "__main__":
    main()
