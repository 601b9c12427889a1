"""Parts of pages that are made of what exists already, so that they can't drift: README, settings, command line."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from depgraph_hsic_only import list_criteria
from depgraph_hsic_only.cli import main

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace each `{{ name }}` on a line of its own by what it stands for."""
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda found: PARTS[found[1]](), markdown, flags=re.MULTILINE)


def _readme() -> str:
    """The README, with its pictures, without its links to files that are not part of the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/images/", "](images/")
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)]+\)", r"\1", text)


def _settings() -> str:
    return f"```yaml\n{(ROOT / 'depgraph_hsic_only' / 'default.yaml').read_text(encoding='utf-8')}```"


def _command_line() -> str:
    os.environ["COLUMNS"] = "110"
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        main(["--help"])
    return f"```text\n{shown.getvalue()}```"


def _criteria() -> str:
    return "\n".join(f"* `{name}`" for name in list_criteria())


PARTS: dict[str, Any] = {
    "readme": _readme,
    "settings": _settings,
    "command_line": _command_line,
    "criteria": _criteria,
}
