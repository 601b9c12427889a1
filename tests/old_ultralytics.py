"""A model that is pruned here, in older versions of Ultralytics, beside the unpruned one.

    python tests/old_ultralytics.py
    python tests/old_ultralytics.py 8.2.64 8.4.0 --folder .venv-old

Each check has a process of its own, with the other packages that are here: does the version load the checkpoint, and is
what it loads, or builds from the checkpoint's YAML as its trainer does, the network of the Ultralytics that is here?
The exit code is 1 where the unpruned model passes and the pruned one doesn't: what a version can do with no checkpoint
of this one is not our business.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import torch
from conftest import WEIGHTS, build
from ultralytics import YOLO

from depgraph_hsic_only import load_model, prune

VERSIONS = ("8.2.0", "8.2.64", "8.2.103", "8.3.0", "8.3.17", "8.3.200", "8.4.0", "8.4.140", "8.4.141")
WAYS = ("loaded", "built from its YAML")
IMPORTED = {"tqdm": "tqdm", "cpuinfo": "py-cpuinfo", "thop": "ultralytics-thop"}  # by old versions: packages by module
CHECK = """
import copy, sys
import torch, ultralytics
from ultralytics import YOLO

def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in (value.values() if isinstance(value, dict) else value) for tensor in tensors(part)]

version, file, way = sys.argv[1:]
assert ultralytics.__version__ == version, ultralytics.__file__
model, expected = YOLO(file).model, torch.load(f"{file}-outputs")
if way != "loaded":
    source, model = model, type(model)(copy.deepcopy(model.yaml), verbose=False)
    model.load(source, verbose=False)
assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected["shapes"], "other weights"
with torch.no_grad():
    got = tensors(tuple(model.float().eval()(expected["image"])))
for right in expected["outputs"]:
    found = next(tensor for tensor in got if tensor.shape == right.shape)
    assert torch.allclose(found, right, rtol=0, atol=1e-4 * float(right.abs().max())), "other outputs"
"""


def write(yolo: YOLO, file: Path) -> None:
    """A checkpoint, and beside it what the Ultralytics that is here makes of it."""
    yolo.save(file)
    model, image = YOLO(file).model.float().eval(), torch.rand(1, 3, 128, 96)
    with torch.no_grad():
        outputs = list(model(image)[0])
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    torch.save({"image": image, "outputs": outputs, "shapes": shapes}, f"{file}-outputs")


def fetch(version: str, folder: Path) -> None:
    """Install a version and what it imports beside the packages that are here."""
    missing = [package for module, package in IMPORTED.items() if importlib.util.find_spec(module) is None]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *missing, f"ultralytics=={version}"], check=True)
    (folder / "torchvision").mkdir()  # nothing here suppresses boxes: a stand-in will do where it can't be loaded
    (folder / "torchvision" / "__init__.py").write_text('__version__ = "0.28.0"\n', encoding="utf-8")


def verdict(version: str, packages: Path, file: Path, way: str) -> str:
    """What becomes of a checkpoint in a version."""
    own = {"PYTHONPATH": str(packages), "YOLO_CONFIG_DIR": str(packages), "YOLO_AUTOINSTALL": "false"}
    command = [sys.executable, "-c", CHECK, version, str(file), way]
    done = subprocess.run(command, env=os.environ | own, cwd=packages, capture_output=True, text=True, check=False)
    raised = [line for line in done.stderr.splitlines() if "Error" in line.partition(":")[0]]
    return "the same" if done.returncode == 0 else (raised or ["no reason given"])[-1].partition(". ")[0]


def main() -> int:
    """Check the versions; 1 where the pruned model does worse than the unpruned one in any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--folder", type=Path, default=Path(".venv-old-ultralytics"), help="where versions are kept")
    args = parser.parse_args()
    folder, worse = args.folder.resolve(), False
    folder.mkdir(parents=True, exist_ok=True)
    yolo = load_model(WEIGHTS if WEIGHTS.exists() else "yolov8n-seg.yaml")
    if not WEIGHTS.exists():
        yolo.model.load_state_dict(build().state_dict())
    write(yolo, folder / "unpruned.pt")
    prune(yolo, 0.25)
    write(yolo, folder / "pruned.pt")
    for version in args.versions:
        if not (folder / version / "torchvision").exists():
            fetch(version, folder / version)
        for way in WAYS:
            files = (folder / f"{name}.pt" for name in ("unpruned", "pruned"))
            unpruned, pruned = (verdict(version, folder / version, file, way) for file in files)
            worse |= unpruned == "the same" != pruned
            told = pruned if pruned == unpruned else f"{pruned}; unpruned: {unpruned}"
            print(f"ultralytics {version} with torch {torch.__version__}, {way}: {told}", flush=True)
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
