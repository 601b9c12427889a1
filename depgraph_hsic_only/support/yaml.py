"""Settings as people write them: YAML files, and key=value on the command line."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ultralytics.cfg import smart_value

from depgraph_hsic_only.errors import ConfigError, one_line


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
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except Exception as error:  # malformed YAML raises anything: ValueError for a date, RecursionError for a deep nest
        raise ConfigError(f"{path}: expected YAML, got something else ({one_line(error)}); mend that line") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: expected settings as 'key: value', got a {type(data).__name__}; see default.yaml")
    return data


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-4 as a number, as YAML 1.2 does and everybody expects.

    A key that is given twice is refused, since one of the two would be dropped silently; so are anchors that stand for
    themselves, or for more settings than anybody writes.
    """

    def get_single_data(self) -> Any:
        """The settings of the one document."""
        node = self.get_single_node()
        if node is None:
            return None
        _weight(node, {})
        return self.construct_document(node)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, with each key once."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


_MOST = 100_000  # nodes of a file, its anchors written out


def _weight(node: Any, known: dict[int, int]) -> int:
    """Nodes below and with a node, its anchors written out; `known` holds those of others, 0 for what is under way."""
    if id(node) not in known:
        known[id(node)] = 0
        below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = [] if isinstance(node, yaml.ScalarNode) else [_weight(part, known) for part in below]
        known[id(node)] = 1 + sum(parts)
    if not 0 < known[id(node)] <= _MOST:
        what = "stands for itself" if known[id(node)] == 0 else f"stands for more than {_MOST} values"
        raise yaml.constructor.ConstructorError(None, None, f"an anchor that {what}", node.start_mark)
    return known[id(node)]


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_override(text: str) -> tuple[str, Any]:
    """A command-line override "block.key=value" as the dotted key and the value.

    Raises:
        ConfigError: It has another form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"expected an override such as train.epochs=5, got {text!r}; write key=value without spaces")
    value = value.strip()
    return key.strip(), None if value.lower() == "null" else smart_value(value)  # which knows "none" only


def flattened(settings: Mapping[str, Any], depth: int = 9) -> dict[str, Any]:
    """Nested settings with dotted keys, as `parse_override` reads them; a data set's own keys stay together.

    Args:
        settings: Nested ones.
        depth: Blocks within blocks that are opened.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value and depth and key != "data"
        inner = flattened(value, depth - 1) if nested else {}
        flat |= {f"{key}.{name}": leaf for name, leaf in inner.items()} if nested else {key: value}
    return flat
