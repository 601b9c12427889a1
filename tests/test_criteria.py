"""Criteria against second implementations written from their papers."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import build
from torch import nn
from ultralytics.cfg import get_cfg

from depgraph_hsic_only import ConfigError, DataError, list_criteria, plan_pruning, score_channels


def parts(model: Any, group: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights (C, ·) of every module that the channels pass through, and their BatchNorm scales, by hand."""
    m = model.model
    if group == "model.3":
        halves = m[4].cv1.conv.weight.chunk(2)
        return [m[3].conv.weight, *(h.transpose(0, 1) for h in halves)], [m[3].bn.weight]
    assert group == "model.8.second"
    block, c = m[8], m[8].c
    inner = block.m[0]
    readers = block.cv2.conv.weight.transpose(0, 1)
    joint = readers[c : 2 * c].flatten(1), readers[2 * c : 3 * c].flatten(1)
    return (
        [block.cv1.conv.weight[c:], inner.cv2.conv.weight, inner.cv1.conv.weight.transpose(0, 1), torch.cat(joint, 1)],
        [block.cv1.bn.weight[c:], inner.cv2.bn.weight],
    )


@pytest.mark.parametrize("group", ["model.3", "model.8.second"])
def test_weight_criteria_are_those_of_their_papers(group: str) -> None:
    model = build()
    weights, scales = parts(model, group)
    norms = {
        p: torch.stack([w.abs().pow(p).flatten(1).sum(1) for w in weights] + [s.abs().pow(p) for s in scales])
        for p in (1, 2)
    }
    for name, expected in {
        "magnitude": norms[2].mean(0),
        "l1": norms[1].mean(0),
        "bn_scale": torch.stack([s.abs() for s in scales]).mean(0),
    }.items():
        torch.testing.assert_close(score_channels(model, name, layers=[3, 8])[group], expected.detach(), msg=name)


@pytest.mark.parametrize("criterion", ["magnitude", "l1", "bn_scale"])
def test_an_all_zero_layer_gets_the_planned_width(criterion: str) -> None:
    model = build()
    for module in model.model[3].modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            nn.init.zeros_(module.weight)
    nn.init.zeros_(model.model[4].cv1.conv.weight)
    assert plan_pruning(model, 0.5, criterion=criterion).after["w3"] == 32


def test_a_criterion_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"expected one of bn_scale, hsic_lasso, .*taylor, got 'lamp'"):
        plan_pruning(build(), 0.5, criterion="lamp")  # which ranked as magnitude does, and was removed


def test_random_is_seeded_by_group() -> None:
    model = build()
    a, b = (score_channels(model, "random", layers=layers, seed=5) for layers in ([4], "backbone"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    other = score_channels(model, "random", layers=[4], seed=6)
    assert not any(torch.equal(a[name], other[name]) for name in a)
    assert not torch.equal(b["model.4.first"], b["model.4.second"])


def labelled_batches() -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        boxes = torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.6, 0.6, 0.4, 0.6]])
        masks = torch.zeros(1, 64, 64)
        masks[0, 10:40, 10:40], masks[0, 25:57, 26:50] = 1, 2
        yield {
            "img": (torch.rand(1, 3, 64, 64, generator=generator) * 255).byte(),
            "cls": torch.tensor([[1.0], [3.0]]),
            "bboxes": boxes,
            "batch_idx": torch.zeros(2),
            "masks": masks,
        }


@pytest.mark.parametrize("group", ["model.3", "model.8.second"])
def test_taylor_is_that_of_its_paper(group: str) -> None:
    """|Σ w ∂L/∂w| of each module, with gradients of Ultralytics' own loss on the model as it is, not split."""
    model = build(nc=5).requires_grad_(True)
    taylor = score_channels(model, "taylor", batches=list(labelled_batches()), layers=[3, 8])[group]
    assert all(p.grad is None for p in model.parameters())

    model.args = get_cfg()
    model.model[-1].training = True  # raw predictions for the loss, every BatchNorm in evaluation mode
    for batch in labelled_batches():
        model.loss(batch | {"img": batch["img"].float() / 255})[0].sum().backward()
    grads = copy.deepcopy(model)
    for p, source in zip(grads.parameters(), model.parameters(), strict=True):
        p.data = torch.zeros_like(source) if source.grad is None else source.grad
    weights, gradients = (list(itertools.chain(*parts(m, group))) for m in (model, grads))
    if group == "model.8.second":  # two slots of the concatenation, each on its own
        weights[3:4], gradients[3:4] = weights[3].chunk(2, 1), gradients[3].chunk(2, 1)
    expected = torch.zeros_like(taylor)
    for weight, gradient in zip(weights, gradients, strict=True):
        expected += (weight * gradient).detach().double().reshape(len(weight), -1).sum(1).abs()
    for bn in [model.model[3].bn] if group == "model.3" else [model.model[8].cv1.bn, model.model[8].m[0].cv2.bn]:
        expected += (bn.bias * bn.bias.grad)[-len(taylor) :].detach().double().abs()
    torch.testing.assert_close(taylor, expected, rtol=1e-3, atol=1e-6)


def test_taylor_without_batches_is_refused() -> None:
    with pytest.raises(DataError, match="expected labelled batches"):
        plan_pruning(build(), 0.5, criterion="taylor")


def test_every_criterion_ranks_the_whole_backbone_of_the_real_model(real_yolo: Any) -> None:
    assert {"magnitude", "l1", "bn_scale", "taylor", "random"} <= set(list_criteria())
    for name in ("magnitude", "l1", "bn_scale", "taylor", "random"):
        batches = list(labelled_batches()) if name == "taylor" else None
        scores = score_channels(real_yolo, name, batches=batches)
        assert len(scores) == 25
        for group, score in scores.items():
            assert torch.isfinite(score).all() and (score >= 0).all() and score.unique().numel() > 0.5 * len(score), (
                group
            )
