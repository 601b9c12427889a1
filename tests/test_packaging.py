"""What is handed out: the built wheel and source distribution, and the files that a repository's host reads."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from depgraph_hsic_only import __version__
from depgraph_hsic_only.cli.main import _COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "depgraph_hsic_only"
DATA = {"py.typed", "__init__.pyi", "default.yaml", "report/page.html.jinja"}
NOT_COPIED = (".git", ".venv*", "runs", "site", "build", "dist", "weights", "*.egg-info", "*.pt", "*.onnx", ".*_cache")
LARGEST = 1_000_000  # bytes of the wheel


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_what_the_host_reads_is_true() -> None:
    citation, project = read("CITATION.cff"), (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(citation[key] for key in ("cff-version", "message", "title", "authors"))  # what the schema requires
    assert citation["version"] == __version__ and f'license = "{citation["license"]}"' in project
    jobs = read(".github/workflows/ci.yml")["jobs"]
    (job,) = jobs.values()
    assert job["strategy"]["matrix"]["python"] == re.findall(r"Python :: (3\.\d+)", project)
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"] and os.access(
        ROOT / ".ci/run", os.X_OK
    )
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        asked = {field["id"]: field["attributes"]["label"] for field in read(str(form))["body"] if "id" in field}
        commands = [label.split()[1:] for label in asked.values() if label.startswith("depgraph-hsic ")]
        assert ["doctor"] in commands and ["info", "MODEL.pt", "--json"] in commands
        for name, *arguments in commands:
            _COMMANDS[name].parser().parse(arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory: Any) -> tuple[Path, Path]:
    """The wheel and the source distribution, built from a copy of the checkout that has been worked in."""
    pytest.importorskip("build", reason="the package build is missing (extra dev)")
    source, made = tmp_path_factory.mktemp("build") / "source", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_COPIED))
    for junk in ("runs/prune/exp/run.log", "site/index.html", "build/lib/old.py", "yolo.pt", "tests/__pycache__/a.pyc"):
        (source / junk).parent.mkdir(parents=True, exist_ok=True)
        (source / junk).touch()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Deprecat" not in done.stdout + done.stderr
    return next(made.glob("*.whl")), next(made.glob("*.tar.gz"))


@pytest.mark.slow
def test_the_wheel_has_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        metadata = next(file.read(name).decode() for name in file.namelist() if name.endswith("/METADATA"))
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    assert names == {f"depgraph_hsic_only/{name}" for name in modules | DATA}
    assert wheel.stat().st_size < LARGEST
    assert set(re.findall(r"^Provides-Extra: (\S+)", metadata, re.MULTILINE)) == {
        "ray", "openvino", "deploy", "docs", "dev",
    }  # fmt: skip


@pytest.mark.slow
def test_the_source_distribution_has_what_is_worked_with_and_no_more(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"tests/conftest.py", "tests/hsic/test_system.py", "default.yaml", "docs/hooks.py", "Makefile"} <= names
    assert {"examples/quickstart.ipynb", "benchmarks/hsic.py", "LICENSE", "CITATION.cff"} <= names
    top = {name.partition("/")[0] for name in names}
    assert not top & {"runs", "site", "build", "yolo.pt", ".git"} and not any("__pycache__" in name for name in names)


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(built: tuple[Path, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(built[0])], check=True)
    (tmp_path / "here").mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "depgraph_hsic_only", *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "PYTHONPATH": str(site)
        }
        return subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)

    assert run("--version").stdout == f"depgraph_hsic_only {__version__}\n"
    assert json.loads(run("info", "yolov8n-seg.yaml", "--json").stdout)["parameters"] == 3_409_968
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").stdout)["checks"]}
    assert checks["depgraph-hsic-only"]["status"] == "ok" and str(site) in checks["depgraph-hsic-only"]["found"]
    settings = ("train.epochs=1", "fine_tune.epochs=0", "prune.recover=none", "--imgsz", "64", "--workers", "0")
    demo = run("--demo", *settings, "calibration.images=4", "--ratio", "0.25")
    assert demo.returncode == 0, demo.stderr
    folder = tmp_path / "here" / "runs" / "prune" / "demo"
    assert (folder / "report.html").stat().st_size > 10_000 and (folder / "weights" / "best.onnx").is_file()
