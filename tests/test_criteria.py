"""Criteria against second implementations written from their papers."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch_pruning as tp
from conftest import build
from torch import nn
from ultralytics.cfg import get_cfg

from depgraph_hsic_only import ConfigError, DataError, list_criteria, plan_pruning, score_channels
from depgraph_hsic_only.channels.groups import ChannelGraph, ChannelGroup, Member, trace_channels
from depgraph_hsic_only.criteria.gradient import first_order
from depgraph_hsic_only.criteria.registry import create_criterion, registered_criterion
from depgraph_hsic_only.yolo.load import with_loss_arguments
from depgraph_hsic_only.yolo.tasks import TASKS


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


def test_weight_criteria_are_torch_prunings_own_on_every_group() -> None:
    for group in trace_channels(build(nc=3), "all").ranked.groups:
        for name, its in {
            "magnitude": tp.importance.GroupMagnitudeImportance(p=2, normalizer=None),
            "l1": tp.importance.GroupMagnitudeImportance(p=1, normalizer=None),
            "bn_scale": tp.importance.BNScaleImportance(normalizer=None),
        }.items():
            if name != "bn_scale" or any(member.role == "norm" for member in group.members):
                found = registered_criterion(name)(group)
                assert torch.equal(found, its(group.dependencies[0])), (name, group.name)


def test_heads_that_pass_through_a_depthwise_convolution() -> None:
    """Two heads of three values and two keys each, by a plain loop over everything that belongs to a head."""
    torch.manual_seed(0)
    heads = torch.tensor([0, 0, 0, 1, 1, 1])
    order = torch.tensor([5, 0, 3, 1, 4, 2])  # as concatenations are read
    modules = {
        "k": (nn.Conv2d(4, 4, 1, bias=False), "output", torch.arange(4), torch.arange(4) // 2),
        "v": (nn.Conv2d(4, 6, 1, bias=False), "output", torch.arange(6), heads),
        "pe": (nn.Conv2d(6, 6, 3, groups=6, bias=False), "output", torch.arange(6), heads),
        "bn": (nn.BatchNorm2d(6), "norm", torch.arange(6), heads),
        "proj": (nn.Conv2d(6, 5, 1), "input", order, heads[order]),
    }
    for module, *_ in modules.values():
        for parameter in module.parameters():
            parameter.data, parameter.grad = torch.randn_like(parameter), torch.randn_like(parameter)
    members = tuple(Member(name, m, cast(Any, role), at, head) for name, (m, role, at, head) in modules.items())
    group = ChannelGroup("heads", "a0", 0, 2, members, None)
    powers: dict[str, list[float]] = {name: [0.0, 0.0] for name in ("magnitude", "l1", "bn_scale", "taylor")}
    for module, role, index, channel in modules.values():
        for at, head in zip(index.tolist(), channel.tolist(), strict=True):
            w = (module.weight[:, at] if role == "input" else module.weight[at]).detach()
            grad = module.weight.grad[:, at] if role == "input" else module.weight.grad[at]
            powers["magnitude"][head] += float(w.square().sum()) / 5
            powers["l1"][head] += float(w.abs().sum()) / 5
            powers["bn_scale"][head] += float(w.abs().sum()) if role == "norm" else 0
            powers["taylor"][head] += abs(float((w * grad).sum()))
            if role == "norm":
                powers["taylor"][head] += abs(float(module.bias.detach()[at] * module.bias.grad[at]))
    for name, expected in powers.items():
        found = first_order(group) if name == "taylor" else registered_criterion(name)(group)
        torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)


def test_heads_score_by_all_their_channels() -> None:
    """Fours of channels that are cut whole, at every criterion: what is added up, what counts most, what goes first."""
    network = build(nc=5)
    norm, conv = network.model[3].bn, network.model[3].conv
    for t in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        t.data[8:12] = t.data[32:36]
    norm.weight.data[20:24] = 0
    batches = [
        {**batch, "img": torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(k))}
        for k, batch in enumerate(labelled_batches())
    ]
    for name, add in {"magnitude": True, "l1": True, "bn_scale": True, "taylor": True, "hsic_lasso": False}.items():
        criterion = create_criterion(name, **({"block_size": 64} if name == "hsic_lasso" else {}))
        graph = trace_channels(network, [3])
        alone, whole = criterion.score(graph, batches)["model.3"], criterion.score(by_fours(graph), batches)["model.3"]
        fours = alone.view(16, 4)
        torch.testing.assert_close(whole, fours.sum(1) if add else fours.amax(1), rtol=1e-3, atol=1e-6, msg=name)
    score = create_criterion("reconstruction", ridge=1e-6).score(by_fours(trace_channels(network, [3])), batches)[
        "model.3"
    ]
    first = set(score.argsort()[:2].tolist())
    assert 5 in first and len(first & {2, 8}) == 1


def by_fours(graph: ChannelGraph) -> ChannelGraph:
    """The same graph where four channels that follow each other are one."""
    widths = []
    for width in graph.widths:
        groups = (
            replace(g, channels=g.channels // 4, members=tuple(replace(m, channel=m.channel // 4) for m in g.members))
            for g in width.groups
        )
        widths.append(replace(width, channels=width.channels // 4, groups=tuple(groups)))
    return replace(graph, widths=tuple(widths))


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


@pytest.mark.parametrize(("task", "gain"), [("segment", "box"), ("pose", "kobj"), ("obb", "angle")])
def test_losses_are_weighted_as_the_checkpoint_was_trained(task: str, gain: str) -> None:
    network = TASKS[task].model(f"yolov8n{TASKS[task].suffix}.yaml", verbose=False)
    network.args = {gain: 3.5, "imgsz": 64}
    assert getattr(with_loss_arguments(network).init_criterion().hyp, gain) == 3.5
