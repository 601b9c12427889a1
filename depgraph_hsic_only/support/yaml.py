"""Settings as people write them: YAML 1.2, and blocks of settings as dotted keys."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import ScalarNode

from depgraph_hsic_only.errors import ConfigError, one_line

_MOST = 100_000  # values of a file, its anchors written out
_SWITCHES = re.compile("^(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$")


def read_yaml(cfg: str | Path) -> dict[str, Any]:
    """The settings in a YAML file; a name that is not in the working directory is looked up in this package.

    Raises:
        ConfigError: There is no such file, or it holds no settings.
    """
    path = next((p for p in (Path(cfg), Path(__file__).parents[1] / cfg) if p.is_file()), None)
    if path is None:
        raise ConfigError(
            f"{cfg}: expected a YAML file with settings, but there is none; copy default.yaml and edit it"
        )
    try:
        data = _reader().load(path.read_text(encoding="utf-8"))
    except Exception as error:  # malformed YAML raises anything: ValueError for a date, RecursionError for a deep nest
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        place, said = (f"{path}, line {mark.line + 1}", problem) if mark and problem else (path, error)
        raise ConfigError(f"{place}: expected YAML, got something else ({one_line(said)}); mend that line") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: expected settings as 'key: value', got a {type(data).__name__}; see default.yaml")
    return data


def read_value(key: str, text: str) -> Any:
    """The value of a setting as a YAML file would have it on one line, such as [small.pt, other.pt].

    Raises:
        ConfigError: It is no YAML.
    """
    try:
        return _reader().load(text)
    except Exception as error:  # as above
        raise ConfigError(
            f"{key}: expected a list such as [a, b] or a mapping such as {{6: 0.5}}, got {text!r}"
        ) from error


def _reader() -> YAML:
    """A reader of plain values that takes yes, no, on and off for true and false too, as YAML 1.1 did."""
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _Composer
    reader.composer.warn_double_anchors = False  # YAML has the later one count
    resolvers = reader.resolver.versioned_resolver  # by first character
    for letter in "yYnNoO":
        resolvers.setdefault(letter, []).append(("tag:yaml.org,2002:bool", _SWITCHES))
    return reader


class _Composer(Composer):
    """Refuses anchors that stand for themselves or for more values than anybody writes, and keys given twice."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self._count = 0
        self._weights: dict[int, int] = {}  # of every finished node, by its id

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, counted with all that is in it."""
        event, before = self.parser.peek_event(), self._count
        node = super().compose_node(parent, index)
        if isinstance(event, AliasEvent):
            if id(node) not in self._weights:
                raise ComposerError(None, None, "an anchor that stands for itself", event.start_mark)
            self._count += self._weights[id(node)]
        else:
            self._count += 1
            self._weights[id(node)] = self._count - before
        if self._count > _MOST:
            raise ComposerError(None, None, f"an anchor that stands for more than {_MOST} values", event.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """A mapping, with each key once: one of two would be dropped. Beside a merge key, ruamel.yaml lets it pass."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and (key.tag, key.value) in seen:
                raise ComposerError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def flattened(settings: Mapping[str, Any], depth: int = 9) -> dict[str, Any]:
    """Nested settings with dotted keys, as they are given on the command line; a data set's own keys stay together.

    Blocks within blocks are opened to a `depth`.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value and depth and key != "data"
        inner = flattened(value, depth - 1) if nested else {}
        flat |= {f"{key}.{name}": leaf for name, leaf in inner.items()} if nested else {key: value}
    return flat
