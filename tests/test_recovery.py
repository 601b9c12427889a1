"""Recovery: least squares against a second implementation, exact cases, real images."""

import copy
from collections import OrderedDict
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from conftest import COCO_MINI, build
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from depgraph_hsic_only import ConfigError, DataError, PlanError, apply_plan, load_model, plan_pruning, recover
from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.data.images import load_images
from depgraph_hsic_only.recovery.augmentation import make_mosaics
from depgraph_hsic_only.recovery.divergence import divergence
from depgraph_hsic_only.recovery.layerwise import LayerwisePass, evaluating
from depgraph_hsic_only.recovery.least_squares import NormalEquations
from depgraph_hsic_only.recovery.positions import SampledPositions, choose_positions
from depgraph_hsic_only.recovery.recover import METHODS
from depgraph_hsic_only.recovery.refit import refit, targets_along, touched_convolutions
from depgraph_hsic_only.yolo.predictions import raw_predictions


def random_images(n: int = 8, side: int = 96) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3))


def ridge_solution(x: Any, y: Any, weight: Any, w0: Any, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """W and c by lstsq on the tall system: weighted samples, an intercept column, and rows that pull W to W₀."""
    mean = (weight @ x) / weight.sum()
    ridge, n = share * (weight @ (x - mean).square()).mean(), x.shape[1]
    root = weight.sqrt()[:, None]
    pull = torch.cat([ridge.sqrt() * torch.eye(n, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)], 1)
    tall = torch.cat([torch.cat([root * x, root], 1), pull])
    solution = torch.linalg.lstsq(tall, torch.cat([root * y, ridge.sqrt() * w0]), driver="gelsd").solution
    return solution[:-1], solution[-1]


def test_normal_equations_give_the_weighted_ridge_solution_of_each_group() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (50, 3, 6), (50, 3, 3), (3, 6, 3)
    x, y, w0 = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes)
    weight = torch.rand(50, generator=generator, dtype=torch.float64) + 0.1
    x[:, 0, 5] = x[:, 0, 0] - x[:, 0, 1] + 2  # rank-deficient: only the ridge decides
    x[:, 1] *= 100
    x[:, 2] = 7.3  # constant: it says nothing of W
    equations = NormalEquations(3, 6, 3, torch.device("cpu"))
    for part in torch.arange(50).split(17):
        equations.add(x[part], y[part], weight[part])
    w, c = equations.solve(w0, 1e-2)
    for group in range(2):
        found = ridge_solution(x[:, group], y[:, group], weight, w0[group], 1e-2)
        torch.testing.assert_close((w[group], c[group]), found, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(w[2], w0[2], rtol=1e-4, atol=1e-4)
    made = torch.einsum("ngi,gio->ngo", x, w) + c
    spread = y - torch.einsum("n,ngo->go", weight, y) / weight.sum()
    residual = (weight @ (y - made).square().flatten(1)).sum() / (weight @ spread.square().flatten(1)).sum()
    assert equations.error(w, c) == pytest.approx(float(residual), rel=1e-9)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_grouped_and_depthwise_convolutions_are_fitted_group_by_group(groups: int) -> None:
    """A cut network of three convolutions against a plain loop over the groups of the second, one of it constant."""

    def network(channels: int) -> Any:
        torch.manual_seed(0)
        layers = [Conv(3, channels, 3), Conv(channels, channels, 3, 2, g=groups * channels // 8), Conv(channels, 4)]
        for i, layer in enumerate(layers):
            cast(Any, layer).i, cast(Any, layer).f = i, -1
        return nn.Sequential(OrderedDict(model=nn.Sequential(*layers))).eval()

    teacher: Any = network(8)
    student: Any = network(4) if groups != 1 else network(8)
    kept = (1, 2, 6, 7) if groups == 8 else (4, 5, 6, 7) if groups == 2 else tuple(range(8))
    first, conv = student.model[0], student.model[1].conv
    first.conv.weight.data = teacher.model[0].conv.weight[list(kept)] + 0.1
    first.conv.weight.data[1], first.bn.bias.data[1] = 0, 0.3
    images, w0, mean = random_images(4, 32), conv.weight.detach().double(), student.model[1].bn.running_mean.clone()
    name, generator = "model.1.conv", torch.Generator().manual_seed(1)
    at = tuple(torch.stack([torch.randperm(256, generator=generator)[:100] for _ in range(2)]) for _ in range(2))
    weight = tuple(torch.rand(2, 100, generator=generator) for _ in range(2))
    walk, targets = LayerwisePass(student, images, batch=2), targets_along(LayerwisePass(teacher, images, batch=2))
    sampled = {name: SampledPositions(at, weight, torch.ones(8))}
    assert (touched_convolutions(student, teacher) == []) == (groups == 1)
    (fitted,) = refit(walk, targets, sampled, {name: kept}, 1e-3)
    assert 0 < fitted.after < fitted.before

    x, y = first(images), teacher.model[1].conv(teacher.model[0](images))[:, list(kept)].flatten(2)
    patches = F.unfold(x, 3, padding=1, stride=2).view(4, len(x[0]), 9, -1)
    taken = torch.cat(at)[:, None].expand(-1, len(kept), -1)
    x = patches.gather(3, taken[:, :, None].expand(-1, -1, 9, -1)).permute(0, 3, 1, 2).flatten(0, 1)  # (n, c, 9)
    y = y.gather(2, taken).transpose(1, 2).flatten(0, 1)
    for k, (inputs, outputs, w) in enumerate(
        zip(x.chunk(conv.groups, 1), y.chunk(conv.groups, 1), w0.chunk(conv.groups), strict=True)
    ):
        weights = torch.cat(weight).flatten().double()
        expected, c = ridge_solution(
            inputs.flatten(1).double().detach(), outputs.double().detach(), weights, w.flatten(1).T, 1e-3
        )
        own = slice(k * len(w), (k + 1) * len(w))
        torch.testing.assert_close(conv.weight[own].flatten(1).T.double(), expected, rtol=1e-3, atol=1e-4)
        shift = (mean - student.model[1].bn.running_mean)[own]
        torch.testing.assert_close(shift.double(), c, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kept", [2**30, 0])
def test_the_layers_read_what_the_network_reads(kept: int) -> None:
    """Whether activations are kept between layers or computed again."""
    network, images = build(), random_images(7)
    expected: dict[int, list[torch.Tensor]] = {}

    def remember(i: int, x: Any) -> None:
        expected[i] = x if isinstance(x, list) else [x]

    for i, layer in enumerate(network.model):
        layer.register_forward_pre_hook(lambda _, x, i=i: remember(i, x[0]))
    with evaluating(network), torch.no_grad():
        network(images)
        whole, walk = dict(expected), LayerwisePass(network, images, batch=3, kept=kept)
        for i in range(len(network.model)):
            if i:
                walk.step()
            batches = [x if isinstance(x, list) else [x] for x in walk.inputs()]
            assert [len(parts[0]) for parts in batches] == [3, 3, 1]
            for k, source in enumerate(whole[i]):
                found = torch.cat([parts[k] for parts in batches])
                torch.testing.assert_close(found, source, rtol=1e-3, atol=1e-3)


def test_what_repeats_is_recovered_exactly() -> None:
    """Half of the channels of layers 3 and 5 repeat the other half; cut, their readers can do all that they did."""
    network = build()
    for i in (3, 5):
        block = network.model[i]
        half = block.conv.out_channels // 2
        for t in (block.conv.weight, block.bn.weight, block.bn.bias, block.bn.running_mean, block.bn.running_var):
            t.data[half:] = t.data[:half]
    scores = {f"model.{i}": -torch.arange(c, dtype=torch.float32) for i, c in ((3, 64), (5, 128))}
    plan = plan_pruning(network, 0.5, layers=[3, 5], scores=scores)
    pruned, images = cut(network, plan).network, random_images()
    found = recover(pruned, network, plan, images, ridge=1e-9)
    assert found.divergence[0] > 1e-4 and found.divergence[1] < 1e-6 * found.divergence[0] + 1e-9
    fresh = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        (ours,), (theirs,) = (raw_predictions(n.eval(), fresh) for n in (pruned, network))
    for key in ("boxes", "scores", "proto"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-2, atol=1e-2)
    assert [layer.name for layer in found.layers][:2] == ["model.3.conv", "model.4.cv1.conv"]


def test_what_no_prediction_needs_is_sampled_with_equal_weights() -> None:
    """The semantic segmentation beside YOLO26's prototypes; both sets of branches get gradients."""
    network: Any = SegmentationModel("yolo26n-seg.yaml", nc=3, verbose=False)
    head = "model.23"
    needed = [
        "model.16.cv2.conv",
        f"{head}.cv3.0.0.0.conv",
        f"{head}.one2one_cv2.0.0.conv",
        f"{head}.one2one_cv4.0.0.conv",
    ]
    unneeded = [f"{head}.proto.semseg.0.conv", f"{head}.proto.semseg.2"]
    with evaluating(network, auxiliary=True):
        found = choose_positions(network, needed + unneeded, random_images(3, 64), positions=20, seed=0)
        assert not network.model[16].cv2.bn.training
    assert not any(m._forward_hooks for m in network.modules())
    for name in needed + unneeded:
        weight = torch.cat(found[name].weight)
        assert weight.shape == torch.cat(found[name].index).shape == (3, 20)
        assert bool((weight == 1).all()) == (name in unneeded)
        assert bool((found[name].curvature == 0).all()) == (name in unneeded)
    assert len(found[unneeded[1]].curvature) == 3


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_mosaics_are_made_of_four_scaled_parts(kind: torch.dtype) -> None:
    """Images that grow along both axes: in a mosaic each of the four parts does so too, in steps of 1 to 2."""
    ramp = torch.arange(64, dtype=torch.float32)
    images = torch.stack([ramp.expand(64, 64), 64 + ramp[:, None].expand(64, 64)])[:, None].to(kind)
    made = make_mosaics(images, 40, seed=1)
    assert made.shape == (40, 1, 64, 64) and made.dtype == kind
    assert torch.equal(made, make_mosaics(images, 40, seed=1)) and not torch.equal(
        made, make_mosaics(images, 40, seed=2)
    )
    rounding, seen = (0.01 if kind.is_floating_point else 1), set()
    for mosaic in made[:, 0].float():
        for corner in (mosaic[:12, :12], mosaic[:12, -12:], mosaic[-12:, :12], mosaic[-12:, -12:]):
            across, down = corner.diff(dim=1)[2:-2, 2:-2], corner.diff(dim=0)[2:-2, 2:-2]
            along, still = (across, down) if corner.max() < 64 else (down, across)
            step = float(along.mean())
            assert 0.9 <= abs(step) <= 2.2 and still.abs().max() <= rounding
            assert float((along - step).abs().max()) <= 0.3 + rounding
            seen.add((bool(corner.max() < 64), step > 0))
    assert seen == {(True, True), (True, False), (False, True)}  # mirrored from left to right only


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_both_kinds_of_model(method: str) -> None:
    for network in (build(nc=3), DetectionModel("yolov8n.yaml", nc=3, verbose=False).eval()):
        network.train()
        plan, images = plan_pruning(network, 0.25), random_images(4, 64)
        pruned, again = cut(network, plan).network, cut(network, plan).network
        before, reference = copy.deepcopy(pruned.state_dict()), copy.deepcopy(network.state_dict())
        found = recover(pruned, network, plan, (images * 255).byte(), method=method)
        recover(again, network, plan, (images * 255).byte(), method=method)
        after = pruned.state_dict()
        assert all(torch.equal(after[k], t) for k, t in again.state_dict().items())  # the same seed
        assert all(torch.equal(network.state_dict()[k], t) for k, t in reference.items())
        assert pruned.training and network.training and not any(m._forward_hooks for m in pruned.modules())
        assert all(torch.equal(after[k], before[k]) for k in before) == (method == "none")
        fitted = method == "least_squares"
        assert (found.method, found.images, found.mosaics) == (method, 4, 8 * fitted)
        assert sorted(layer.name for layer in found.layers) == sorted(touched_convolutions(again, network) * fitted)
        assert str(found).startswith(method)


def test_everything_that_a_cut_has_touched_is_fitted() -> None:
    """Depthwise convolutions, attentions, both sets of branches, and what training alone has use for."""
    network: Any = SegmentationModel("yolo26n-seg.yaml", nc=3, verbose=False)
    plan = plan_pruning(network, 0.5, layers="all")
    pruned = cut(network, plan).network
    found = recover(pruned, network, plan, random_images(2, 64), positions=20, mosaics=0)
    names = [layer.name for layer in found.layers]
    assert sorted(names) == sorted(touched_convolutions(pruned, network))
    assert all(layer.after <= layer.before * (1 + 1e-6) + 1e-6 for layer in found.layers)
    for part in ("proto.semseg.0", "cv3.0.0.0", "one2one_cv3.2.1.0"):
        assert f"model.23.{part}.conv" in names
    assert {f"model.10.m.0.attn.{part}.conv" for part in ("qkv", "pe", "proj")} <= set(names)


def test_errors_leave_the_model_as_it_was() -> None:
    network, images = build(), random_images(4, 64)
    plan = plan_pruning(network, 0.25)
    pruned = cut(network, plan).network
    before = copy.deepcopy(pruned.state_dict())
    broken = copy.deepcopy(network)
    broken.model[9].cv1.bn.running_var[0] = float("nan")
    with pytest.raises(ConfigError, match="did you mean 'least_squares'"):
        recover(pruned, network, plan, images, method="least_square")
    with pytest.raises(DataError, match="expected calibration images"):
        recover(pruned, network, plan, images[:0])
    with pytest.raises(DataError, match="finite"):
        recover(pruned, broken, plan, images)
    with pytest.raises(PlanError, match="pass its plan"):
        recover(pruned, network, plan_pruning(network, 0.5), images)
    assert all(torch.equal(pruned.state_dict()[k], t) for k, t in before.items())


@pytest.mark.slow
def test_held_out_real_images(real_yolo: Any, real_weights: Any) -> None:
    """Least squares brings predictions on images it never saw much nearer than the cut, and nearer than BatchNorm."""
    images = load_images(COCO_MINI.parent / "images" / "train", 160, limit=48)
    held_out = load_images(COCO_MINI.parent / "images" / "val", 160, limit=24)
    far = {}
    for method in METHODS:
        model = load_model(real_weights)
        apply_plan(model, plan_pruning(model, 0.25), recovery=method, images=images)
        with torch.no_grad(), evaluating(model.model), evaluating(real_yolo.model):
            found = (raw_predictions(network, held_out) for network in (model.model, real_yolo.model))
            far[method] = float(divergence(*found).total)
    assert far["least_squares"] < 0.5 * far["none"] and far["least_squares"] < 0.7 * far["bn"]
