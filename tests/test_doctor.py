"""`depgraph-hsic doctor`: what is wrong is found and told with what to do, whatever is broken."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from depgraph_hsic_only import ensure_nms
from depgraph_hsic_only.cli.main import main
from depgraph_hsic_only.support.checks.check import Check, checked
from depgraph_hsic_only.support.checks.machine import (
    Accelerators,
    check_accelerators,
    check_folder,
    check_memory,
    check_shared_memory,
)
from depgraph_hsic_only.support.checks.packages import (
    Installed,
    Needed,
    check_own,
    check_package,
    check_python,
    check_torchvision,
)
from depgraph_hsic_only.support.checks.torchvision import torchvision_remedy

ROOT = Path(__file__).parents[1]
METADATA = """Metadata-Version: 2.4
Name: depgraph-hsic-only
Version: 0.0.1
Requires-Python: >=3.99
Requires-Dist: torch>=2.6
Requires-Dist: torchvision>=0.21
Requires-Dist: numpy<1
Requires-Dist: no-such-package>=1.2
Requires-Dist: opencv-python>=4.10
Requires-Dist: pyyaml>=6.0
Provides-Extra: openvino
Requires-Dist: no-such-runtime[fast]>=3; extra == "openvino"
Provides-Extra: deploy
Requires-Dist: depgraph-hsic-only[openvino]; extra == "deploy"
Provides-Extra: dev
Requires-Dist: no-such-linter; extra == "dev"
"""


def doctor(folder: Path, *arguments: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": f"{folder / 'stubs'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "depgraph_hsic_only", "doctor", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_what_is_broken_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Broken are torchvision, OpenCV, and with it Ultralytics, the versions of what is installed, and the folder."""
    for name, text in {
        "torchvision/__init__.py": "from torchvision import extension\nraise RuntimeError('operator torchvision::nms')",
        "torchvision/extension.py": "",
        "cv2.py": "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
        "depgraph_hsic_only-0.0.1.dist-info/METADATA": METADATA,
    }.items():
        (tmp_path / "stubs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stubs" / name).write_text(text)
    (tmp_path / "runs").touch()
    code, said = doctor(tmp_path)
    *lines, last = said.splitlines()
    found = {name: (line[:4].strip(), rest) for line in lines for name, _, rest in [line[6:].partition(": ")]}
    assert code == 1 and last.startswith(f"{len(lines)} checks: ")
    assert found["depgraph-hsic-only"][0] == "warn" and "while 0.0.1 is installed" in found["depgraph-hsic-only"][1]
    assert found["python"][0] == "fail" and found["python"][1].endswith("make an environment with Python >=3.99")
    assert found["torch"] == ("ok", version("torch"))
    assert found["torchvision"][0] == "fail" and "(operator torchvision::nms); " in found["torchvision"][1]
    assert found["torchvision"][1].endswith(torchvision_remedy())
    assert found["numpy"] == ("fail", f"{version('numpy')}, which is not <1; pip install 'numpy<1'")
    assert found["no-such-package"] == ("fail", "not installed; pip install 'no-such-package>=1.2'")
    assert found["no-such-runtime"] == ("ok", "not installed, optional; pip install 'no-such-runtime[fast]>=3'")
    assert found["opencv-python"][0] == "fail" and found["opencv-python"][1].endswith("apt install libgl1)")
    assert found["pyyaml"] == ("ok", version("pyyaml")) and "no-such-linter" not in said
    assert found["runs"][0] == "fail" and "Not a directory" in found["runs"][1]
    for name in ("runtimes", "Ultralytics' settings"):  # Ultralytics can't be imported
        assert found[name][0] == "fail" and "could not be looked at (ImportError: libGL.so.1" in found[name][1]


def test_what_is_here_is_told_as_text_and_as_json(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["doctor", "--json"])
    told = json.loads(capfd.readouterr().out)
    assert main(["doctor"]) == code == int(not told["ok"])
    found, lines = {check["name"]: check for check in told["checks"]}, capfd.readouterr().out.splitlines()
    assert [line[6:].partition(": ")[0] for line in lines[:-1]] == [check["name"] for check in told["checks"]]
    own = {Requirement(text).name for text in requires("depgraph-hsic-only") or () if "extra ==" not in text}
    assert own < set(found) and {"python", "device", "machine", "runs", "Ultralytics' settings", "fonts"} < set(found)
    assert found["torchvision"]["status"] == ("fail" if ensure_nms() else "ok")
    assert not told["ok"] or all(check["status"] != "fail" for check in told["checks"])
    assert {check["name"] for check in told["checks"] if check["status"] == "fail"} <= {"torchvision"}, told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.6.0", "0.21.0"), ("2.7.1", "0.22.1"), ("2.9.1", "0.24.1"), ("2.10.0", "0.25.0")],  # as both were released
)
def test_the_command_for_torchvision_names_the_release_and_the_build(torch: str, torchvision: str) -> None:
    command = f"pip install --force-reinstall --no-deps torchvision=={torchvision}"
    assert torchvision_remedy(torch) == command
    assert torchvision_remedy(f"{torch}+cpu").startswith(f"{command}+cpu --index-url URL, ")
    assert torchvision_remedy(f"{torch}+cu126").startswith(f"{command}+cu126 --index-url URL, ")
    for other in (f"{torch}a0+872d972e41.nv24.08", "3.0.0"):  # of which no rule tells
        assert torchvision_remedy(other).startswith("install the torchvision that was built for torch ")


