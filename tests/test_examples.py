"""The examples and the documentation: what newcomers open first must run as it stands."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ultralytics import YOLO

import depgraph_hsic_only
from depgraph_hsic_only import load_model, prune
from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.criteria import registry

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(file.stem for file in EXAMPLES.glob("*.ipynb"))


def example(name: str) -> ModuleType:
    """An example as a module, run afresh."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that can import this package, wherever it runs."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "YOLO_AUTOINSTALL": "false", **environment}
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def criterion_example() -> Iterator[ModuleType]:
    yield example("custom_criterion")
    del registry._registry["geometric_median"]  # which it registers


def test_the_custom_criterion_is_the_geometric_median(criterion_example: ModuleType) -> None:
    graph = trace_channels(YOLO("yolov8n-seg.yaml").model, "all")
    scores = {group.name: criterion_example.geometric_median(group) for group in graph.groups}
    assert all(s.shape == (g.channels,) for s, g in zip(scores.values(), graph.groups, strict=True))
    filters = graph.model.model[3].conv.weight.detach()
    expected = [sum(float(torch.linalg.norm(a - b)) for b in filters) for a in filters]
    torch.testing.assert_close(scores["model.3"], torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_the_custom_criterion_ranks_otherwise(criterion_example: ModuleType, shapes: Path, capsys: Any) -> None:
    assert criterion_example.main([]) == 0
    shares = dict(re.findall(r"^(\w+): keeps (\d+)%", capsys.readouterr().out, re.MULTILINE))
    assert shares["magnitude"] == "100" and int(shares["random"]) < int(shares["geometric_median"]) < 100
    assert criterion_example.main(["--weights", "missing.pt"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_custom_pruner_cuts_by_two_amounts(checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["--data", str(shapes), "--project", str(tmp_path), "--train-epochs", "0", "--epochs", "0"]
    main = example("custom_pruner").main
    assert main(["--pretrained", str(checkpoint), *arguments]) == 0
    widths = json.loads((tmp_path / "exp" / "report.json").read_text())["widths"]
    assert (widths["before"]["npr"], widths["after"]["npr"]) == (64, 32)
    assert (widths["before"]["w8"], widths["after"]["w8"]) == (256, 224)
    assert YOLO(tmp_path / "exp" / "weights" / "best.pt").model.model[8].cv2.conv.out_channels == 224
    assert "prototypes: " in capsys.readouterr().out
    assert main(["--pretrained", str(tmp_path / "missing.pt"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def code_of(notebook: str) -> list[dict[str, Any]]:
    """The code cells of a notebook, as they are committed."""
    cells = json.loads((EXAMPLES / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebooks_are_committed_without_outputs(notebook: str) -> None:
    code = code_of(notebook)
    assert len(code) > 5 and all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_code_of_notebooks_compiles_and_imports_what_exists(notebook: str) -> None:
    lines = [line for cell in code_of(notebook) for line in (*cell["source"], "\n") if not line.startswith("%")]
    module = ast.parse("".join(lines))
    imports = [node for node in ast.walk(module) if isinstance(node, ast.Import)]
    names = [
        (node.module, name.name) for node in ast.walk(module) if isinstance(node, ast.ImportFrom) for name in node.names
    ]
    assert any(source == "depgraph_hsic_only" for source, _ in names)
    for node in imports:
        assert all(importlib.import_module(name.name) for name in node.names)
    for source, name in names:
        assert source is not None and hasattr(importlib.import_module(source), name), f"{source}.{name}"


def executed(notebook: str, folder: Path) -> tuple[str, int]:
    """What a notebook prints, with tables as text, and how many pictures it shows, where it is run in a folder."""
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    (folder / "notebook.ipynb").write_bytes((EXAMPLES / f"{notebook}.ipynb").read_bytes())
    command = ("nbconvert", "--to", "notebook", "--execute", "notebook.ipynb", "--output", "done.ipynb")
    run("jupyter", *command, cwd=folder, XDG_CACHE_HOME=str(folder / "cache"))
    cells = json.loads((folder / "done.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    texts = (output.get("text", output.get("data", {}).get("text/plain", "")) for output in outputs)
    return "\n".join(map("".join, texts)), sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path: Path) -> None:
    text, pictures = executed("quickstart", tmp_path)
    assert pictures == 3 and text.count("Cost by part") == 1
    maps = {stage: float(value) for stage, value in re.findall(r"(\w[\w ]*): mask mAP50-95 (\S+)", text)}
    assert maps["original"] > 0.4 and maps["as cut"] < maps["recovered"]
    assert maps["recovered"] > 0.8 * maps["original"]
    before, after = re.search(r"([\d,]+) after training", text), re.search(r"([\d,]+) parameters; they were", text)
    assert before and after and before[1] == after[1]


@pytest.mark.slow
def test_the_notebook_on_own_data_runs(tmp_path: Path) -> None:
    text, pictures = executed("own_data", tmp_path)
    assert pictures == 3 and "200 images to train on, 60 to validate on" in text
    assert text.count("What else costs as little") == 1
    files = re.findall(r"^(\S+) \((\w+)\): (\S+) MB, (\S+) ms", text, re.MULTILINE)
    size = {precision: float(mb) for _, precision, mb, _ in files}
    assert set(size) == {"float32", "int8"} and size["int8"] < 0.5 * size["float32"]
    report = depgraph_hsic_only.RunReport.load(tmp_path / "runs" / "own_data" / "half")
    assert report.after.gmacs <= 0.51 * report.before.gmacs and report.rivals
    assert report.after.map50_95["mask"] > 0.7 * report.before.map50_95["mask"] > 0.2
    assert all(float(ms) > 0 for *_, ms in files) and (file := report.files[-1]).loss is not None and file.loss < 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # OpenVINO and NNCF have warnings of their own
def test_deployed_forms_stand_side_by_side(checkpoint: Path, shapes: Path, tmp_path: Path, capsys: Any) -> None:
    yolo = load_model(checkpoint)
    prune(yolo, 0.5)
    yolo.save(tmp_path / "pruned.pt")
    module = example("deploy")
    common = ["--data", str(shapes), "--imgsz", "64", "--images", "8", "--out", str(tmp_path / "out")]
    assert module.main(["--weights", str(tmp_path / "pruned.pt"), "--unpruned", str(checkpoint), *common]) == 0
    out = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for line in out.splitlines() if len(cells := re.findall(r"[^|]+", line)) == 7}
    rows = {
        name.strip(): [float(cell) for cell in cells] for name, cells in rows.items() if cells[0].strip()[0].isdigit()
    }
    for form in ("PyTorch", "ONNX", "ONNX int8", "OpenVINO", "OpenVINO int8"):
        if module.missing(form):
            assert f"{form} is left out: pip install" in out
            continue
        unpruned, pruned = rows[form][:2]
        assert pruned < unpruned and all(ms > 0 for ms in rows[form][4:])
    assert rows["ONNX int8"][0] < 0.5 * rows["ONNX"][0]
    assert len(YOLO(tmp_path / "out" / "pruned" / "model_int8.onnx", task="segment").names) == 5
    assert module.main(["--weights", "missing.pt", "--unpruned", str(checkpoint), *common]) == 2
    assert "missing.pt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_documentation_builds_and_has_every_public_name(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    run("mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"), cwd=ROOT)
    pages = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html"))
    anchors = {anchor.rsplit(".", 1)[-1] for anchor in re.findall(r'id="(depgraph_hsic_only[\w.]*)"', pages)}
    assert set(depgraph_hsic_only.__all__) - {"__version__", "errors"} <= anchors
    assert set(depgraph_hsic_only.hsic.__all__) - {"CENTERINGS", "KernelLike"} <= anchors
    assert "max_map_drop: null" in pages and "--dry-run" in pages and "make demo" in pages  # settings, flags, README
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', pages)  # nothing is fetched from elsewhere
