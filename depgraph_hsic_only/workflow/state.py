"""How far a run is: `state.json`, written after everything else of a stage, and what is said where it breaks off."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depgraph_hsic_only.errors import ConfigError, ExportError, OutOfMemoryError, PruningError, StorageError, one_line
from depgraph_hsic_only.support.resource_errors import out_of_memory, storage_reason
from depgraph_hsic_only.support.yaml import flattened, read_yaml
from depgraph_hsic_only.workflow.config_checks import TRAININGS
from depgraph_hsic_only.workflow.run_folder import RunFolder

STATE = "state.json"
ARGS = "args.yaml"
# Settings that may differ after a resume: where it runs and what fits there, and paths, whose content is compared.
_FREE = ("project", "name", "exist_ok", "device", "workers", "batch", "trust", "verbose", "pretrained", "data")


@dataclass(frozen=True)
class RunState:
    """How far a run is."""

    settings: Mapping[str, Any]  # the configuration, resolved, as it was given
    sources: Mapping[str, str]  # digests of what is read: "checkpoint" (the network) and "data" (files and labels)
    done: tuple[str, ...] = ()  # the stages that are finished, and "exported" in the end

    def check_same(self, settings: Mapping[str, Any], sources: Mapping[str, str], folder: Path) -> None:
        """Refuse to go on with other settings or on something else: a `ConfigError` names all differences.

        Of what was read, the `sources`, those that are given are compared.
        """
        before, now = flattened(self.settings), flattened(json.loads(json.dumps(settings)))
        args, used = folder / ARGS, before  # where the settings of trainings stand as they were used
        if args.is_file():
            used = before | {k: v for k, v in flattened(read_yaml(args)).items() if k.partition(".")[0] in TRAININGS}
        changed = [
            f"{key}={now.get(key)!r} instead of {before.get(key)!r}"
            for key in dict.fromkeys((*before, *now))
            if now.get(key) not in (before.get(key), used.get(key)) and key.partition(".")[0] not in _FREE
        ]
        changed += [f"another {name}" for name, digest in sources.items() if digest != self.sources.get(name)]
        if changed:
            raise ConfigError(
                f"resume: expected what {folder} was started with, got {'; '.join(changed)}; pass that again, or start "
                "anew"
            )


def read_state(folder: str | Path) -> RunState:
    """The state of the run in a folder; a `ConfigError` where there is none that could go on."""
    path = Path(folder) / STATE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return RunState(data["settings"], data["sources"], tuple(data["done"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"resume: expected the folder of a run, with its {STATE}, got {folder} ({type(error).__name__}); pass the "
            "folder that the run printed, or start a new run"
        ) from error


@contextmanager
def resource_errors_explained(folder: RunFolder) -> Iterator[None]:
    """Where the disk or the memory is too small, for us or for Ultralytics, say what is safe and how to go on."""
    try:
        yield
    except Exception as error:
        told = isinstance(error, (StorageError, ExportError))  # by us, of what another library met
        cause = error.__cause__ if told else None if isinstance(error, PruningError) else error
        if cause is None:
            raise
        if (reason := storage_reason(cause)) is not None:
            begun = (folder.path / STATE).is_file()
            safe = "what was done before is safe: make room, then go on with --resume" if begun else "nothing was done"
            what = f"{safe} {folder.path}" if begun else f"{safe} yet: make room, or pass another --project"
            raise StorageError(f"{folder.path}: expected to write files, but {reason}; {what}") from error
        if out_of_memory(cause):
            raise OutOfMemoryError(
                f"expected more memory than there is ({one_line(cause)}); what was done before is safe: go on with a "
                f"smaller --batch: --resume {folder.path}; or start anew with a smaller --imgsz or calibration.images"
            ) from error
        raise
