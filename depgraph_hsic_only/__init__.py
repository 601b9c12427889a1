"""Prune YOLOv8 models into ordinary, narrower Ultralytics models."""

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.comparison import Comparison, compare
from depgraph_hsic_only.criteria import Criterion, list_criteria, register_criterion
from depgraph_hsic_only.errors import (
    CheckpointError,
    ComparisonError,
    ConfigError,
    DataError,
    ExportError,
    OutOfMemoryError,
    PlanError,
    PruningError,
    StorageError,
    UnsupportedModelError,
)
from depgraph_hsic_only.graph import ChannelGroup
from depgraph_hsic_only.info import ModelInfo, describe
from depgraph_hsic_only.loading import load_model
from depgraph_hsic_only.nms import ensure_nms
from depgraph_hsic_only.plan import PruningPlan
from depgraph_hsic_only.pruners import DefaultYolov8SegPruner, Exported, HsicLassoPruner, Yolov8SegPruner
from depgraph_hsic_only.pruning import apply_plan, plan_pruning, prune, score_channels
from depgraph_hsic_only.recovery import Recovery, recover
from depgraph_hsic_only.report import PruningReport
from depgraph_hsic_only.run_report import RunReport

__all__ = [
    "ChannelGroup",
    "CheckpointError",
    "Comparison",
    "ComparisonError",
    "ConfigError",
    "Criterion",
    "DataError",
    "DefaultYolov8SegPruner",
    "ExportError",
    "Exported",
    "HsicLassoPruner",
    "ModelInfo",
    "OutOfMemoryError",
    "PlanError",
    "PruningError",
    "PruningPlan",
    "PruningReport",
    "Recovery",
    "RunReport",
    "StorageError",
    "UnsupportedModelError",
    "Yolov8SegPruner",
    "__version__",
    "apply_plan",
    "compare",
    "describe",
    "ensure_nms",
    "list_criteria",
    "load_model",
    "plan_pruning",
    "prune",
    "recover",
    "register_criterion",
    "score_channels",
]
