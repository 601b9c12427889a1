"""The command line: three ways in, every mistake one line on stderr, exit code 2, nothing left behind; completion."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import guess_model_task, yaml_model_load

from depgraph_hsic_only.cli.command import PROGRAM
from depgraph_hsic_only.cli.main import _COMMANDS, DEMO_TASKS, _demo_settings, _parser, main
from depgraph_hsic_only.criteria import list_criteria
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.workflow.config import load_config
from depgraph_hsic_only.yolo.tasks import TASKS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Path:
    """A folder with a good checkpoint and data set, and with bad ones."""
    folder: Path = tmp_path_factory.mktemp("files")
    yolo = YOLO("yolov8n-seg.yaml")
    yolo.save(folder / "good.pt")
    good = shapes_dataset(folder / "shapes", train=4, val=2, imgsz=64)
    keys = yaml.safe_load(good.read_text())
    eighty = {**keys, "names": {i: f"class {i}" for i in range(80)}}
    (folder / "good.yaml").write_text(yaml.safe_dump(eighty))
    (folder / "five.yaml").write_text(yaml.safe_dump(keys))
    (folder / "gone.yaml").write_text(yaml.safe_dump({**keys, "path": str(folder / "gone")}))
    (folder / "no_val.yaml").write_text(yaml.safe_dump({k: v for k, v in eighty.items() if k != "val"}))
    for name, label in (("no_images", None), ("boxes", "0 0.5 0.5 0.2 0.2\n"), ("unlabelled", "")):
        for split in ("train", "val"):
            (folder / name / "images" / split).mkdir(parents=True)
            (folder / name / "labels" / split).mkdir(parents=True)
            if label is not None:
                image = next((folder / "shapes" / "images" / split).iterdir())
                (folder / name / "images" / split / image.name).write_bytes(image.read_bytes())
                (folder / name / "labels" / split / f"{image.stem}.txt").write_text(label)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**eighty, "path": str(folder / name)}))
    (folder / "list.yaml").write_text("- a\n")
    (folder / "tab.yaml").write_text("\timgsz: 64\n")
    (folder / "text.pt").write_text("no checkpoint")
    (folder / "in_the_way").write_text("a file")
    YOLO("yolov8n-pose.yaml").save(folder / "pose.pt")
    return folder


def mistake(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda folder: [a.replace("@", f"{folder}/") for a in arguments]


GOOD = ("--pretrained", "@good.pt", "--data", "@good.yaml", "train.epochs=0", "--imgsz", "64", "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (mistake(*GOOD, "--data", "@missing.yaml"), "expected a data set"),
        (mistake(*GOOD, "--data", "@gone.yaml"), "expected a data set"),
        (mistake(*GOOD, "--data", "@no_val.yaml"), "val"),
        (mistake(*GOOD, "--data", "@no_images.yaml"), "got no images"),
        (mistake(*GOOD, "--data", "@boxes.yaml"), "boxes only"),
        (mistake(*GOOD, "--data", "@unlabelled.yaml"), "without labels"),
        (mistake(*GOOD, "--data", "@list.yaml"), "expected a data set"),
        (mistake(*GOOD, "--data", "@five.yaml"), "80 classes and the data set 5"),
        (mistake(*GOOD, "fine_tune.distill_model=@text.pt"), "text.pt: expected a YOLO checkpoint"),
        (mistake(*GOOD, "--imgsz", "-5"), "imgsz: expected"),
        (mistake(*GOOD, "--ratio", "1.2"), "0 <= ratio < 1"),
        (mistake(*GOOD, "--ratio", "nan"), "0 <= ratio < 1"),
        (mistake(*GOOD, "--target", "params=1.2"), "no share in (0, 1]"),
        (mistake(*GOOD, "--target", "parms=0.8"), "did you mean 'params'"),
        (mistake(*GOOD, "--target", "gmacs=0.5", "train.epochs=0"), "0.726 of the multiply-adds are left"),
        (mistake(*GOOD, "--target", "gmacs=0.8", "--threshold", "0.1"), "leave all but one out"),
        (mistake(*GOOD, "--target", "params=9M,gmacs=20G"), "3.41M parameters and 0.06001G multiply-adds at 64 px"),
        (mistake(*GOOD, "--ratio", "0.5", "prune.target=gmacs=0.8"), "got ratio=0.5 and target='gmacs=0.8'; leave all"),
        (mistake(*GOOD, "prune.max_ratio=2"), "max_ratio: expected a share in [0, 1]"),
        (mistake(*GOOD, "--device", "99"), "device: expected"),
        (mistake(*GOOD, "--criterion", "magnitud"), "did you mean 'magnitude'"),
        (mistake(*GOOD, "--project", "@in_the_way/runs"), "project: expected a folder"),
        (mistake(*GOOD, "--project", "@in_the_way"), "project: expected a folder"),
        (mistake(*GOOD, "prune.layers=[3,44]"), "got 44"),
        (mistake(*GOOD, "train.epoch=3"), "did you mean 'epochs'"),
        (mistake(*GOOD, "epochs"), "key=value"),
        (mistake(*GOOD, "prune.ratoi=0.3"), "did you mean 'ratio'"),
        (mistake(*GOOD, "fine_tune.epoch=3"), "did you mean 'epochs'"),
        (mistake("info", "@missing.pt"), "no such file"),
        (mistake("info", "@text.pt"), "could not be loaded"),
        (mistake("info", "@good.pt", "--imgsz", "8"), "imgsz: expected"),
        (mistake(*GOOD, "--cfg", "@list.yaml"), "got a list"),
        (mistake(*GOOD, "--cfg", "@tab.yaml"), "expected YAML"),
        (mistake(*GOOD, "--cfg", "@missing.yaml"), "there is none"),
        (mistake(*GOOD, "--pretrained", "@missing.pt"), "no such file"),
        (mistake(*GOOD, "--pretrained", "@text.pt"), "could not be loaded"),
        (mistake(*GOOD, "--pretrained", "@pose.pt"), "expected keypoints, as the model is for poses"),
        (mistake(*GOOD, "train.pose=8", "train.epochs=1"), "train.pose: only trainings of models for pose read it"),
        (mistake(*GOOD, "--pretrained", "@"), "got a folder"),
    ],
)
def test_mistakes(
    arguments: Callable[[Path], list[str]], message: str, files: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(p for p in files.rglob("*") if p.suffix != ".cache")
    code = main(arguments(files))
    captured = capsys.readouterr().err
    assert code == 2
    assert captured.count("\n") == 1 and message in captured, captured
    assert list(tmp_path.iterdir()) == []
    assert sorted(p for p in files.rglob("*") if p.suffix != ".cache") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colour", "red"], "unknown argument '--colour'"),
        (["--imgsz", "abc"], "--imgsz: invalid int value: 'abc'"),
        (["--ratio", "abc"], "--ratio: invalid float value: 'abc'"),
        (["--ratio"], "--ratio: expected one argument"),
        (["--pretrianed", "x.pt"], "'--pretrianed' (did you mean '--pretrained'?)"),
        (["--pretrianed=x.pt", "train.epochs=0"], "'--pretrianed' (did you mean '--pretrained'?)"),
        (["-pretrained", "x.pt"], "'-pretrained' (did you mean '--pretrained'?)"),
        (["--pre", "x.pt"], "'--pre' (did you mean '--pretrained'?)"),  # a shortened flag is a mistake
        (["inof", "x.pt"], "'inof' (did you mean 'info'?)"),
        (["x.pt", "--ratio", "0.3"], "expected a command (info,"),
        (["info"], "required: model.pt"),
        (["info", "--jsno", "x.pt"], "'--jsno' (did you mean '--json'?)"),
        (["info", "x.pt", "y.pt"], "unknown argument 'y.pt'"),
        (["completion", "fish"], "choose from 'bash', 'zsh'"),
        (["--task", "pose"], "expected --task with --demo only"),
        (["--demo", "--task", "poses"], "choose from 'segment', 'detect', 'pose', 'obb'"),
    ],
)
def test_mistaken_flags_and_commands_leave_with_2(arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and "error: " in error and message in error, error


@pytest.mark.parametrize("command", [[], *([name] for name in _COMMANDS)])
def test_help_fits_a_terminal_and_has_examples_that_parse(command: list[str], monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 0 and len(lines) <= 43
    assert all(len(line) <= 80 for line in lines), max(lines, key=len)
    examples = [line.split() for line in lines if line.startswith(f"  {PROGRAM} ")]
    assert len(examples) >= (1 if command else 3)
    for words in examples:
        given = words[1 : next((i for i, word in enumerate(words) if word in {"|", ">", "\\"}), None)]
        if command:
            _COMMANDS[command[0]].parser().parse(given[1:])
        else:
            _parser().parse(given)
    assert command or all(f"  {name} " in "\n".join(lines) for name in _COMMANDS)


DRIVE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$(complete -p depgraph-hsic | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_in_bash(tmp_path: Path, capsys: Any) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "here" / "runs").mkdir(parents=True)
    for name in ("a.pt", "b.yaml", "c.txt", "runs/best.pt"):
        (tmp_path / "here" / name).touch()

    def completed(*words: str) -> set[str]:
        command = ["bash", "-c", DRIVE, "bash", str(tmp_path / "script"), "depgraph-hsic", *words]
        done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert completed("") == set(_COMMANDS)
    assert completed("inf") == {"info"}
    assert completed("--pre") == {"--pretrained"}
    assert completed("--pretrained", "a.pt", "train.epochs=0", "--dry") == {"--dry-run"}
    assert completed("--criterion", "") == set(list_criteria())
    assert completed("--pretrained", "") == {"a.pt", "b.yaml", "runs"}
    assert completed("--cfg", "") == {"b.yaml", "runs"}
    assert completed("--project", "") == {"runs"}
    assert completed("info", "runs/") == {"runs/best.pt"}
    assert completed("info", "a.pt", "--j") == {"--json"}
    assert completed("completion", "") == {"bash", "zsh"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_the_script_for_zsh_is_one(tmp_path: Path, capsys: Any) -> None:
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "_depgraph-hsic").write_text(capsys.readouterr().out)
    load = "autoload -Uz compinit; compinit -u -d $PWD/dump; autoload +X _depgraph-hsic; echo $_comps[depgraph-hsic]"
    command = ["zsh", "-f", "-c", f"fpath=($PWD $fpath); {load}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("_depgraph-hsic\n", "")


@pytest.mark.parametrize("command", [["-m", "depgraph_hsic_only"], [str(ROOT / "prune.py")]])
def test_dry_run_prints_full_figures_and_writes_nothing(command: list[str], files: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "30", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, *command, "--pretrained", str(files / "good.pt"), "--dry-run", "--ratio", "0.5"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for figure in ("3,409,968", "2,397,448", "6.001", "4.763", "256", "128", "27.4%"):
        assert figure in done.stdout, done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_dry_run_for_a_target_says_that_its_scan_is_quick(
    files: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(files.rglob("*"))
    given = [a.replace("@", f"{files}/") for a in GOOD]
    assert main([*given, "--dry-run", "--target", "gmacs=0.8", "prune.layers=all"]) == 0
    said = capsys.readouterr().out
    assert "quick scan (4 images" in said and "prototypes" in said and "Nothing was written" in said
    assert list(tmp_path.iterdir()) == [] and sorted(files.rglob("*")) == before


@pytest.mark.slow
def test_the_demo_for_a_target_of_latency(shapes: Path, tmp_path: Path, capsys: Any) -> None:
    """End to end, by the clock of a command that sleeps by the size of its file; what is given goes over the demo's."""
    judge = tmp_path / "judge of files.sh"
    judge.write_text('size=$(wc -c < "$1"); sleep 0.0$((size / 1000000)); echo "latency_ms: $size"; echo 2 GB')
    given = ["--data", str(shapes), "--project", str(tmp_path), "--imgsz", "64", "--workers", "0", "--device", "cpu"]
    given += ["train.epochs=1", "fine_tune.epochs=0", "nbs=8", "fine_tune.lr0=0.0005", "--target", "latency=0.95"]
    given += ["--axes", "width", "prune.layers=[8]", "prune.recover=none", "calibration.images=3"]
    assert main(["--demo", *given, f"latency.command=sh '{judge}' {{model}}"]) == 0
    said, run = capsys.readouterr(), tmp_path / "demo"
    assert "starting export" not in said.out + said.err  # what Ultralytics says while the clock runs
    assert "of the unpruned model's time" in (run / "run.log").read_text()
    trained = yaml.safe_load((run / "train" / "args.yaml").read_text())
    assert [trained[key] for key in ("imgsz", "nbs", "epochs", "lr0", "cls", "batch")] == [64, 8, 1, 0.002, 1.0, 4]
    tuned = yaml.safe_load((run / "args.yaml").read_text())["fine_tune"]
    assert (tuned["lr0"], tuned["cls"], tuned["nbs"]) == (0.0005, 1.0, 8) and "imgsz" not in tuned
    widths = {w["name"]: w for w in json.loads((run / "plan.json").read_text())["widths"]}
    assert any(w["after"] < w["before"] for w in widths.values())
    report = json.loads((run / "report.json").read_text())
    stages = {stage["name"]: stage for stage in report["stages"]}
    took = {name: stage["latency_ms"]["command"] for name, stage in stages.items()}
    assert took["pruned"] == (run / "weights" / "best.onnx").stat().st_size <= 0.951 * took["trained"]
    share = took["pruned"] / took["trained"]
    measured = {w["reason"].partition("measured ")[2][:5] for w in widths.values() if "measured" in w["reason"]}
    assert [float(text) for text in measured] == [pytest.approx(share, abs=1e-3)]
    assert report["latency"]["runtime"] == "command" and "by command" in RunReport.load(run).summary()
    best = YOLO(run / "weights" / "best.pt").model
    assert stages["pruned"]["parameters"] == sum(p.numel() for p in best.parameters()) < stages["trained"]["parameters"]
    assert stages["trained"]["latency_ms"]["onnxruntime"] > 0 < stages["pruned"]["latency_ms"]["onnxruntime"]


