"""`depgraph-hsic completion bash`: the script by which a shell completes commands, flags and files."""

import argparse
from collections.abc import Callable

import shtab

from depgraph_hsic_only.cli.command import PROGRAM, Command

_SHELLS = ("bash", "zsh")
_EPILOG = f"""\
Completes the installed {PROGRAM}, not python -m depgraph_hsic_only.

examples:
  {PROGRAM} completion bash \\
      > ~/.local/share/bash-completion/completions/{PROGRAM}
  {PROGRAM} completion zsh > "${{fpath[1]}}/_{PROGRAM}"
"""


def completion(whole: Callable[[], argparse.ArgumentParser]) -> Command:
    """The command, for a parser that knows every flag and command.

    Args:
        whole: Makes that parser, which has this command too.
    """

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=_SHELLS, help="whose script to print")

    def run(arguments: argparse.Namespace) -> str:
        return shtab.complete(whole(), arguments.shell)

    return Command("completion", "Print the script for completion in bash or zsh.", _EPILOG, add_arguments, run)
