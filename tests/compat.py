"""The test suite with the oldest or the newest packages that `pyproject.toml` allows, in an environment of its own.

    python tests/compat.py oldest
    python tests/compat.py newest --keep torch==2.13.0 --keep torchvision==0.28.0

What a machine can't get in that version, a build of PyTorch say, is kept at another one, which is printed.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
TOLD = ("torch", "torchvision", "ultralytics", "torch-pruning", "onnx", "onnxruntime", "numpy")


def constraints(which: str, kept: list[str]) -> list[str]:
    """The versions to hold to, as pip's constraints."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    held = {re.split("[=<>~!]", text)[0] for text in kept}
    oldest = [re.sub(">=([^,]+).*", r"==\1.*", text) for text in dependencies]
    return kept + [text for text in oldest if which == "oldest" and text.partition("==")[0] not in held]


def main() -> int:
    """Install and test; the exit code is that of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["oldest", "newest"])
    parser.add_argument("--keep", action="append", default=[], metavar="PACKAGE==VERSION")
    parser.add_argument("tests", nargs="*", default=["tests"], help="what pytest is given")
    args = parser.parse_args()
    folder = ROOT / f".venv-{args.which}"
    python = folder / "bin" / "python"
    held = folder / "constraints.txt"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    held.write_text("\n".join(constraints(args.which, args.keep)), encoding="utf-8")
    pip = [str(python), "-m", "pip"]
    first = [text for text in held.read_text().splitlines() if text.startswith("torch")] or ["torch", "torchvision"]
    for what in (first, ["--editable", f"{ROOT}[dev]"]):  # PyTorch first: else others ask for another build of it
        subprocess.run([*pip, "install", "--quiet", "--upgrade", "--constraint", str(held), *what], check=True)
    listed = subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True).stdout
    told = [line for line in listed.splitlines() if line.partition("==")[0] in TOLD]
    print("Python", sys.version.split()[0], *told, flush=True)
    # packages of different ages warn of each other
    options = ["-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning"]
    return subprocess.run([str(python), "-m", "pytest", *options, *args.tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
