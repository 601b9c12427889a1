"""Pruners: the whole workflow from a checkpoint and a data set to a smaller, exported model."""

from depgraph_hsic_only.pruners.base import Yolov8SegPruner
from depgraph_hsic_only.pruners.default import DefaultYolov8SegPruner
from depgraph_hsic_only.pruners.hsic_lasso import HsicLassoPruner
from depgraph_hsic_only.recording import Exported

__all__ = ["DefaultYolov8SegPruner", "Exported", "HsicLassoPruner", "Yolov8SegPruner"]
