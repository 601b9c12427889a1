"""A process that never imports this package goes on from a pruned checkpoint with Ultralytics alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import WEIGHTS, build, every, save_untrained
from ultralytics import YOLO
from ultralytics.nn.tasks import SegmentationModel, guess_model_task, yaml_model_load
from ultralytics.utils import ROOT, YAML

from depgraph_hsic_only import apply_plan, load_model, prune
from depgraph_hsic_only.channels.groups import ChannelGraph, trace_channels
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import follow_ties, uniform_widths
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.yolo.patches import ensure_nms
from depgraph_hsic_only.yolo.tasks import TASKS

PREAMBLE = """
import json, sys
from pathlib import Path
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
YOLO(onnx, task=YOLO(checkpoint).task).predict(f"{out}/../image.png", imgsz=64, verbose=False)
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


TUNE = """
checkpoint, data, out = sys.argv[1:]
YOLO(checkpoint).tune(data=data, iterations=2, epochs=1, imgsz=64, batch=4, workers=0, plots=False, device="cpu",
                      project=out, name="tune")
rows = [json.loads(row) for row in Path(f"{out}/tune/tune_results.ndjson").read_text().splitlines()]
sizes = {str(path.relative_to(out)): size(YOLO(path).model) for path in Path(out).rglob("*.pt")}
print("RESULT " + json.dumps({"failed": [row.get("failed_datasets") for row in rows], "sizes": sizes}))
"""
TRACK = """
checkpoint, frames, tracker = sys.argv[1:]
yolo = YOLO(checkpoint)
found = yolo.track(frames, imgsz=64, conf=0, max_det=20, tracker=tracker, verbose=False)
ids = [[] if frame.boxes.id is None else frame.boxes.id.tolist() for frame in found]
print("RESULT " + json.dumps({"ids": ids, "size": size(YOLO(checkpoint).model)}))
"""
BENCHMARK = """
from ultralytics.utils.benchmarks import benchmark
checkpoint, data, out = sys.argv[1:]
yolo, status = YOLO(checkpoint), {}
for format in ("-", "onnx"):
    found = benchmark(model=yolo, data=data, imgsz=64, device="cpu", format=format, verbose=True)
    status[format] = found["Status\u2754"].to_list()
print("RESULT " + json.dumps({"status": status, "size": size(yolo.model)}))
"""


def stock(code: str, *arguments: str, folder: Path, packages: Path | None = None) -> subprocess.Popen[str]:
    paths = [packages, os.environ.get("PYTHONPATH")]
    if ensure_nms():  # torchvision can't load, and this process, and those that it starts, needs a stand-in of its own
        paths.append(folder / "stand-in")
        (folder / "stand-in" / "torchvision").mkdir(parents=True, exist_ok=True)
        text = "from ultralytics.utils.nms import TorchNMS\nnms = TorchNMS.nms\n"
        (folder / "stand-in" / "torchvision" / "ops.py").write_text(text)
        (folder / "stand-in" / "torchvision" / "__init__.py").write_text("from torchvision import ops\n")
    environment = os.environ | {"ULTRALYTICS_SAFE_LOAD": "1", "YOLO_AUTOINSTALL": "false"}
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in paths if path)
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


NANOS = [f"{family}n{TASKS[task].suffix}" for family in ("yolov8", "yolo11", "yolo12", "yolo26") for task in TASKS]
NANOS += ["yolov8n-p2", "yolov8n-p6", "yolov8n-seg-p6", "yolov8n-pose-p6", "yolo26n-p2", "yolo26n-p6"]
DEEP = ["yolov8m-seg", "yolo11m-seg"]


def assert_ultralytics_alone_goes_on_from(yolo: Any, parameters: int, data: Path, tmp_path: Path) -> None:
    """A process that never imports this package goes on from a cut `YOLO` of so many parameters."""
    next((tmp_path / "shapes" / "images" / "val").iterdir()).rename(tmp_path / "image.png")
    yolo.save(tmp_path / "pruned.pt")
    assert sum(p.numel() for p in load_model(tmp_path / "pruned.pt").model.parameters()) == parameters

    (tmp_path / "runs").mkdir()
    arguments = [str(tmp_path / "pruned.pt"), str(data), str(tmp_path / "runs")]
    assert result(stock(USE, *arguments, folder=tmp_path)) == dict.fromkeys(("load", "train", "last"), parameters)
    assert (tmp_path / "pruned.onnx").stat().st_size < 4.1 * parameters + 300_000

    interrupted = stock(TRAIN_LONG, *arguments, folder=tmp_path)
    saved = tmp_path / "runs" / "long" / "weights" / "epoch0.pt"
    while interrupted.poll() is None and not saved.exists():
        time.sleep(0.02)
    time.sleep(0.5)  # the file is written in one go, and the next epoch takes longer than this
    interrupted.send_signal(signal.SIGKILL)
    interrupted.communicate()
    assert result(stock(RESUME, *arguments, folder=tmp_path)) == {"resumed": parameters, "epoch": 2}


