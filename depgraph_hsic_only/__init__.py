"""Prune YOLOv8 models into ordinary, narrower Ultralytics models."""

from depgraph_hsic_only._version import __version__
from depgraph_hsic_only.channels.groups import ChannelGroup
from depgraph_hsic_only.channels.plan import PruningPlan
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
from depgraph_hsic_only.pruning.api import apply_plan, plan_pruning, prune, score_channels
from depgraph_hsic_only.pruning.describe import ModelInfo, describe
from depgraph_hsic_only.pruning.hsic_lasso import HsicLassoPruner
from depgraph_hsic_only.recovery.recover import Recovery, recover
from depgraph_hsic_only.report.pruning_report import PruningReport
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.workflow.base import Yolov8SegPruner
from depgraph_hsic_only.workflow.default import DefaultYolov8SegPruner
from depgraph_hsic_only.workflow.recorder import Exported
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.patches import ensure_nms

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
