"""What is changed in other libraries: undone by the last one who needs it, and seen by nobody else.

torchvision is replaced where it can't load, once and with a warning, and left alone where it can.
"""

import io
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from conftest import every
from matplotlib import rcParams
from ultralytics.data import utils as data_utils
from ultralytics.nn import tasks
from ultralytics.utils import TQDM, nms, plotting

from depgraph_hsic_only import load_model
from depgraph_hsic_only.evaluation.validation import Validation, validate_file, validate_model
from depgraph_hsic_only.report.figures.fonts import fonts_for
from depgraph_hsic_only.yolo import patches
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.patches import bars_in_file, patient_nms, safe_load

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


@pytest.mark.parametrize("failure", every(["missing operator"], ["missing library", "not installed"]))
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


def globals_() -> tuple[object, ...]:
    """Everything that is changed."""
    fonts = plotting.check_font, data_utils.check_font, rcParams["font.family"], rcParams["text.parse_math"]
    rules = list(warnings.filters)
    return (
        tasks.SAFE_LOAD,
        os.environ.get("ULTRALYTICS_SAFE_LOAD"),
        nms.non_max_suppression,
        TQDM.__init__,
        fonts,
        rules,
    )


PATCHES: dict[str, tuple[Callable[[], AbstractContextManager[None]], Callable[[], bool]]] = {  # and whether it is there
    "NMS": (patient_nms, lambda: "max_time_img" in getattr(nms.non_max_suppression, "keywords", {})),
    "safe load": (safe_load, lambda: bool(tasks.SAFE_LOAD) and os.environ.get("ULTRALYTICS_SAFE_LOAD") == "1"),
    "unsafe load": (lambda: safe_load(False), lambda: not tasks.SAFE_LOAD),
    "fonts": (lambda: fonts_for({0: "cat"}), lambda: Path(plotting.check_font("Arial.Unicode.ttf")).is_file()),
    "bars": (lambda: bars_in_file(io.StringIO()), lambda: hasattr(TQDM.__init__, "__wrapped__")),
}


@pytest.mark.parametrize("flag", [None, "0"])
@pytest.mark.parametrize("name", PATCHES)
def test_nested_contexts_and_errors_leave_everything_as_it_was(name: str, flag: str | None, monkeypatch: Any) -> None:
    if flag is not None:
        monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", flag)
    patch, is_there = PATCHES[name]
    before = globals_()
    with patch():
        with patch():
            assert is_there()
        assert is_there()
        with pytest.raises(KeyError), patch():
            raise KeyError
        assert is_there()
    assert globals_() == before
    with pytest.raises(KeyError), patch(), patch():
        raise KeyError
    assert globals_() == before


@pytest.mark.parametrize("name", PATCHES)
def test_threads_whose_contexts_overlap_leave_everything_as_it_was(name: str) -> None:
    """The first one in is the first one out: the second one still has what it needs, and puts back the original."""
    patch, is_there = PATCHES[name]
    before = globals_()
    entered, left = threading.Event(), threading.Event()

    def second() -> bool:
        with patch():
            entered.set()
            assert left.wait(30)
            return is_there()

    with ThreadPoolExecutor() as pool:
        with patch():
            found = pool.submit(second)
            assert entered.wait(30)
        left.set()
        assert found.result(30)
    assert globals_() == before


def test_many_threads_at_once_leave_everything_as_it_was() -> None:
    before, start = globals_(), threading.Barrier(8)

    def use(index: int) -> bool:
        start.wait(30)
        good = True
        for _ in range(200):
            with patient_nms(), safe_load(index % 2 == 0), bars_in_file(io.StringIO()):
                good &= bool(tasks.SAFE_LOAD) == (index % 2 == 0) and PATCHES["NMS"][1]()
        return good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))
    assert globals_() == before


def test_a_thread_loads_as_it_says_itself() -> None:
    """A safe context waits for none that isn't, and neither changes what the other thread or a third one does."""
    with ThreadPoolExecutor() as pool:

        def trusted() -> tuple[bool, str | None]:
            with safe_load(False), safe_load(), safe_load(False):
                return bool(tasks.SAFE_LOAD), os.environ.get("ULTRALYTICS_SAFE_LOAD")

        with safe_load():
            assert pool.submit(trusted).result(30) == (False, "1")
            assert tasks.SAFE_LOAD and not pool.submit(lambda: bool(tasks.SAFE_LOAD)).result(30)


def test_bars_go_into_the_innermost_file(capsys: Any) -> None:
    outer, inner = io.StringIO(), io.StringIO()
    with bars_in_file(outer):
        with bars_in_file(inner):
            list(TQDM(range(3), desc="inside", disable=False))
        list(TQDM(range(3), desc="outside", disable=False))
    assert "inside" in inner.getvalue() and "outside" not in inner.getvalue()
    assert "outside" in outer.getvalue() and "inside" not in outer.getvalue()
    assert capsys.readouterr() == ("", "")


def test_detections_that_nms_has_no_time_for_are_told_of(checkpoint: Path, shapes: Path, monkeypatch: Any) -> None:
    def complete() -> list[bool]:
        given: Any = {"device": "cpu", "workers": 0}
        found = validate_model(load_model(checkpoint), str(shapes), Validation(64, 4), **given)
        return [found.complete, validate_file(checkpoint, str(shapes), InputShape(64, 64, batch=4), "segment").complete]

    assert complete() == [True, True]
    monkeypatch.setattr(patches, "_SECONDS_PER_IMAGE", -9.0)  # beside the 2 s that a batch has
    assert complete() == [False, False]
