"""Training hooks: callbacks for a whole run, what keeps a training from harm, and the record of each epoch."""

from depgraph_hsic_only.training.callbacks import (
    MASK_MAP,
    PRUNE_EVENTS,
    TRAINING_PROGRESS,
    Callbacks,
    IdentityProjectors,
    KeepBest,
    keep_statistics,
    read_epochs,
    remember_start,
)
from depgraph_hsic_only.workflow.stages.prune_steps import PruneEvent

__all__ = [
    "MASK_MAP",
    "PRUNE_EVENTS",
    "TRAINING_PROGRESS",
    "Callbacks",
    "IdentityProjectors",
    "KeepBest",
    "PruneEvent",
    "keep_statistics",
    "read_epochs",
    "remember_start",
]
