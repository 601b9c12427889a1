"""Whether a change of the code has changed a result: the same commands, run with two checkouts of this package.

    git worktree add ../before COMMIT
    python benchmarks/equal_results.py ../before . --weights yolov8n-seg.pt --data data.yaml

On a CPU with seed 0 and no data loading processes, plans, widths, weights and every measured figure that is no time
must be the same to the last bit. With `--weights` the cuts are of that checkpoint and on that data set; without, of a
model that is trained for a moment on drawn shapes. Each checkout's results are kept in `--folder`, and taken from there
the next time.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

COMMON = ("workers=0", "seed=0", "--device", "cpu", "plots=false", "calibration.images=48", "--batch", "8")
CUTS = {
    "ratio": ("--ratio", "0.5"),
    "hsic_lasso": ("--criterion", "hsic_lasso", "--ratio", "0.25"),
    "target": ("--target", "params=0.83", "prune.layers=all"),
    "steps": ("--ratio", "0.4", "prune.steps=2", "fine_tune.epochs=3"),
}
TIMES = {"time", "seconds", "latency_ms", "latency_spread_ms", "size_mb", "date"}
LEFT_OUT = {"environment", "version", "args", "sources"}  # of a report: what it was made with


def run(package: Path, folder: Path, name: str, *words: str) -> dict[str, Any]:
    """Run a command with a checkout, and read what it made.

    Returns:
        The plan, the report's figures without times, and a digest of each checkpoint's weights.
    """
    result = folder / f"{name}.json"
    if not result.is_file():
        command = [sys.executable, "-W", "ignore", "-m", "depgraph_hsic_only", *words, *COMMON]
        command += ["--project", str(folder), "--name", name]
        environment = {**os.environ, "PYTHONPATH": str(package), "YOLO_AUTOINSTALL": "false"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{package}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        made = folder / name
        report = json.loads((made / "report.json").read_text(encoding="utf-8"))
        weights = {path.name: _digest(package, path) for path in sorted((made / "weights").glob("*.pt"))}
        plan = json.loads((made / "plan.json").read_text(encoding="utf-8"))
        figures = _without_times({key: value for key, value in report.items() if key not in LEFT_OUT})
        result.write_text(json.dumps({"plan": plan, "report": figures, "weights": weights}, indent=1), encoding="utf-8")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _digest(package: Path, path: Path) -> str:
    digest = hashlib.sha256()
    network = torch.load(path, map_location="cpu", weights_only=False)["model"]
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()


def _without_times(value: Any) -> Any:
    """The figures that don't depend on the machine's speed; texts tell of seconds, so they are left out too."""
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES and key != "notes"}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Paths of what differs; keys that only the later one has are no difference."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [d for key in before for d in differences(before[key], after.get(key, "nothing"), f"{path}/{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [d for k, pair in enumerate(zip(before, after, strict=True)) for d in differences(*pair, f"{path}/{k}")]
    return [] if before == after else [f"{path}: {str(before)[:60]} -> {str(after)[:60]}"]


def main() -> int:
    """Run, compare and print; the exit code is 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--imgsz", default="160")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    shapes = ("--pretrained", "yolov8n-seg.yaml", "--data", "shapes", "--imgsz", "64", "--ratio", "0.5")
    commands = {"shapes": (*shapes, "train.epochs=2", "fine_tune.epochs=2")}
    found: list[dict[str, Any]] = []
    for side in ("before", "after"):
        place = (folder / side).resolve()
        place.mkdir(parents=True, exist_ok=True)
        package = getattr(args, side).resolve()
        results = {name: run(package, place, name, *words) for name, words in commands.items()}
        weights = args.weights and str(Path(args.weights).resolve())
        model = ("--pretrained", weights or str(folder.resolve() / "before" / "shapes" / "weights" / "trained.pt"))
        data = args.data if args.data == "shapes" else str(Path(args.data).resolve())
        given = (*model, "--data", data, "--imgsz", args.imgsz, "train.epochs=0", "fine_tune.epochs=0")
        found.append(results | {name: run(package, place, name, *given, *cut) for name, cut in CUTS.items()})
    wrong = 0
    for name in found[0]:
        differing = differences(found[0][name], found[1][name])
        print(f"{name}: {'the same' if not differing else f'{len(differing)} differences'}")
        print(*(f"  {line}" for line in differing[:20]), sep="\n" if differing else "")
        wrong += bool(differing)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
