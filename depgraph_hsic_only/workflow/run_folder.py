"""The run folder: complete after every stage, every file written in one step."""

import copy
import csv
import io
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.report.stages import Stage
from depgraph_hsic_only.support.files import temporary_name, write_atomically, write_text_atomically
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.types import Yolo


@dataclass(frozen=True)
class RunFolder:
    """The files of one run under one folder."""

    path: Path  # absolute: Ultralytics puts relative projects under a folder of its own

    @property
    def weights(self) -> Path:
        """Folder of the checkpoints and exports."""
        return self.path / "weights"

    @property
    def plots(self) -> Path:
        """Folder of the figures."""
        return self.path / "plots"

    @property
    def scratch(self) -> Path:
        """Folder of what an unfinished stage goes on from; not there when a run is complete."""
        return self.path / "resume"

    @property
    def rivals(self) -> Path:
        """Folder of the trainings of rivals, which a run that goes on takes as they are."""
        return self.path / "rivals"

    @classmethod
    def planned(cls, project: str | Path, name: str, *, exist_ok: bool = False) -> "RunFolder":
        """The folder that `create` would make now."""
        wanted = Path(project).expanduser().resolve() / name
        return cls(wanted if exist_ok else _first_free(wanted))

    @classmethod
    def create(cls, project: str | Path, name: str, *, exist_ok: bool = False) -> "RunFolder":
        """Make the folder `project`/`name`, or with the next free number, as Ultralytics does ("exp", "exp-2")."""
        while True:
            folder = cls.planned(project, name, exist_ok=exist_ok)
            try:
                folder.path.mkdir(parents=True, exist_ok=exist_ok)
                folder.weights.mkdir(exist_ok=True)
                folder.plots.mkdir(exist_ok=True)
                return folder
            except OSError as error:
                if not exist_ok and isinstance(error, FileExistsError) and folder.path.is_dir():
                    continue  # another run was faster
                raise ConfigError(
                    f"project: expected a folder that can be made, got {folder.path} ({error.strerror}); pass another"
                ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder from every other run; a run that was killed leaves no lock, and its half-written files go."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"{self.path}: expected a run folder that no run writes to, but another one does at this moment; wait "
                "for it, or pass another --name"
            ) from None
        try:
            for path in self.path.rglob(temporary_name("*", "*")):
                path.unlink()
            for path in [*self.weights.glob(".export-*"), *self.weights.glob(".quantize-*")]:
                shutil.rmtree(path)
            yield
        finally:
            lock.release()

    def begin_anew(self) -> None:
        """Remove what an earlier run has left there that a run would go on from."""
        self.clear_scratch()
        if self.rivals.is_dir():
            shutil.rmtree(self.rivals)

    def clear_scratch(self, but: Sequence[str] = ()) -> None:
        """Remove what unfinished stages left, but for some folders in it, and the folder itself if that was all."""
        for path in self.scratch.iterdir() if self.scratch.is_dir() else ():
            if path.name not in but:
                shutil.rmtree(path)
        if self.scratch.is_dir() and not any(self.scratch.iterdir()):
            self.scratch.rmdir()

    def rename(self, name: str, new: str) -> None:
        """Give a folder in the run folder another name, where there is one; what had that name is replaced."""
        if (self.path / name).is_dir():
            shutil.rmtree(self.path / new, ignore_errors=True)
            (self.path / name).rename(self.path / new)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_text_atomically(self.path / name, text)

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(data, indent=1, allow_nan=False) + "\n")

    def write_yaml(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a YAML file."""
        self.write_text(name, yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True))

    def write_csv(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write a CSV file, a line a row, with the keys of the first row as header; None as an empty field."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, buffer.getvalue())

    def save_model(self, name: str, model: Yolo) -> Path:
        """Write a `YOLO` as a checkpoint of that name under `weights` and return its path."""
        write_atomically(self.weights / name, model.save)
        return self.weights / name


class Checkpoints:
    """The models after the stages of a run: saved once, loaded once."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._loaded: dict[str, Yolo] = {}

    def path(self, stage: Stage) -> Path:
        """The file of a stage, which is there when the stage is done."""
        return self._folder.weights / stage.weights

    def save(self, stage: Stage, model: Yolo) -> Path:
        """Write the `YOLO` that a stage has led to, and return its file."""
        self._loaded.pop(stage.name, None)
        return self._folder.save_model(stage.weights, model)

    def load(self, stage: Stage) -> Yolo:
        """The `YOLO` after a stage as its file holds it, to be looked at and not to be changed."""
        if stage.name not in self._loaded:
            self._loaded[stage.name] = load_model(self.path(stage))
        return self._loaded[stage.name]

    def copy(self, stage: Stage) -> Yolo:
        """The same, for the next stage to change."""
        return copy.deepcopy(self.load(stage))


def _first_free(wanted: Path) -> Path:
    """A path where nothing is yet: "exp", else "exp-2", "exp-3" ..., and "exp-2.txt" beside a file "exp.txt"."""
    base, suffix = (wanted.with_suffix(""), wanted.suffix) if wanted.is_file() else (wanted, "")
    numbered = (Path(f"{base}-{number}{suffix}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())
