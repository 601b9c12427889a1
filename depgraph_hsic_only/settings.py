"""Settings as people write them: YAML files, and key=value on the command line."""

import re
from pathlib import Path
from typing import Any

import yaml
from ultralytics.cfg import smart_value

from depgraph_hsic_only.errors import ConfigError


def read_yaml(cfg: str | Path) -> dict[str, Any]:
    """The settings in a YAML file; a name that is not in the working directory is looked up in this package.

    Raises:
        ConfigError: There is no such file, or it holds no settings.
    """
    path = next((p for p in (Path(cfg), Path(__file__).parent / cfg) if p.is_file()), None)
    if path is None:
        raise ConfigError(
            f"{cfg}: expected a YAML file with settings, but there is none; copy default.yaml and edit it"
        )
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected YAML, got something else ({reason}); mend that line") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: expected settings as 'key: value', got a {type(data).__name__}; see default.yaml")
    return data


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-4 as a number, as YAML 1.2 does and everybody expects."""


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
