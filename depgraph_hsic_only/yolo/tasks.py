"""What Ultralytics' models are made for: the four tasks of boxes, and which of their figures counts most."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel

from depgraph_hsic_only.errors import UnsupportedModelError
from depgraph_hsic_only.yolo.types import Network


@dataclass(frozen=True)
class Task:
    """One of Ultralytics' tasks."""

    name: str  # as Ultralytics calls it, such as "segment"
    noun: str  # for people, such as "segmentation"
    suffix: str  # of its models' names, such as "-seg"
    model: type[nn.Module]  # the class of its networks
    kinds: tuple[str, ...]  # of predictions whose mAP is measured, in the order in which tables have them
    label: str  # what an object is labelled with, in a message

    @property
    def primary(self) -> str:
        """The kind of predictions that counts most: its mAP50-95 chooses checkpoints, sizes and criteria."""
        return self.kinds[-1]


TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        Task("segment", "segmentation", "-seg", SegmentationModel, ("box", "mask"), "instance polygons"),
        Task("detect", "detection", "", DetectionModel, ("box",), "boxes"),
        Task("pose", "pose", "-pose", PoseModel, ("box", "pose"), "boxes with keypoints"),
        Task("obb", "oriented detection", "-obb", OBBModel, ("box",), "rotated boxes"),
    )
}


def map_column(kind: str) -> str:
    """Ultralytics' name of the mAP50-95 of a kind of prediction, such as "metrics/mAP50-95(M)" of masks."""
    return f"metrics/mAP50-95({kind[0].upper()})"


def task_of(network: Network) -> Task:
    """The task of a network, by its class.

    Raises:
        UnsupportedModelError: It is of none that can be pruned.
    """
    kind: type = type(network)
    for task in TASKS.values():
        if task.model is kind:
            return task
    raise UnsupportedModelError(
        f"expected a YOLO model of one of the tasks {', '.join(TASKS)}, got {kind.__name__}; pass such a one"
    )
