"""What a command of the command line is, and a parser whose every mistake is one line."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn, cast

import shtab
from rich.console import RenderableType

from depgraph_hsic_only.support.nearest import nearest

PROGRAM = "depgraph-hsic"
MODEL_FILES = shtab.glob("*.pt", "*.yaml", "*.yml")
YAML_FILES = shtab.glob("*.yaml", "*.yml")


class Flag(NamedTuple):
    """A flag that stands for a setting: its key, the type, what the value is called, and how a shell completes it."""

    key: str
    kind: Callable[[str], Any]
    metavar: str
    meaning: str
    complete: Any = None


class Answer(NamedTuple):
    """What a command has to say: text is printed as it is, anything else as rich draws it; and the exit code."""

    shown: RenderableType
    code: int = 0


@dataclass(frozen=True)
class Command:
    """One command, `depgraph-hsic NAME ...`."""

    name: str
    summary: str
    epilog: str
    add_arguments: Callable[["Parser"], object]
    run: Callable[[argparse.Namespace], Answer]

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
        kept = partial(argparse.RawDescriptionHelpFormatter, max_help_position=22)
        super().__init__(allow_abbrev=False, formatter_class=kept, **settings)

    def add_argument(self, *names: str, complete: Any = None, **settings: Any) -> argparse.Action:
        """As argparse's, of an argument that a shell completes: `MODEL_FILES`, or anything of `shtab`."""
        action = super().add_argument(*names, **settings)
        if complete is not None:
            cast(Any, action).complete = complete  # where shtab looks
        return action

    def add_flags(self, flags: Mapping[str, Flag]) -> None:
        """Add flags that stand for settings, by name."""
        for name, (_, kind, metavar, meaning, complete) in flags.items():
            self.add_argument(f"--{name}", type=kind, metavar=metavar, help=meaning, complete=complete)

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


def given_settings(arguments: argparse.Namespace, flags: Mapping[str, Flag]) -> dict[str, Any]:
    """The settings that flags or words such as key=value were given for, by their keys in the configuration."""
    from depgraph_hsic_only.training.arguments import parse_override  # Ultralytics takes a while to import

    found = {flag.key: getattr(arguments, name.replace("-", "_")) for name, flag in flags.items()}
    given = {key: value for key, value in found.items() if value is not None}
    return given | dict(parse_override(text) for text in arguments.overrides)


@contextmanager
def nothing_else_on_stdout() -> Iterator[None]:
    """Stdout is for the answer of a command: what is said on the way goes to stderr, from the imports' warnings on."""
    with redirect_stdout(sys.stderr):
        from depgraph_hsic_only.yolo.logs import aside

        with aside():
            yield