def test_the_command_for_torchvision_agrees_with_what_torchvision_needs() -> None:
    wanted = next(Requirement(text) for text in requires("torchvision") or () if Requirement(text).name == "torch")
    (exact,) = wanted.specifier
    assert torchvision_remedy(exact.version).endswith(f"torchvision=={version('torchvision').partition('+')[0]}")


def test_packages() -> None:
    def check(text: str, *found: str | None, optional: bool = False) -> tuple[str, str, str]:
        told = check_package(Needed(Requirement(text), optional), Installed(*found))
        return told.status, told.found, told.advice

    assert check("torch>=2.6", "2.13.0+cpu") == ("ok", "2.13.0+cpu", "")
    assert check("torch>=2.6", "2.14.0.dev20260101+cu130")[0] == "ok"
    assert check("ultralytics<8.5,>=8.4.183", "8.5.0") == (
        "fail", "8.5.0, which is not <8.5,>=8.4.183", "pip install 'ultralytics<8.5,>=8.4.183'",
    )  # fmt: skip
    assert check("openvino>=2024.6", "2023.1", optional=True)[0] == "warn"
    assert check("onnxruntime>=1.20", None, None, "1.32.0") == ("ok", "1.32.0, from a package of another name", "")
    assert check("onnxruntime>=1.20", None, None, "1.2.0")[0] == "fail"
    assert check("onnx>=1.17", "1.23.2", "bad ELF header")[2] == "pip install --force-reinstall 'onnx>=1.17'"
    assert check("onnx>=1.17", "1.23.2", "libodd.so.3: cannot open shared object file: no")[2].endswith("libodd.so.3")
    needed = Needed(Requirement("torchvision>=0.21"))
    assert check_torchvision(needed, Installed("0.28.0"), "2.13.0").status == "ok"
    beside = check_torchvision(needed, Installed("0.27.0"), "2.13.0")
    assert beside.status == "warn" and beside.advice.endswith("torchvision==0.28.0")
    assert check_python("3.9.1", ">=3.10").status == "fail" and check_python("3.13.0", ">=3.10").status == "ok"
    assert [check_own("1.0", other, "here").status for other in ("1.0", None, "0.9")] == ["ok", "warn", "warn"]


def test_the_machine(tmp_path: Path) -> None:
    gib = 2**30
    assert check_memory(2, 16 * gib, 8 * gib).found == "2 cores, 16.0 GiB of memory, 8.0 GiB of it free"
    assert check_memory(1, 2 * gib, gib).status == "warn" and check_shared_memory(64 << 20).status == "warn"
    devices = {
        "ok": [Accelerators(""), Accelerators("CUDA 13.0", ["H100"]), Accelerators("", mps=True)],
        "warn": [Accelerators("", driver=True), Accelerators("CUDA 13.0", fault="Found no NVIDIA driver")],
        "fail": [Accelerators("CUDA 13.0", ["K80"], fault="no kernel image is available")],
    }
    assert all(check_accelerators(one).status == status for status, ones in devices.items() for one in ones)
    assert check_folder("runs", tmp_path / "not" / "yet", "").status != "fail" and not list(tmp_path.iterdir())
    if Path("/proc/self").exists():  # where even root writes nothing
        check = check_folder("runs", Path("/proc/runs/prune"), "pass another --project")
        assert check.status == "fail" and "can't be written" in check.found and check.advice == "pass another --project"


def test_a_look_that_fails_is_a_check_that_fails() -> None:
    def look() -> Iterator[Check]:
        yield Check("first", "ok", "fine")
        raise ZeroDivisionError("of\ntwo lines")

    first, check = checked("odd", look)
    assert first == Check("first", "ok", "fine")
    assert (check.name, check.status) == ("odd", "fail") and "ZeroDivisionError" in check.found
    assert "\n" not in str(check) and str(check).startswith("fail  odd: could not be looked at")
