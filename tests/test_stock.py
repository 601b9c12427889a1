"""A process that never imports this package goes on from a pruned checkpoint with Ultralytics alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import WEIGHTS, build
from ultralytics import YOLO
from ultralytics.nn.tasks import SegmentationModel

from depgraph_hsic_only import load_model, prune
from depgraph_hsic_only.data.shapes import shapes_dataset

# Where torchvision can't load (see `yolo.patches.ensure_nms`) the stock process needs a stand-in of its own.
PREAMBLE = """
import json, sys, types, importlib.machinery
try:
    import torchvision
except Exception:
    from ultralytics.utils.nms import TorchNMS
    tv, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    tv.__spec__ = importlib.machinery.ModuleSpec("torchvision", None, is_package=True)
    ops.nms, tv.ops, tv.__path__, tv.__version__ = TorchNMS.nms, ops, [], "0.28.0"
    sys.modules.update({"torchvision": tv, "torchvision.ops": ops})
from ultralytics import YOLO
def size(model):
    return sum(p.numel() for p in model.parameters())
"""
USE = """
checkpoint, data, out = sys.argv[1:]
common = dict(data=data, imgsz=64, batch=4, workers=0, plots=False, device="cpu", verbose=False)
sizes = {"load": size(YOLO(checkpoint).model)}
yolo = YOLO(checkpoint)
yolo.predict(f"{out}/../image.png", imgsz=64, verbose=False)
yolo.val(project=out, name="val", **common)
onnx = YOLO(checkpoint).export(format="onnx", imgsz=64)
YOLO(onnx).predict(f"{out}/../image.png", imgsz=64, verbose=False)
yolo = YOLO(checkpoint)
yolo.train(epochs=1, project=out, name="train", **common)
sizes["train"] = size(yolo.model)
sizes["last"] = size(YOLO(f"{out}/train/weights/last.pt").model)
assert not any(name.startswith("depgraph_hsic_only") for name in sys.modules)
print("RESULT " + json.dumps(sizes))
"""
TRAIN_LONG = """
checkpoint, data, out = sys.argv[1:]
YOLO(checkpoint).train(data=data, imgsz=64, batch=4, workers=0, plots=False, device="cpu", epochs=3, project=out,
                       name="long", save_period=1)
"""
RESUME = """
checkpoint, data, out = sys.argv[1:]
yolo = YOLO(f"{out}/long/weights/epoch0.pt")
yolo.train(resume=True)
print("RESULT " + json.dumps({"resumed": size(yolo.model), "epoch": yolo.trainer.epoch}))
"""


def stock(code: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"ULTRALYTICS_SAFE_LOAD": "1", "YOLO_AUTOINSTALL": "false"}
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output = process.communicate()[0]
    assert process.returncode == 0, output[-4000:]
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    answer: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return answer


@pytest.mark.parametrize("nc", [80, 10])
def test_ultralytics_alone_goes_on_from_it(nc: int, tmp_path: Path) -> None:
    """The 80-class model (the pretrained one where it is at hand), and a 10-class one transferred from it."""
    shapes = shapes_dataset(tmp_path / "shapes", train=8, val=4, imgsz=64)
    data = yaml.safe_load(shapes.read_text()) | {"names": {i: f"class {i}" for i in range(nc)}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    next((tmp_path / "shapes" / "images" / "val").iterdir()).rename(tmp_path / "image.png")
    yolo = YOLO("yolov8n-seg.yaml")
    yolo.model = load_model(WEIGHTS).model if WEIGHTS.exists() else build()
    if nc != 80:
        source, yolo.model = yolo.model, SegmentationModel("yolov8n-seg.yaml", nc=nc, verbose=False)
        yolo.model.load(source, verbose=False)
    yolo.model.args, yolo.model.task = {"imgsz": 64, "task": "segment"}, "segment"
    parameters = prune(yolo, 0.5).after.parameters
    assert parameters == 2_397_448 or nc != 80
    yolo.save(tmp_path / "pruned.pt")
    assert sum(p.numel() for p in load_model(tmp_path / "pruned.pt").model.parameters()) == parameters

    (tmp_path / "runs").mkdir()
    arguments = [str(tmp_path / "pruned.pt"), str(tmp_path / "data.yaml"), str(tmp_path / "runs")]
    assert result(stock(USE, *arguments, folder=tmp_path)) == dict.fromkeys(("load", "train", "last"), parameters)
    assert (tmp_path / "pruned.onnx").stat().st_size < 4.1 * parameters + 200_000

    interrupted = stock(TRAIN_LONG, *arguments, folder=tmp_path)
    saved = tmp_path / "runs" / "long" / "weights" / "epoch0.pt"
    while interrupted.poll() is None and not saved.exists():
        time.sleep(0.02)
    time.sleep(0.5)  # the file is written in one go, and the next epoch takes longer than this
    interrupted.send_signal(signal.SIGKILL)
    interrupted.communicate()
    assert result(stock(RESUME, *arguments, folder=tmp_path)) == {"resumed": parameters, "epoch": 2}
