"""The stages of a run: one table for the workflow, its folder and its report."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Stage:
    """A stage that changes the model."""

    name: str  # of the stage and of the model after it, in reports
    title: str  # the same for people
    activity: str  # what is said while it runs
    weights: str  # checkpoint after it, in the run folder's `weights`
    folder: str = ""  # of its training in the run folder; empty where it trains nothing
    block: str = ""  # of the settings that it goes by, where it trains


BASELINE: Final = "baseline"  # the loaded model, before all stages
TRAINED: Final = Stage("trained", "trained", "training", "trained.pt", "train", "train")
PRUNED: Final = Stage("pruned", "pruned", "pruning", "pruned.pt")
FINE_TUNED: Final = Stage("fine_tuned", "fine-tuned", "fine-tuning", "best.pt", "finetune", "fine_tune")
STAGES: Final = (TRAINED, PRUNED, FINE_TUNED)
ACTIVITIES: Final = (*(stage.activity for stage in STAGES), "export", "latency", "pictures")  # of a whole run
EXPORTED: Final = "exported"  # what is done in the end
