"""The record of a training's epochs: what was measured, and None where nothing was."""

from pathlib import Path

import pytest

from depgraph_hsic_only import ConfigError
from depgraph_hsic_only.utils.hooks import Callbacks, read_epochs
from depgraph_hsic_only.utils.plots import plot_training


def test_epochs_without_validation_have_no_validation_figures(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(
        "epoch,train/seg_loss,metrics/mAP50-95(B),metrics/mAP50-95(M),val/seg_loss,lr/pg0\n"
        "1,3.5,0,0,0,0.01\n"
        "2,2.5,0.4,0.3,2.75,0.001\n"
    )
    first, last = read_epochs(tmp_path)
    assert first["metrics/mAP50-95(M)"] is None and first["val/seg_loss"] is None and first["train/seg_loss"] == 3.5
    assert last["metrics/mAP50-95(M)"] == 0.3 and last["val/seg_loss"] == 2.75 and last["lr/pg0"] == 0.001
    assert read_epochs(tmp_path / "never trained") == []
    losses, maps, _ = plot_training([{"name": "trained", "epochs": [first, last]}]).axes
    drawn = {line.get_label(): list(line.get_xdata()) for axes in (losses, maps) for line in axes.get_lines()}
    assert drawn["training"] == [1, 2] and drawn["validation"] == drawn["mask"] == [2]


def test_unknown_events_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'on_prune_end'"):
        Callbacks().add("on_prune_ende", print)
