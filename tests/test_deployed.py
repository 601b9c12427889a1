"""What is deployed: other formats and clocks, each of the file that was asked for, refused where it can't be had."""

import copy
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build, save_untrained
from ultralytics.utils import ROOT as ULTRALYTICS

from depgraph_hsic_only import ConfigError, ExportError, load_model
from depgraph_hsic_only.cli.main import main
from depgraph_hsic_only.evaluation import latency
from depgraph_hsic_only.evaluation.deployed.command import told_seconds
from depgraph_hsic_only.evaluation.deployed.deployment import PRECISIONS, Deployment
from depgraph_hsic_only.evaluation.deployed.formats import FORMATS, export_format, named_formats, verified
from depgraph_hsic_only.evaluation.latency import Told, measure_latency
from depgraph_hsic_only.evaluation.onnx import onnx_input, onnx_precision, open_session
from depgraph_hsic_only.evaluation.validation import Metrics
from depgraph_hsic_only.support.machine import Watch, watched
from depgraph_hsic_only.workflow.config import load_config
from depgraph_hsic_only.workflow.record.rivals import Entrant, runs_int8, time_entrants
from depgraph_hsic_only.yolo.input_shape import InputShape

SHAPE = InputShape(64, 64)


@pytest.mark.parametrize(
    ("printed", "milliseconds"),
    [
        ("12.5", 12.5),
        ("mean=14 best=12.5ms", 12.5),
        ("loading /data/v2/x3.onnx\n(12.5 ms).", 12.5),
        ("latency_ms: 12.5\nfps 80", 12.5),
        ("1.25e1", 12.5),
        ("latency_ms: 12.5 (std 0.4)", 12.5),
        ("latency_ms: 12.5 ± 0.4", 12.5),
        ("Latency_ms = 12.5 ms, 50 runs\nend 2", 12.5),
        ("median = 12.5 ms (99%), 50 runs", 12.5),
        ("latency_ms: 12,5", None),
        ("latency_ms: 1,234.5", None),
        ("latency_ms: 12500 us", None),
        ("latency_ms: nan\nrun 7", None),
        ("12,5", None),
        ("99 %", None),
        ("TensorRT 8.6.1, /tmp/x4.onnx", None),
        ("-3", None),
        ("0", None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_command_prints_milliseconds(printed: str, milliseconds: float | None, tmp_path: Path) -> None:
    (tmp_path / "a b").write_text(printed)
    if milliseconds is None:
        with pytest.raises(ConfigError, match=r"latency.command: expected .* milliseconds, but cat .* printed"):
            told_seconds("cat {model}", tmp_path / "a b", 10)
    else:
        assert told_seconds("cat {model}", tmp_path / "a b", 10) == pytest.approx(milliseconds / 1e3)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-command {model}", r"can't be started \(No such file"),
        ("sh -c 'echo gone >&2; exit 3' {model}", "failed with 3: gone"),
        ("sh -c 'sleep 20 & echo 1' {model}", "took longer than 0.3 s"),  # its child holds the output
        ("sh -c 'echo hello' {model}", "printed 'hello'"),
    ],
)
def test_a_command_that_is_none(command: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"latency.command: .*{message}.*try it by hand"):
        told_seconds(command, tmp_path / "x.onnx", 0.3)


def test_what_can_not_be_had_is_one_line_and_leaves_nothing(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """A command that fails on the file of the unpruned model; a format, or a runtime, whose package is missing."""
    for package in ("openvino", "tensorrt"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    given = ["--pretrained", str(checkpoint), "--data", str(shapes), "--imgsz", "64", "--device", "cpu"]
    given += ["--project", str(tmp_path / "runs"), "train.epochs=0"]
    for word, said in (
        ("latency.command=false {model}", "latency.command: expected .*model.onnx failed with 1"),
        ("export.formats=[onnx,openvino]", "export to openvino failed .*it needs the package openvino"),
        ("latency.runtime=openvino", "latency.runtime: expected .* got openvino .*pip install openvino"),
        ("latency.runtime=tensorrt", "latency.runtime: expected .* got tensorrt .*pip install tensorrt"),
    ):
        assert main([*given, word]) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if "error" in text]
        assert re.search(said, line), line
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_brings_no_command_along(checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any) -> None:
    run, ran = tmp_path / "run", tmp_path / "ran"
    given = {"pretrained": str(checkpoint), "data": str(shapes), "imgsz": 64, "train.epochs": 0}
    config = load_config(None, {**given, "latency.command": f"touch {ran} {{model}}"}).to_dict()
    (run / "weights").mkdir(parents=True)
    (run / "state.json").write_text(json.dumps({"settings": config, "sources": {}, "done": []}))
    assert main(["--resume", str(run)]) == 2 and not ran.exists()
    assert f"latency.command=None instead of 'touch {ran} {{model}}'" in capsys.readouterr().err


def test_settings_that_can_not_be_meant() -> None:
    faults = {
        "latency.runtime": ("onnx", "one of auto, onnxruntime, openvino, tensorrt, torch, got 'onnx'"),
        "latency.precision": (8, "one of float, half, int8, got 8"),
        "latency.threads": (0, "at least 1, or null, got 0"),
        "latency.timeout": (0, "seconds above 0, got 0"),
        "latency.command": ("bench it", r"with {model} in it, .* got 'bench it'"),
        "latency.thread": (1, r"unknown setting \(did you mean 'threads'"),
        "export.formats": (["onnx", "openvin"], r"got 'openvin' \(did you mean 'openvino'"),
        "export.format": ("onnx", r"pass export.formats"),
    }
    for key, (value, message) in faults.items():
        with pytest.raises(ConfigError, match=f"{key}: .*{message}"):
            load_config(None, {key: value})
    assert load_config(None, {"export.formats": "onnx, trt"}).formats == ("onnx", "engine")
    assert named_formats(list(FORMATS)) == tuple(FORMATS)  # all that Ultralytics has
    timed = [load_config(None, {"latency.precision": p}).export.get("quantize") for p in PRECISIONS]
    assert timed == [None, 16, 8]  # what is timed is exported
    assert load_config(None, {"latency.precision": "int8", "export.quantize": 32}).export["quantize"] == 32


def test_a_command_is_given_the_file_that_was_asked_for(tmp_path: Path) -> None:
    network, kept, own = build("n", 5), tmp_path / "kept.onnx", InputShape(64, 96, batch=2)
    for precision, weights in (("half", "float16"), ("int8", "int8")):
        given: dict[str, Any] = {"command": f"sh -c 'cp $0 {kept}; echo 7' {{model}}", "arguments": {"opset": 13}}
        run = Deployment(own, precision=precision, **given).prepare(network, tmp_path / "file")
        assert isinstance(run, Told) and run.seconds() == pytest.approx(0.007)
        assert onnx_precision(kept) == weights and onnx_input(open_session(kept)).shape == own


def test_a_rival_that_can_not_be_made_is_left_out(tmp_path: Path) -> None:
    """The result of a run is worth having without it."""
    way, cpu = Deployment(SHAPE), torch.device("cpu")
    old = replace(way, arguments={"opset": 11})
    with pytest.raises(ConfigError, match=r"export\.opset: expected 13 or later for int8, got 11; leave it out"):
        replace(old, precision="int8").on(cpu)
    with pytest.raises(ConfigError, match=r"export\.opset: expected 13 or later for int8, got 11; leave it out"):
        replace(old, precision="int8", command="bench {model}").on(cpu)
    assert runs_int8(way, cpu) and not runs_int8(old, cpu)
    broken, works = (load_model(save_untrained("segment", tmp_path / f"{name}.pt")) for name in ("broken", "works"))
    next(broken.model.parameters()).data[0] = torch.nan
    said, timed = list[str](), list[str]()
    clock: Any = SimpleNamespace(
        device=cpu, given=way, deployment=way, folder=tmp_path, images=torch.rand(1, 3, 64, 64)
    )
    clock.add = lambda name, _: timed.append(name)
    entrants = [Entrant("broken in int8", broken, 64, "int8"), Entrant("works", works, 64)]
    found = time_entrants(entrants, clock, 64, lambda *_: Metrics({}), said.append)
    assert [entrant.name for entrant, _ in found] == timed == ["works"]
    assert len(said) == 1 and said[0].startswith("broken in int8 was not compared: expected finite activations, got")


@pytest.mark.parametrize("name", ["torchscript", "openvino"])
def test_a_file_of_another_format_is_compared_with_the_model(name: str, tmp_path: Path) -> None:
    if name != "torchscript":
        pytest.importorskip(name)
    yolo = load_model(save_untrained("segment", tmp_path / "tiny.pt"))
    path = export_format(yolo, name, tmp_path / "best", imgsz=SHAPE.size, batch=2, simplify=True)
    pictures = [str(file) for file in sorted((ULTRALYTICS / "assets").glob("*.jpg"))]
    shape = replace(SHAPE, batch=2)
    same = verified(path, name, yolo, pictures, shape)
    assert same.parity is not None and same.parity.ok and same.parity.images == 2 and same.says.startswith("same on 2")
    assert same.size > 10e6 and sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, "tiny.pt"])
    other = copy.deepcopy(yolo)
    other.model.model[-1].cv2[0][-1].bias.data.view(4, -1)[:, 2] += 9
    assert verified(path, name, other, pictures, shape).says.startswith("DIFFERENT")
    file = path if path.is_file() else next(path.glob("*.bin"))
    file.write_bytes(file.read_bytes()[:1000])
    broken = verified(path, name, yolo, pictures, shape)
    assert broken.parity is None and broken.says.startswith("unverified: it can't be run here (")
    with pytest.raises(ExportError, match="paddle: Ultralytics has no dynamic for it, got dynamic=True"):
        export_format(yolo, "paddle", tmp_path / "best", imgsz=(64, 64), dynamic=True)