@pytest.mark.parametrize("nc", every([80], [10]))
def test_ultralytics_alone_goes_on_from_it(nc: int, tmp_path: Path) -> None:
    """The 80-class model (the pretrained one where it is at hand), and a 10-class one transferred from it."""
    shapes = shapes_dataset(tmp_path / "shapes", train=8, val=4, imgsz=64)
    data = yaml.safe_load(shapes.read_text()) | {"names": {i: f"class {i}" for i in range(nc)}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    yolo = YOLO("yolov8n-seg.yaml")
    yolo.model = load_model(WEIGHTS).model if WEIGHTS.exists() else build()
    if nc != 80:
        source, yolo.model = yolo.model, SegmentationModel("yolov8n-seg.yaml", nc=nc, verbose=False)
        yolo.model.load(source, verbose=False)
    yolo.model.args, yolo.model.task = {"imgsz": 64, "task": "segment"}, "segment"
    parameters = prune(yolo, 0.5).after.parameters
    assert parameters == 2_397_448 or nc != 80
    if nc == 80:
        graph = trace_channels(yolo.model, [22])
        parameters = cut_to(yolo, graph, graph.full | {"reg_max": 8})
    assert_ultralytics_alone_goes_on_from(yolo, parameters, tmp_path / "data.yaml", tmp_path)


def cut_to(yolo: Any, graph: ChannelGraph, widths: dict[str, int]) -> int:
    """Cut to widths, tied ones following, which leave so many parameters."""
    widths, scores = follow_ties(graph, widths), {g.name: torch.zeros(g.channels) for g in graph.groups}
    plan = make_plan(graph, scores, widths, criterion="test", reasons=dict.fromkeys(widths, ""))
    return apply_plan(yolo, plan).after.parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", NANOS)
def test_ultralytics_alone_goes_on_from_every_family_and_task(name: str, tmp_path: Path) -> None:
    yolo, data = untrained(name, tmp_path)
    assert_ultralytics_alone_goes_on_from(yolo, prune(yolo, 0.5, layers="all").after.parameters, data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo26n-pose", *DEEP])
def test_ultralytics_alone_goes_on_from_fewer_blocks(name: str, tmp_path: Path) -> None:
    """Where all widths, bins too, and all repeats were cut by half; of one, none is left."""
    yolo, data = untrained(name, tmp_path)
    graph = trace_channels(yolo.model, "all", depth=True)
    half = (w for w in graph.widths if w.bins or (w.is_repeats and w.least == 0))
    fewer = {width.name: width.channels // 2 for width in half}
    parameters = cut_to(yolo, graph, uniform_widths(graph, 0.5) | fewer)
    assert {f"d{i}": len(yolo.model.model[i].m) for i in (2, 4, 6, 8) if f"d{i}" in fewer}.items() <= fewer.items()
    assert yolo.model.model[-1].reg_max == fewer.get("reg_max", 1)
    assert_ultralytics_alone_goes_on_from(yolo, parameters, data, tmp_path)


def untrained(name: str, tmp_path: Path) -> tuple[Any, Path]:
    """A `YOLO` with random weights, and a data set for it."""
    task = guess_model_task(yaml_model_load(f"{name}.yaml"))
    data = shapes_dataset(tmp_path / "shapes", train=8, val=4, imgsz=64, task=task)
    return load_model(save_untrained(task, tmp_path / "full.pt", name=name)), data


@pytest.fixture
def pruned(checkpoint: Path, tmp_path: Path) -> tuple[Path, int]:
    """A pruned checkpoint of the shapes' classes, and its number of parameters."""
    yolo = load_model(checkpoint)
    parameters = prune(yolo, 0.5).after.parameters
    yolo.save(tmp_path / "pruned.pt")
    return tmp_path / "pruned.pt", parameters


@pytest.mark.slow
def test_ultralytics_alone_tunes_it(pruned: Any, shapes: Path, tmp_path: Path) -> None:
    checkpoint, parameters = pruned
    found = result(stock(TUNE, str(checkpoint), str(shapes), str(tmp_path / "runs"), folder=tmp_path))
    assert found["failed"] == [None, None]
    assert "tune/weights/best.pt" in found["sizes"] and set(found["sizes"].values()) == {parameters}


@pytest.mark.slow
def test_ultralytics_alone_tracks_with_it(pruned: Any, shapes: Path, tmp_path: Path) -> None:
    checkpoint, parameters = pruned
    fetch = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "lap"), "lap"]
    if find_spec("lap") is None and subprocess.run(fetch, check=False).returncode:
        pytest.skip("lap, which Ultralytics tracks with, is not installed, and pip can't fetch it")
    image = next((shapes.parent / "images" / "val").iterdir())
    (tmp_path / "frames").mkdir()
    for number in range(4):
        shutil.copy(image, tmp_path / "frames" / f"{number}.png")
    thresholds = dict.fromkeys(("track_high_thresh", "track_low_thresh", "new_track_thresh"), 0.0)
    tracker = YAML.load(ROOT / "cfg" / "trackers" / "bytetrack.yaml") | thresholds
    (tmp_path / "tracker.yaml").write_text(yaml.safe_dump(tracker))
    arguments = [str(checkpoint), str(tmp_path / "frames"), str(tmp_path / "tracker.yaml")]
    found = result(stock(TRACK, *arguments, folder=tmp_path, packages=tmp_path / "lap"))
    assert len(found["ids"]) == 4 and found["ids"][0] and all(ids == found["ids"][0] for ids in found["ids"])
    assert found["size"] == parameters


@pytest.mark.slow
def test_ultralytics_alone_benchmarks_it(pruned: Any, shapes: Path, tmp_path: Path) -> None:
    checkpoint, parameters = pruned
    found = result(stock(BENCHMARK, str(checkpoint), str(shapes), str(tmp_path), folder=tmp_path))
    assert found == {"status": {"-": ["✅"], "onnx": ["✅"]}, "size": parameters}
