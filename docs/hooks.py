"""Parts of pages that are made of what exists already, so that they can't drift."""

import contextlib
import io
import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from depgraph_hsic_only import list_criteria
from depgraph_hsic_only.cli.main import _COMMANDS, main

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put each part where a comment `<!-- here: name -->` asks for it, and keep links within the site."""
    markdown = re.sub(r"^<!-- here: (\w+) -->$", lambda found: PARTS[found[1]](), markdown, flags=re.MULTILINE)
    here = posixpath.dirname(page.file.src_uri)
    return re.sub(r"(!?)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", lambda found: _link(*found.groups(), here), markdown)


def _link(picture: str, text: str, target: str, here: str) -> str:
    """A link as it is; only its text where it leads out of the site, as to a file of the source."""
    outside = posixpath.normpath(posixpath.join(here, target)).startswith("..")
    return text if outside else f"{picture}[{text}]({target})"


def _text(path: str) -> str:
    """A file of the checkout without its title, whose links to other files are as from a page in `docs`."""
    text = (ROOT / path).read_text(encoding="utf-8").partition("\n")[2]
    folder = posixpath.dirname(path)
    return re.sub(
        r"\]\((?!https?:|#)([^)]+)\)",
        lambda found: f"]({posixpath.relpath(posixpath.join(folder, found[1]), 'docs')})",
        text,
    )


def _settings() -> str:
    return f"```yaml\n{(ROOT / 'depgraph_hsic_only' / 'default.yaml').read_text(encoding='utf-8')}```"


def _command_line() -> str:
    """What every command says of itself."""
    os.environ["COLUMNS"] = "110"
    parts = [f"```text\n{_help()}```"]
    parts += [f"## {name}\n\n{command.summary}\n\n```text\n{_help(name)}```" for name, command in _COMMANDS.items()]
    return "\n\n".join(parts)


def _help(*command: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return shown.getvalue()


def _criteria() -> str:
    return "\n".join(f"* `{name}`" for name in list_criteria())


PARTS: dict[str, Callable[[], str]] = {
    "readme": lambda: _text("README.md"),
    "benchmarks": lambda: _text("benchmarks/README.md"),
    "settings": _settings,
    "command_line": _command_line,
    "criteria": _criteria,
}
