"""From best.pt to what a device runs: float and int8, for onnxruntime and OpenVINO, each with its mAP and latency.

    python examples/deploy.py --weights best.pt --unpruned yolov8n-seg.pt --data data.yaml --imgsz 320

All forms have one fixed input size (imgsz x imgsz, batch 1), so all are validated on square images (rect=False), which
gives other mAPs than rectangular batches. int8 forms are calibrated on training images. Latencies are medians, taken
in turns on this machine's CPU, of the network alone, without NMS. OpenVINO needs `pip install openvino`, its int8 form
`pip install nncf` too; what is not installed is left out, and a line says so.
"""

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # before ultralytics is imported: it would install what is missing

from depgraph_hsic_only import PruningError, find_dataset, load_model
from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.evaluation.latency import measure_latency, onnx_run, openvino_run, torch_run
from depgraph_hsic_only.evaluation.validation import validate_file
from depgraph_hsic_only.utils.conversion import export_onnx, quantize_onnx
from depgraph_hsic_only.yolo.input_shape import InputShape

NEEDS = {"OpenVINO": ["openvino"], "OpenVINO int8": ["openvino", "nncf"]}  # beside what this package needs


def make_forms(weights: str, folder: Path, dataset: Dataset, imgsz: int, images: int) -> dict[str, Path]:
    """Every deployed form of a checkpoint, by name. The checkpoint is copied, since Ultralytics exports beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    copied = Path(shutil.copy(weights, folder / "model.pt"))
    training = dataset.images("train")
    share = min(1.0, images / len(training))
    openvino = partial(load_model(copied).export, format="openvino", imgsz=imgsz, device="cpu")
    int8 = {"quantize": 8, "data": dataset.write_keys(folder), "split": "train", "fraction": share}
    makers: dict[str, Callable[[], Any]] = {
        "PyTorch": lambda: copied,
        "ONNX": lambda: export_onnx(load_model(copied), folder / "model.onnx", imgsz=imgsz),
        "ONNX int8": lambda: quantize_onnx(folder / "model.onnx", folder / "model_int8.onnx", training, limit=images),
        "OpenVINO": openvino,
        "OpenVINO int8": lambda: openvino(**int8),
    }
    return {form: Path(make()) for form, make in makers.items() if not missing(form)}


def missing(form: str) -> list[str]:
    """Packages that a form needs and that are not installed."""
    return [package for package in NEEDS.get(form, []) if importlib.util.find_spec(package) is None]


def run_of(path: Path, imgsz: int) -> Callable[[], object]:
    """A call that runs a form on one image."""
    if path.suffix == ".pt":
        return torch_run(load_model(path), InputShape(imgsz, imgsz), "cpu")
    return onnx_run(path) if path.suffix == ".onnx" else openvino_run(path, InputShape(imgsz, imgsz))


def size_mb(path: Path) -> float:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir())) / 1e6


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Deployed forms of a pruned model, measured beside the unpruned one's."
    )
    parser.add_argument("--weights", required=True, help="checkpoint of the pruned model")
    parser.add_argument("--unpruned", required=True, help="checkpoint of the model before the cut")
    parser.add_argument("--data", required=True, help="data.yaml, or 'shapes'")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the input image, pixels")
    parser.add_argument("--images", type=int, default=128, help="training images that int8 is calibrated on")
    parser.add_argument("--out", type=Path, default=Path("runs/deploy"), help="folder for the files")
    args = parser.parse_args(argv)
    try:
        models, out = {"unpruned": args.unpruned, "pruned": args.weights}, args.out.absolute()
        tasks = [load_model(weights).task for weights in models.values()]  # a mistake is said before any work
        dataset = find_dataset(args.data, tasks[0])
        forms = {m: make_forms(path, out / m, dataset, args.imgsz, args.images) for m, path in models.items()}
    except PruningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    data = dataset.write_keys(out)
    paths = {(form, model): path for model, made in forms.items() for form, path in made.items()}
    shape = InputShape(args.imgsz, args.imgsz)
    found = {key: validate_file(path, data, shape, dataset.task) for key, path in paths.items()}
    latency = measure_latency({" ".join(key): run_of(path, args.imgsz) for key, path in paths.items()})
    kind = f"{list(next(iter(found.values())).metrics)[-1]} mAP50-95"  # that counts most
    print(f"\n{kind} at imgsz={args.imgsz}, batch=1, rect=False, val; median latency on this CPU\n")
    columns = [f"{figure}, {model}" for figure in ("MB", kind, "ms") for model in models]
    print(f"| form | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for form in forms["pruned"]:
        keys = [(form, model) for model in models]
        sizes, scores = [f"{size_mb(paths[k]):.1f}" for k in keys], [f"{found[k].primary.map50_95:.4f}" for k in keys]
        times = [f"{latency[' '.join(k)].median:.1f}" for k in keys]
        print(f"| {' | '.join([form, *sizes, *scores, *times])} |")
    for form, model in paths:
        if not found[form, model].complete:
            print(f"{form}, {model}: NMS ran out of time on this machine, so the mAP is too low: measure it again")
    for form in filter(missing, NEEDS):
        print(f"{form} is left out: pip install {' '.join(missing(form))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
