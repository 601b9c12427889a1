"""What README, guides and help tell people to type is taken by the programs; marked slow, it is run on a tiny model.

Commands stand in fences of bash, code in python, settings in yaml; text is what a program prints. A fence that no test
can run says so in a comment right before it, `<!-- not run: the reason -->`; one that needs a package names it,
`<!-- run with: package -->`.
"""

import argparse
import ast
import builtins
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_examples import ROOT, example

from depgraph_hsic_only.cli.command import PROGRAM, given_settings
from depgraph_hsic_only.cli.compare import _SETTINGS
from depgraph_hsic_only.cli.main import _COMMANDS, _FLAGS, _parser, main
from depgraph_hsic_only.comparison.run import _budgets
from depgraph_hsic_only.comparison.study import make_study
from depgraph_hsic_only.criteria import list_criteria, registry
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.training.arguments import parse_override
from depgraph_hsic_only.workflow.config import load_config

FENCE = re.compile(r"(?:<!-- (not run|run with): (\S[^\n]*) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
PREFIXES = (["python", "-m", "depgraph_hsic_only"], ["python", "prune.py"], [PROGRAM])
TARGETS = ("params", "gmacs", "size", "latency")
TINY = (  # what is long in a page, and what it is in a test
    (r"(epochs[=: ]+)(?!0\b)\d+", r"\g<1>1"),
    (r"(seconds=)\d+", r"\g<1>1"),
    (r"--imgsz \d+(?:,\d+)+", "--imgsz 64,32"),
    (r"--seeds \d+", "--seeds 1"),
    (r"((?:params|gmacs)=0\.9)(?:,0\.\d+)+", r"\g<1>"),
    (r"\b(?:640|320)\b", "64"),
)


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page, and the comment before it."""

    where: str
    mark: str
    reason: str
    language: str
    text: str


def _pages() -> dict[str, str]:
    """Every page that is read by people, by its path, and what each command says of itself."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


PAGES = _pages()
FENCES = [
    Fence(f"{page}:{text.count(chr(10), 0, found.start(3)) + 1}", *(part or "" for part in found.groups()))
    for page, text in PAGES.items()
    for found in FENCE.finditer(text)
]
HELP = {PROGRAM: _parser(), **{name: command.parser() for name, command in _COMMANDS.items()}}
FENCES += [
    Fence(f"help of {name}", "", "", "bash", "\n".join(lines).replace("$", ""))
    for name, parser in HELP.items()
    if (lines := re.findall(rf"^  ({PROGRAM}(?:[^\\\n]|\\\n)*)", str(parser.epilog), re.MULTILINE))
]
SHELL = [fence for fence in FENCES if fence.language == "bash"]
PYTHON = sorted({fence.where.partition(":")[0] for fence in FENCES if fence.language == "python"})


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell's lines, without what its output goes to."""
    for line in re.sub(r"[\\|]\n", lambda cut: cut[0].replace("\\", "").replace("\n", " "), text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words = [*lexer, "&&"]
        while words:
            end = words.index("&&")
            command, words = words[:end], words[end + 1 :]
            if command:
                yield command[: min((command.index(w) for w in ("|", ">") if w in command), default=None)]


def arguments_of(words: Sequence[str]) -> list[str] | None:
    """What a command gives to this package's command line; None for other programs."""
    return next((list(words[len(start) :]) for start in PREFIXES if list(words[: len(start)]) == start), None)


def read(words: list[str]) -> bool:
    """Whether a command is of a program that is known here; it must then be one that the program takes."""
    given = arguments_of(words)
    if given is not None:
        _read_own(given)
    elif words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words
    elif words[:2] == ["pip", "install"]:
        project = (ROOT / "pyproject.toml").read_text()
        extras = re.findall(r"\[(\w+)\]", " ".join(words))
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras), words
        assert "-r" not in words or (ROOT / words[words.index("-r") + 1]).is_file(), words
    elif words[0] == "python" and words[1].startswith("examples/"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(_Read):
            patch.setattr(argparse.ArgumentParser, "parse_args", _read_and_leave)
            example(Path(words[1]).stem).main(words[2:])
    else:
        return False
    return True


class _Read(Exception):
    """The arguments of an example were taken."""


def _read_and_leave(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.parse_known_args(argv)[1] and pytest.fail(f"{parser.prog}: {argv}")
    raise _Read


def _read_own(given: list[str]) -> None:
    """Read the arguments of the command line, and the settings among them."""
    if given and given[0] in _COMMANDS:
        arguments = _COMMANDS[given[0]].parser().parse(given[1:])
        if given[0] == "compare":
            settings = given_settings(arguments, _SETTINGS)
            axes = {key: settings.pop(key, None) for key in ("imgsz", "precision")}
            targets = arguments.criteria, arguments.targets, arguments.ratios, arguments.seeds
            make_study(*targets, arguments.cfg, settings, **axes)
            _budgets(arguments.budget)
    else:
        arguments = _parser().parse(given)
        load_config(arguments.cfg, given_settings(arguments, _FLAGS))


@pytest.fixture(autouse=True)
def no_criteria_of_pages() -> Iterator[None]:
    """Criteria that a test registers are gone after it."""
    before = set(list_criteria())
    yield
    for name in set(list_criteria()) - before:
        del registry._registry[name]


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Path:
    """A folder with the files that pages speak of, small, but for the checkpoints."""
    folder: Path = tmp_path_factory.mktemp("documented")
    data = shapes_dataset(folder / "my", train=32, val=6, imgsz=64)
    for name in ("data.yaml", "my.yaml", "other.yaml"):
        shutil.copy(data, folder / name)
    settings = yaml.safe_load((ROOT / "default.yaml").read_text())
    settings |= {
        "data": "my/data.yaml",
        "imgsz": 64,
        "batch": 4,
        "workers": 0,
        "device": "cpu",
        "plots": False,
        "rivals": None,
    }
    for block, key, value in (("train", "epochs", 1), ("fine_tune", "epochs", 1), ("calibration", "images", 8)):
        settings[block][key] = value
    (folder / "default.yaml").write_text(yaml.safe_dump(settings))
    (folder / "my" / "settings.yaml").write_text(_tiny(_settings_of("docs/guides/own-data.md")))
    (folder / "bench.sh").write_text("echo latency_ms: $(wc -c < $1)")
    shutil.copy(next((folder / "my" / "images" / "val").iterdir()), folder / "image.jpg")
    return folder


def _settings_of(page: str) -> str:
    return next(f.text for f in FENCES if f.where.startswith(page) and "fine_tune:" in f.text and f.language == "yaml")


def _tiny(text: str) -> str:
    for long, short in TINY:
        text = re.sub(long, short, text)
    return text


def test_every_fence_is_of_a_kind_that_is_checked() -> None:
    assert len(SHELL) > 15 and len(PYTHON) > 4
    assert {f"help of {name}" for name in HELP} <= {fence.where for fence in SHELL}
    assert {fence.language for fence in FENCES} <= {"bash", "python", "yaml", "text"}
    comments = re.findall(r"<!-- ((?:not run|run with): [^\n]*) -->", "".join(PAGES.values()))
    assert comments == [f"{fence.mark}: {fence.reason}" for fence in FENCES if fence.mark]  # none stands elsewhere


@pytest.mark.parametrize("fence", SHELL, ids=lambda fence: fence.where)
def test_commands_are_taken(fence: Fence, files: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(files)
    for words in commands(fence.text):
        assert read(words) or fence.mark == "not run", f"{words[0]}: what runs this, and is it run?"


def test_what_pages_say_in_passing_is_taken(files: Path, monkeypatch: Any) -> None:
    """Commands, flags and settings within a sentence."""
    monkeypatch.chdir(files)
    flags = {flag for parser in HELP.values() for action in parser._actions for flag in action.option_strings}
    seen = 0
    for page, text in PAGES.items():
        for span in (found[1].replace("\n", " ") for found in SPAN.finditer(FENCE.sub("", text))):
            setting = re.fullmatch(r"([a-z_.]+)=[^\s\"'].*", span)
            if re.match(rf"(?:python|pip|make|{PROGRAM}) \S", span):
                assert all(read(words) for words in commands(span)), (page, span)
            elif span.startswith("--"):
                assert set(re.findall(r"--[\w-]+", span)) <= flags, (page, span)
            elif setting:
                load_config(None, dict([parse_override(f"prune.target={span}" if setting[1] in TARGETS else span)]))
            seen += bool(setting)
    assert seen > 25


@pytest.mark.parametrize("fence", [f for f in FENCES if f.language == "yaml"], ids=lambda fence: fence.where)
def test_settings_are_taken(fence: Fence, files: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(files)
    found = yaml.safe_load(fence.text)
    if "names" in found:
        assert len(find_dataset(found).images("train")) == 32
    else:
        load_config(found)


@pytest.mark.parametrize("page", PYTHON)
def test_code_names_what_there_is(page: str) -> None:
    """Imports are of names that exist, and no name is used that the page has not made."""
    tree = ast.parse("\n".join(f.text for f in FENCES if f.where.startswith(f"{page}:") and f.language == "python"))
    made, used = set(dir(builtins)), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
    assert used <= made


@pytest.fixture(scope="module")
def furnished(files: Path, checkpoint: Path) -> Path:
    """The same with checkpoints, and a run that is over."""
    (files / "runs" / "segment" / "train" / "weights").mkdir(parents=True)
    for name in ("best.pt", "small.pt", "yolov8n-seg.pt", "runs/segment/train/weights/best.pt"):
        shutil.copy(checkpoint, files / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        assert main(["--pretrained", "best.pt", "train.epochs=0", "fine_tune.epochs=0", "prune.recover=none"]) == 0
    return files


@pytest.fixture
def place(furnished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, so that no page's commands meet what another page's have left."""
    yield Path(shutil.copytree(furnished, tmp_path / "here"))
    shutil.rmtree(tmp_path / "here")


def tiny(given: list[str]) -> list[str]:
    """Arguments of the command line with what makes a run short."""
    if given[0] in _COMMANDS:
        return [*given, *(["--cfg", "default.yaml", "calibration.images=8"] if given[0] == "compare" else [])]
    if "--demo" in given:
        return [*given, "--data", "my/data.yaml", "--imgsz", "64", "train.epochs=1", "fine_tune.epochs=1"]
    return [*given, "batch=4", "workers=0", "device=cpu"] if "--cfg" in given else given


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # other runtimes have warnings of their own
@pytest.mark.parametrize("fence", [f for f in SHELL if f.mark != "not run"], ids=lambda fence: fence.where)
def test_commands_run(fence: Fence, place: Path, monkeypatch: Any) -> None:
    if fence.mark:
        pytest.importorskip(fence.reason)
    monkeypatch.chdir(place)
    for words in commands(_tiny(fence.text)):
        given = arguments_of(words)
        code = example(Path(words[1]).stem).main(words[2:]) if given is None else main(tiny(given))
        assert code == 0 or (code == 1 and "doctor" in words), words  # something may be wrong with this machine


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PYTHON)
def test_code_runs(page: str, place: Path, monkeypatch: Any) -> None:
    """The fences of a page, one after the other."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("ultralytics.cfg.ROOT", place / "ultralytics")  # beside which it keeps the runs of tests
    names: dict[str, Any] = {"__name__": page}
    for fence in FENCES:
        if fence.where.startswith(f"{page}:") and fence.language == "python" and not fence.mark:
            exec(compile(_tiny(fence.text), fence.where, "exec"), names)
