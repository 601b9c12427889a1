"""torchvision is replaced where it can't load, once and with a warning, and left alone where it can."""

import subprocess
import sys
from pathlib import Path

import pytest

LOADS = "class ops:\n    nms = 'the real one'\n"
FAILS = {
    "missing operator": "raise RuntimeError('operator torchvision::nms does not exist')",
    "missing library": "raise OSError('libcudart.so.13: cannot open shared object file')",
    "not installed": "raise ModuleNotFoundError('No module named torchvision')",
}
USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from depgraph_hsic_only import ensure_nms, load_model
    load_model("yolov8n-seg.yaml")
    ensure_nms()
ours = [w for w in caught if "torchvision can't be loaded" in str(w.message)]
import torchvision, torchvision.ops
nms = torchvision.ops.nms
"""


def run(torchvision: str, check: str, folder: Path) -> None:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(torchvision)
    (folder / "torchvision" / "ops.py").write_text("nms = 'the real one'\n")
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{USE}\n{check}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("failure", sorted(FAILS))
def test_stands_in_where_torchvision_fails(failure: str, tmp_path: Path) -> None:
    check = """
import torch
assert len(ours) == 1, caught
boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.8, 0.9, 0.3]), 0.5).tolist() == [1, 2]
"""
    run(FAILS[failure], check, tmp_path)


def test_leaves_a_torchvision_that_loads_alone(tmp_path: Path) -> None:
    run("from torchvision import ops", "assert not ours and nms == 'the real one'", tmp_path)