@pytest.mark.slow
def test_the_demo_of_every_task(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert tuple(TASKS) == DEMO_TASKS
    monkeypatch.chdir(tmp_path)
    for task in DEMO_TASKS:
        settings = load_config(None, _demo_settings(task))
        assert settings.data == "shapes" and guess_model_task(yaml_model_load(settings.pretrained)) == task
        assert ("flipud" in settings.train) == (task != "pose")  # which would turn top and bottom over
    assert main(["--demo", "--task", "obb", "--dry-run", "--axes", "width"]) == 0
    assert "Nothing was written" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_version(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and "depgraph_hsic_only 0." in capsys.readouterr().out


WITHOUT_TORCH = """
import sys
from depgraph_hsic_only.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as left:
    code = left.code
assert code == int(sys.argv[1]), code
heavy = {"torch", "ultralytics", "matplotlib", "numpy", "cv2"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["completion", "bash"], 0),
        *(([name, "--help"], 0) for name in _COMMANDS),
        (["--colour", "red"], 2),
        (["inof"], 2),
        (["info", "--jsno", "x.pt"], 2),
    ],
)
def test_what_needs_no_model_is_answered_without_torch(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(code), *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["completion", "bash"], ["--version"], ["info", "missing.pt"]])
def test_warnings_are_shown_as_before_afterwards(arguments: list[str], capsys: Any) -> None:
    show, filters = warnings.showwarning, list(warnings.filters)
    with contextlib.suppress(SystemExit):
        main(arguments)
    assert warnings.showwarning is show and warnings.filters == filters


LOUD_IMPORTS = """
import sys, warnings
from depgraph_hsic_only.cli import main
class Loud:
    def find_spec(self, *_):
        warnings.warn("old", FutureWarning, stacklevel=1)
sys.meta_path.insert(0, Loud())
sys.exit(main(["info", "--json", sys.argv[1]]))
"""


def test_imports_that_warn_leave_stdout_to_the_answer(files: Path) -> None:
    options = ["-W", "ignore", "-W", "once::FutureWarning"]
    command = [sys.executable, *options, "-c", LOUD_IMPORTS, str(files / "good.pt")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["parameters"] and "warning: old" in done.stderr, done.stderr
