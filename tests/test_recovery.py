"""Recovery: least squares against a second implementation, exact cases, curvature against the Hessian, real images."""

import copy
from typing import Any

import pytest
import torch
from conftest import COCO_MINI, build
from torch.autograd.functional import hessian
from ultralytics.nn.tasks import DetectionModel

from depgraph_hsic_only import ConfigError, DataError, PlanError, apply_plan, load_model, plan_pruning, recover
from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.data.images import load_images
from depgraph_hsic_only.recovery.augmentation import make_mosaics
from depgraph_hsic_only.recovery.divergence import divergence, sampled_loss
from depgraph_hsic_only.recovery.layerwise import LayerwisePass, raw_outputs
from depgraph_hsic_only.recovery.least_squares import NormalEquations
from depgraph_hsic_only.recovery.recover import METHODS
from depgraph_hsic_only.recovery.refit import touched_convolutions


def random_images(n: int = 8, side: int = 96) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3))


def test_normal_equations_give_the_weighted_ridge_solution() -> None:
    """Against lstsq on the tall system: weighted samples, an intercept column, and rows that pull W to W₀."""
    generator = torch.Generator().manual_seed(0)
    x, y, w0 = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((50, 6), (50, 3), (6, 3)))
    weight = torch.rand(50, generator=generator, dtype=torch.float64) + 0.1
    x[:, 5] = x[:, 0] - x[:, 1] + 2  # rank-deficient: only the ridge decides
    equations = NormalEquations(6, 3, torch.device("cpu"))
    for part in torch.arange(50).split(17):
        equations.add(x[part], y[part], weight[part])
    w, c = equations.solve(w0, 1e-2)

    mean = (weight @ x) / weight.sum()
    ridge = 1e-2 * (weight @ (x - mean).square()).mean()
    root = weight.sqrt()[:, None]
    pull = torch.cat([ridge.sqrt() * torch.eye(6, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64)], 1)
    tall = torch.cat([torch.cat([root * x, root], 1), pull])
    solution = torch.linalg.lstsq(tall, torch.cat([root * y, ridge.sqrt() * w0]), driver="gelsd").solution
    torch.testing.assert_close(torch.cat([w, c[None]]), solution, rtol=1e-8, atol=1e-8)
    residual = (weight @ (y - x @ w - c).square()).sum() / (weight @ (y - weight @ y / weight.sum()).square()).sum()
    assert equations.error(w, c) == pytest.approx(float(residual), rel=1e-9)


@pytest.mark.parametrize("kept", [2**30, 0])
def test_the_layers_read_what_the_network_reads(kept: int) -> None:
    """Whether activations are kept between layers or computed again."""
    network, images = build(), random_images(7)
    expected: dict[int, list[torch.Tensor]] = {}

    def remember(i: int, x: Any) -> None:
        expected[i] = x if isinstance(x, list) else [x]

    for i, layer in enumerate(network.model):
        layer.register_forward_pre_hook(lambda _, x, i=i: remember(i, x[0]))
    with raw_outputs(network), torch.no_grad():
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
    with torch.no_grad(), raw_outputs(network), raw_outputs(pruned):
        for key in ("boxes", "scores", "proto"):
            torch.testing.assert_close(pruned(fresh)[key], network(fresh)[key], rtol=1e-2, atol=1e-2)
    assert [layer.name for layer in found.layers][:2] == ["model.3.conv", "model.4.cv1.conv"]


@pytest.mark.parametrize(("key", "part"), [("scores", "classes"), ("boxes", "boxes"), ("proto", "masks")])
def test_drawn_gradients_have_the_curvature_of_the_divergence(key: str, part: str) -> None:
    """Mean squared gradients over draws are the diagonal of the Hessian of D at the original."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"scores": (1, 3, 4), "boxes": (1, 8, 4), "mask_coefficient": (1, 2, 4), "proto": (1, 2, 2, 2)}
    teacher = {name: torch.randn(*s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}

    def moved(t: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = getattr(divergence({**teacher, key: t}, teacher), part)
        return found

    here = teacher[key]
    objects = teacher["scores"].sigmoid().amax(1).sum().clamp_min(1)
    curvature: Any = hessian(moved, here)
    expected = curvature.reshape(here.numel(), -1).diagonal() * objects
    squares = torch.zeros_like(here)
    for _ in range(3000):
        leaf = here.clone().requires_grad_(True)
        squares += torch.autograd.grad(sampled_loss({**teacher, key: leaf}, generator), leaf)[0].square() / 3000
    torch.testing.assert_close(squares.flatten(), expected, rtol=0.15, atol=0.01)


def test_divergence_is_0_where_predictions_agree_and_grows_with_distance() -> None:
    network = build(nc=3)
    with torch.no_grad(), raw_outputs(network):
        teacher = network(random_images(2, 64))
    far = []
    for step in (0.0, 0.1, 0.3):
        moved = {k: t + step if k == "scores" else t * (1 + step) for k, t in teacher.items() if k != "feats"}
        found = divergence(moved, teacher)
        far.append(torch.stack([found.classes, found.boxes, found.masks]))
    assert far[0].abs().max() < 1e-6 and (far[1] > 0).all() and (far[2] > far[1]).all()


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
        found = recover(pruned, network, plan, (images * 255).byte(), method=method, steps=3)
        recover(again, network, plan, (images * 255).byte(), method=method, steps=3)
        after = pruned.state_dict()
        assert all(torch.equal(after[k], t) for k, t in again.state_dict().items())  # the same seed
        assert all(torch.equal(network.state_dict()[k], t) for k, t in reference.items())
        assert pruned.training and network.training and not any(m._forward_hooks for m in pruned.modules())
        assert all(torch.equal(after[k], before[k]) for k in before) == (method == "none")
        fitted = method in ("least_squares", "distill")
        assert (found.method, found.images, found.mosaics) == (method, 4, 8 * fitted)
        assert sorted(layer.name for layer in found.layers) == sorted(touched_convolutions(again, network) * fitted)
        assert str(found).startswith(method)


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
        apply_plan(model, plan_pruning(model, 0.25), recovery=method, images=images, steps=12)
        with torch.no_grad(), raw_outputs(model.model), raw_outputs(real_yolo.model):
            far[method] = float(divergence(model.model(held_out), real_yolo.model(held_out)).total)
    assert far["least_squares"] < 0.5 * far["none"] and far["least_squares"] < 0.7 * far["bn"]
    assert far["distill"] < far["least_squares"]