def test_openvino_runs_onnx_files_of_every_precision(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    for precision in ("float", "half", "int8"):
        deployment = Deployment(SHAPE, "openvino", precision, threads=1)
        run = deployment.prepare(build("n", 5), tmp_path / precision)
        assert callable(run) and {value.shape[-1] for value in run().values()} == {84, 16}  # type: ignore[attr-defined]
        assert deployment.key(torch.device("cpu")) in ("openvino", f"openvino {precision}")


def test_a_busy_machine_is_said() -> None:
    """Cores that other processes use count where they are needed; this process's own, and its children's, do not."""
    cores = os.cpu_count() or 1
    assert Watch(cores).warning(1) and Watch(0.2 * cores).warning(None) and Watch(0.0).warning(None) is None
    assert Watch(cores - 1.5).warning(1) is None
    endless = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with watched() as busy:
            time.sleep(0.4)
    finally:
        endless.kill()
        endless.wait()
    with watched() as own:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.4:
            pass
    # Whatever else runs here, the loop of another process counts, and that of this one does not.
    assert 0.1 < busy.others <= cores + 0.1 and own.others <= cores - 0.1


def test_a_short_call_is_timed_with_its_data_in_the_caches(monkeypatch: Any) -> None:
    """By a clock of its own: after another call each takes 1 ms more; a long one, of 200 ms, is made once a round."""
    clock, made = [0.0], list[str]()

    def call(name: str, takes: float) -> Any:
        def run() -> None:
            clock[0] += takes + 0.001 * (made[-1:] != [name])
            made.append(name)

        return run

    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    found = measure_latency({"full": call("full", 0.010), "cut": call("cut", 0.004), "large": call("large", 0.2)})
    medians = {name: pytest.approx(of.median) for name, of in found.items()}
    assert medians == {"full": 10.0, "cut": 4.0, "large": 201.0}
    assert {name: made.count(name) for name in found} == {"full": 46, "cut": 46, "large": 24}


def test_what_says_its_own_duration_is_asked_in_turns() -> None:
    asked: list[str] = []
    runs: dict[str, Any] = {name: Told(lambda name=name: asked.append(name) or 0.5) for name in ("full", "cut")}
    runs["here"] = lambda: asked.append(str(torch.get_num_threads()))
    before = torch.get_num_threads()
    found = measure_latency(runs, threads=before + 1)
    assert found["full"] == found["cut"] == latency.Latency(500.0, 500.0, 500.0) and torch.get_num_threads() == before
    assert [name for name in asked if name in runs] == ["full", "cut"] * 5 and set(asked) == {
        *runs,
        str(before + 1),
    } - {"here"}
