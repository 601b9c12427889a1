"""The models after the stages of a run: saved once, loaded once."""

import copy
from pathlib import Path

from depgraph_hsic_only.report.stage import Stage
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.types import Yolo


class Checkpoints:
    """The checkpoints of the stages in one run folder."""

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
        """The `YOLO` after a stage as its file holds it, to be looked at and not to be changed.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        if stage.name not in self._loaded:
            self._loaded[stage.name] = load_model(self.path(stage))
        return self._loaded[stage.name]

    def copy(self, stage: Stage) -> Yolo:
        """The same, for the next stage to change."""
        return copy.deepcopy(self.load(stage))
