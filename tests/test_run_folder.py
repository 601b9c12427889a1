"""A run's folder: its name counts as Ultralytics' does, and a value of it makes nothing."""

from pathlib import Path

import pytest
from ultralytics.utils.files import increment_path

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.workflow.run_folder import RunFolder


@pytest.mark.parametrize("name", ["exp", "exp.v1", "a.b/exp"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_names_count_as_ultralytics_does(name: str, kind: str, tmp_path: Path) -> None:
    for number in range(3):
        expected = increment_path(tmp_path / name)
        if number == 0 and kind == "file":
            expected.parent.mkdir(parents=True, exist_ok=True)
            expected.touch()
            continue
        assert RunFolder.create(tmp_path, name).path == expected
        assert sorted(path.name for path in expected.iterdir()) == ["plots", "weights"]


def test_a_folder_may_be_taken_as_it_is_and_a_file_may_not(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path, "exp", exist_ok=True)
    assert RunFolder.create(tmp_path, "exp", exist_ok=True) == first
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="expected a folder that can be made"):
        RunFolder.create(tmp_path, "file", exist_ok=True)


def test_a_value_makes_no_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "exp")
    assert folder.weights == tmp_path / "exp" / "weights" and not any(tmp_path.iterdir())


def test_what_a_kill_has_left_goes_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "exp")
    kept = [folder.weights / name for name in (".DS_Store", "best.onnx")]
    left = [folder.weights / name / "file.onnx" for name in (".export-a1", ".quantize-b2")]
    for file in (*kept, *left, half := folder.path / ".report.json.1.tmp"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with folder.locked():
        assert not half.exists() and {path.name for path in folder.weights.iterdir()} == {path.name for path in kept}
