"""What a command of the command line is, and a parser whose every mistake is one line."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import shtab
from rich.console import RenderableType

from depgraph_hsic_only.support.nearest import nearest

PROGRAM = "depgraph-hsic"
MODEL_FILES = shtab.glob("*.pt", "*.yaml", "*.yml")
Flags = Mapping[str, tuple[str, Callable[[str], Any], str, str]]
"""By flag: the key of the configuration, the type, what the value is called, and the meaning."""
YAML_FILES = shtab.glob("*.yaml", "*.yml")


@dataclass(frozen=True)
class Command:
    """One command: `depgraph-hsic NAME ...`.

    Attributes:
        name: What it is called by.
        summary: One line for the list of commands.
        epilog: What follows the flags in its help: examples.
        add_arguments: Adds its arguments to a parser.
        run: Does it. Returns what is printed: a string as it is, anything else as rich draws it, None for nothing.
    """

    name: str
    summary: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], RenderableType | None]

    def parser(self) -> "Parser":
        """The parser of its arguments."""
        usage = f"{PROGRAM} {self.name} [--flag value ...] [argument ...]"
        parser = Parser(prog=f"{PROGRAM} {self.name}", usage=usage, description=self.summary, epilog=self.epilog)
        self.add_arguments(parser)
        return parser


class Parser(argparse.ArgumentParser):
    """An argument parser that takes flags in full, names the nearest one, and keeps the line breaks of its texts.

    A shortened flag would change its meaning with the next flag that starts alike, so it is a mistake as any other.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **settings)

    def parse(self, given: Sequence[str]) -> argparse.Namespace:
        """The arguments; positional ones may stand between flags. Leaves with code 2 where one is unknown."""
        arguments, unknown = self.parse_known_intermixed_args(list(given))
        if unknown:
            word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            self.error(f"unknown argument {word!r}{self._flag_near(word)}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake."""
        self.exit(2, f"{self.prog}: error: {message}; --help lists what there is\n")

    def _flag_near(self, word: str) -> str:
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        begun = [flag for flag in flags if word.startswith("--") and flag.startswith(word)]
        return nearest(begun[0] if len(begun) == 1 else word, flags)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22)


def add_flags(parser: argparse.ArgumentParser, flags: Flags, completed: Mapping[str, Any]) -> None:
    """Add flags that stand for settings, and say how a shell completes their values."""
    for flag, (_, kind, metavar, meaning) in flags.items():
        action = parser.add_argument(f"--{flag}", type=kind, metavar=metavar, help=meaning)
        if flag in completed:
            complete_as(action, completed[flag])


def given_settings(arguments: argparse.Namespace, flags: Flags) -> dict[str, Any]:
    """The settings that flags were given for, by their keys in the configuration."""
    found = {key: getattr(arguments, flag.replace("-", "_")) for flag, (key, *_) in flags.items()}
    return {key: value for key, value in found.items() if value is not None}


def complete_as(action: argparse.Action, how: Any) -> None:
    """Say how a shell completes the value of an argument: `MODEL_FILES`, or anything of `shtab`."""
    cast(Any, action).complete = how  # where shtab looks


@contextmanager
def nothing_else_on_stdout() -> Iterator[None]:
    """Stdout is for the answer of a command: what is said on the way goes to stderr, from the imports' warnings on."""
    with redirect_stdout(sys.stderr):
        from depgraph_hsic_only.yolo.logs import aside

        with aside():
            yield
