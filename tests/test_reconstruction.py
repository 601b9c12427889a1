"""The reconstruction criterion: its algebra against least squares, and what is lost on real images."""

import copy
from typing import Any

import pytest
import torch
from conftest import COCO_MINI, build

from depgraph_hsic_only import DataError, apply_plan, plan_pruning, recover, score_channels
from depgraph_hsic_only.criteria.reconstruction import backward_elimination
from depgraph_hsic_only.data.calibration import in_batches
from depgraph_hsic_only.data.images import load_images


def test_scores_are_the_exact_errors_of_the_refitted_consumers() -> None:
    """Two consumers, one of patches: after each removal, the ridge regression of the outputs on what is left."""
    channels, generator = 7, torch.Generator().manual_seed(0)
    problems = []
    for patch, others, outputs in ((3, 4, 5), (1, 0, 2)):
        size = channels * patch + others  # the last inputs belong to no channel and stay
        mixed = torch.randn(200, size, generator=generator, dtype=torch.float64)
        x = mixed @ torch.randn(size, size, generator=generator, dtype=torch.float64)
        weight = torch.randn(size, outputs, generator=generator, dtype=torch.float64)
        problems.append((patch, x.T @ x / len(x) + 0.1 * torch.eye(size, dtype=torch.float64), weight))
    parts = []
    for patch, covariance, weight in problems:
        rows = slice(0, channels * patch)
        inverse = torch.linalg.inv(covariance)[rows, rows].clone()
        parts.append((inverse.view(channels, patch, channels, patch), weight[rows].view(channels, patch, -1).clone()))
    score = backward_elimination(parts, channels)

    def error(cut: list[int]) -> float:
        total = 0.0
        for patch, covariance, weight in problems:
            out = torch.zeros(len(covariance), dtype=torch.bool)
            out[[c * patch + k for c in cut for k in range(patch)]] = True
            refit = torch.linalg.solve(covariance[~out][:, ~out], covariance[~out] @ weight)
            change = weight.clone()
            change[~out] -= refit
            total += float((change * (covariance @ change)).sum())
        return total

    order = score.argsort().tolist()
    for k, c in enumerate(order):
        assert float(score[c]) == pytest.approx(error(order[: k + 1]), rel=1e-8)
        assert float(score[c]) <= min(error([*order[:k], other]) for other in order[k:]) * (1 + 1e-9)


def test_what_repeats_or_says_nothing_goes_first() -> None:
    network = build()
    conv = network.model[3].conv
    norm = network.model[3].bn
    for t in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        t.data[32:48] = t.data[:16]
    norm.weight.data[48:] = 0.0
    images = torch.rand(6, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(network.state_dict())
    score = score_channels(network, "reconstruction", layers=[3], batches=in_batches(images, 4), ridge=1e-6)["model.3"]
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    first = set(score.argsort(stable=True)[:32].tolist())
    assert set(range(48, 64)) <= first
    assert all((k in first) != (k + 32 in first) for k in range(16))


def test_bad_images_are_refused() -> None:
    with pytest.raises(DataError, match="expected calibration images"):
        score_channels(build(), "reconstruction", layers=[3], batches=[])
    with pytest.raises(DataError, match="finite"):
        score_channels(build(), "reconstruction", layers=[3], batches=[{"img": torch.full((2, 3, 64, 64), torch.nan)}])


@pytest.mark.slow
def test_on_the_real_model_less_is_lost_than_by_other_criteria(real_yolo: Any) -> None:
    """At equal widths, after the same recovery, on images that took no part."""
    if not COCO_MINI.exists():
        pytest.skip(f"no data set at {COCO_MINI}")
    fitted = load_images(COCO_MINI.parent / "images" / "train", 224, limit=48)
    held = load_images(COCO_MINI.parent / "images" / "val", 224, limit=32)
    network = real_yolo.model
    lost = {}
    for criterion in ("reconstruction", "magnitude", "random"):
        scores = score_channels(network, criterion, layers=[5, 6, 7, 8], batches=in_batches(fitted, 8))
        plan = plan_pruning(network, 0.375, layers=[5, 6, 7, 8], scores=scores)
        cut = copy.deepcopy(network)
        apply_plan(cut, plan)
        recover(cut, network, plan, fitted, mosaics=0)
        lost[criterion] = recover(cut, network, plan, held, method="none").divergence[0]
    assert lost["reconstruction"] < 0.85 * min(lost["magnitude"], lost["random"]), lost
