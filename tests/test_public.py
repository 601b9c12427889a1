"""The public names: what they were, imported when they are used, and known to type checkers."""

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import depgraph_hsic_only
from depgraph_hsic_only import errors

ROOT = Path(__file__).parents[1]
SLOW_TO_READ = (
    "torch.*,torch_pruning.*,ultralytics.*,numpy.*,scipy.*,matplotlib.*,cv2.*,PIL.*,onnx.*,onnxruntime.*,ray.*,rich.*"
)
HEAVY = "{'torch', 'ultralytics', 'matplotlib', 'numpy', 'cv2', 'torch_pruning'} & set(sys.modules)"
NAMES = """
ChannelGroup CheckpointError Comparison ComparisonError ConfigError Criterion DataError DefaultYoloPruner
DefaultYolov8SegPruner YoloPruner ExportError Exported HsicLassoPruner ModelInfo OutOfMemoryError PlanError
PruningError PruningPlan PruningReport Recovery RunReport SHAPES_RECIPE StorageError UnsupportedModelError
Yolov8SegPruner __version__ apply_plan compare describe ensure_nms errors find_dataset hsic list_criteria load_images
load_model plan_pruning prune recover register_criterion score_channels UltralyticsError shapes_dataset write_html
"""


def run(code: str) -> None:
    """Run code in a process that has imported nothing yet."""
    light = f"\ndef assert_light():\n    assert not {HEAVY}, {HEAVY}\n"
    command = [sys.executable, "-c", f"import sys{light}{textwrap.dedent(code)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_public_names_are_these_and_no_modules_that_are_called_alike() -> None:
    assert set(depgraph_hsic_only.__all__) == set(NAMES.split()) == set(dir(depgraph_hsic_only))
    star: dict[str, object] = {}
    exec("from depgraph_hsic_only import *", star)
    for name in depgraph_hsic_only.__all__:
        public = getattr(depgraph_hsic_only, name)
        assert star[name] is public
        assert isinstance(public, ModuleType) == (name in {"errors", "hsic"}), name
        assert not callable(public) or pickle.loads(pickle.dumps(public)) is public
    with pytest.raises(AttributeError, match="prun"):
        depgraph_hsic_only.prun  # type: ignore[attr-defined]  # noqa: B018
    every = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert every <= set(depgraph_hsic_only.__all__)


def test_importing_the_package_imports_nothing_that_takes_long() -> None:
    run(
        """
        import depgraph_hsic_only as d
        from depgraph_hsic_only import ConfigError, PruningError
        assert dir(d) and d.__version__ and d.list_criteria()
        assert_light()
        assert d.hsic.kernel_names() and "torch" in sys.modules
        """
    )


def test_the_names_of_built_in_criteria_are_taken_before_the_criteria_are_imported() -> None:
    run(
        """
        from depgraph_hsic_only import ConfigError, list_criteria, register_criterion
        for name in list_criteria():
            try:
                register_criterion(name)(lambda group: None)
            except ConfigError as error:
                assert f"{name!r}: expected a new name, but it is taken" in str(error)
            else:
                raise AssertionError(name)
        assert_light()
        from depgraph_hsic_only.criteria import create_criterion
        assert all(create_criterion(name) for name in list_criteria())
        """
    )


def test_names_can_be_used_first_by_many_threads_at_once() -> None:
    run(
        """
        import threading
        import depgraph_hsic_only as d
        names = ["prune", "compare", "recover", "HsicLassoPruner", "DefaultYolov8SegPruner", "load_model", "write_html"]
        start, found = threading.Barrier(len(names)), []
        def use(name):
            start.wait()
            found.append(getattr(d, name))
        threads = [threading.Thread(target=use, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len(names) and all(map(callable, found))
        """
    )


def test_the_doors_that_were_promised() -> None:
    from depgraph_hsic_only.html_report import write_html
    from depgraph_hsic_only.utils import conversion, hooks, plots

    assert write_html is depgraph_hsic_only.write_html
    assert all(hasattr(door, name) for door in (conversion, hooks, plots) for name in door.__all__)


def test_type_checkers_see_the_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(
        "from depgraph_hsic_only import SHAPES_RECIPE, __version__, load_model\n"
        "SHAPES_RECIPE['lr0'], __version__.split('.'), load_model('a.pt')\nload_model(3)\n"
    )
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nfollow_imports = silent\n[mypy-{SLOW_TO_READ}]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "user.py"]
    environment = {"MYPYPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    errors_found = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors_found) == 1 and 'user.py:3: error: Argument 1 to "load_model"' in errors_found[0], done.stdout


@pytest.mark.parametrize(("first", "given"), [("depgraph_hsic_only", ""), ("ultralytics", ""), ("torch", "1")])
def test_every_core_is_used_unless_the_environment_says_how_many(first: str, given: str, monkeypatch: Any) -> None:
    """Ultralytics says 1 where nobody says anything."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    expected = given or "os.cpu_count()"
    run(f"""
        import {first}, os
        from depgraph_hsic_only.support.threads import measuring
        import torch, ultralytics
        with measuring():
            assert torch.get_num_threads() == {expected}, torch.get_num_threads()
    """)
