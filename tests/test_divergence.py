"""The divergence of predictions: against the Hessian, Ultralytics' own measures of similarity, and plain loops."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch.autograd.functional import hessian
from ultralytics.utils.metrics import kpt_iou, probiou

from depgraph_hsic_only.recovery.divergence import divergence, sampled_loss

SHAPES = {
    "scores": (2, 3, 4),
    "boxes": (2, 8, 4),
    "mask_coefficient": (2, 2, 4),
    "proto": (2, 2, 2, 2),
    "kpts": (2, 3, 3, 4),
    "angle": (2, 1, 4),
}


def predictions(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """One set of raw predictions with everything that any task has; boxes of some size where they are distances."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        key: torch.randn(*shape, generator=generator, dtype=torch.float64) for key, shape in (SHAPES | shapes).items()
    }
    if made["boxes"].shape[1] == 4:
        made["boxes"] = made["boxes"].exp()
    return made


@pytest.mark.parametrize(
    ("key", "part", "shape"),
    [
        ("scores", "classes", SHAPES["scores"]),
        ("boxes", "boxes", SHAPES["boxes"]),
        ("boxes", "boxes", (2, 4, 4)),
        ("proto", "masks", SHAPES["proto"]),
        ("kpts", "keypoints", SHAPES["kpts"]),
        ("kpts", "keypoints", (2, 3, 2, 4)),
        ("angle", "angles", SHAPES["angle"]),
    ],
)
def test_drawn_gradients_have_the_curvature_of_the_divergence(key: str, part: str, shape: tuple[int, ...]) -> None:
    """Mean squared gradients over draws are the diagonal of the Hessian of D at the original, of an end-to-end head."""
    generator = torch.Generator().manual_seed(0)
    one, other = predictions(0, **{key: shape}), predictions(1, **{key: shape})
    other["scores"] -= 0.5  # less confident

    def moved(t: torch.Tensor) -> torch.Tensor:
        return divergence(({**one, key: t}, other), (one, other))[part]

    here = one[key]
    objects = sum(float(t["scores"].sigmoid().amax(1).sum().clamp_min(1)) for t in (one, other)) / 2
    curvature: Any = hessian(moved, here)
    expected = curvature.reshape(here.numel(), -1).diagonal() * objects
    assert float(expected.max()) > 0.01
    draws = 4000
    many, rest = ({k: t.repeat(draws, *[1] * (t.ndim - 1)) for k, t in each.items()} for each in (one, other))
    leaf = many[key].requires_grad_(True)
    squares = torch.autograd.grad(sampled_loss((many, rest), generator), leaf)[0].square()
    mean = squares.view(draws, *here.shape).mean(0)
    torch.testing.assert_close(mean.flatten(), expected, rtol=0.15, atol=0.01)


@pytest.mark.parametrize("sides", [4, 32])
def test_divergence_is_0_where_predictions_agree_and_grows_with_distance(sides: int) -> None:
    teacher = predictions(boxes=(2, sides, 4))
    far, both = [], []
    for step in (0.0, 0.1, 0.3):
        student = {
            k: (t + step if k in ("scores", "kpts") else t * (1 + step)).requires_grad_() for k, t in teacher.items()
        }
        found = divergence((student,), (teacher,))
        gradients = torch.autograd.grad(found.total, list(student.values()))
        assert all(bool(torch.isfinite(t).all()) for t in gradients)
        far.append(torch.stack(list(found.parts.values())))
        both.append(divergence((student, teacher), (teacher, teacher)))
    assert len(far[0]) == 5
    assert far[0].abs().max() < 1e-6 and (far[1] > 0).all() and (far[2] > far[1]).all()
    for each, found in zip(both, far, strict=True):  # the other branches have not moved
        torch.testing.assert_close(torch.stack(list(each.parts.values())), found / 2)


def test_distributions_over_equal_bins_differ_by_their_information() -> None:
    """A plain loop over anchors and sides."""
    student, teacher = (predictions(seed, boxes=(2, 32, 4)) for seed in (0, 1))
    total, weights = 0.0, teacher["scores"].sigmoid().amax(1)
    for image, anchor in itertools.product(range(2), range(4)):
        for side in (slice(8 * k, 8 * k + 8) for k in range(4)):
            p, q = (each["boxes"][image, side, anchor].softmax(0) for each in (teacher, student))
            total += float(weights[image, anchor] * (p * (p / q).log()).sum())
    found = float(divergence((student,), (teacher,))["boxes"])
    assert found == pytest.approx(total / max(1.0, float(weights.sum())), rel=1e-9) and found > 0.5


def test_fewer_bins_cost_what_lies_beyond_the_last_by_how_far_it_moves() -> None:
    """A student that is as near as it can get, all that is beyond in its last bin: what is left is the way there."""
    scores, near = torch.full((1, 1, 1), 20.0).double(), torch.rand(4, 8, generator=torch.Generator().manual_seed(0))

    def cost(beyond: dict[int, float]) -> float:
        """With so much of a box's left side at some bins, the rest of it at bin 2, and its other sides within 8."""
        p = torch.zeros(4, 16, dtype=torch.float64)
        p[:, :8] = near / near.sum(1, keepdim=True)
        if beyond:
            p[0] = torch.tensor([beyond.get(k, (1 - sum(beyond.values())) * (k == 2)) for k in range(16)])
        q = p[:, :8].clone()
        q[:, 7] += p[:, 8:].sum(1)
        theirs, ours = ({"scores": scores, "boxes": t.log().clamp_min(-1e9).view(1, -1, 1)} for t in (p, q))
        ours["boxes"].requires_grad_()
        total = divergence((ours,), (theirs,))["boxes"]
        (slope,) = torch.autograd.grad(total, ours["boxes"])
        assert float(slope.abs().max()) < 1e-6  # there is nothing nearer
        mean, shift = p @ torch.arange(16.0).double(), sum(share * (k - 7) for k, share in beyond.items() if k > 7)
        scale = 0.1 * float(mean[0] + mean[2]) + 0.1
        found = float(total.detach())
        assert found == pytest.approx(math.log1p((shift / scale) ** 2 / 2), rel=1e-6, abs=1e-9)
        return found

    assert cost({}) == pytest.approx(0, abs=1e-9) == cost({7: 0.5})
    farther, more = [cost({k: 0.3}) for k in (8, 9, 12, 15)], [cost({10: share}) for share in (0.1, 0.2, 0.4)]
    assert all(costs == sorted(costs) and 0 < costs[0] < 0.5 * costs[-1] for costs in (farther, more))


def test_plain_distances_count_relative_to_the_size_of_the_box() -> None:
    """A hundredth of a large box costs what one of a small box does; in a box of no size any shift costs a lot."""
    scores = torch.full((1, 1, 3), 20.0)
    teacher = torch.tensor([[50.0, 20, 50, 20], [500.0, 200, 500, 200], [0, 0, 0, 0]]).T[None]

    def cost(anchor: int, shift: list[float]) -> float:
        student = teacher.clone()
        student[0, :, anchor] += torch.tensor(shift)
        ours, theirs = ({"scores": scores, "boxes": boxes} for boxes in (student, teacher))
        return float(divergence((ours,), (theirs,))["boxes"])

    assert cost(1, [10, 0, 0, 0]) == pytest.approx(cost(0, [1, 0, 0, 0]), rel=0.1)
    assert cost(0, [0, 1, 0, 0]) > 4 * cost(0, [1, 0, 0, 0])  # the box is lower than it is wide
    assert cost(0, [1, 0, 0, 0]) < cost(2, [1, 0, 0, 0]) < 2
    assert cost(0, [1e-3, 0, 0, 0]) > 0  # nothing vanishes, however near


def test_shifted_keypoints_cost_what_they_lose_of_oks() -> None:
    """Of one visible keypoint about ten times −ln OKS, as Ultralytics has it, as long as the shift is small."""
    scores, boxes = torch.full((1, 1, 1), 20.0), torch.tensor([40.0, 20, 40, 20])[None, :, None]
    here, there = torch.tensor([[3.0, -2, 20]]), torch.tensor([[3.5, -2.4, 20]])
    teacher = {"scores": scores, "boxes": boxes, "kpts": here.view(1, 1, 3, 1)}
    found = float(divergence((teacher | {"kpts": there.view(1, 1, 3, 1)},), (teacher,))["keypoints"])
    oks = kpt_iou(here[None], there[None], torch.tensor([80.0 * 40]), [0.05])
    assert found == pytest.approx(-10 * float(oks.log()), rel=0.05)
    unseen = {**teacher, "kpts": torch.tensor([3.0, -2, -20]).view(1, 1, 3, 1)}
    lost = unseen | {"kpts": torch.tensor([9.0, 5, -20]).view(1, 1, 3, 1)}
    assert float(divergence((lost,), (unseen,))["keypoints"]) < 1e-6  # nobody is told where it is


def test_turned_boxes_cost_what_ultralytics_thinks_of_them() -> None:
    """Forty Bhattacharyya distances of the Gaussians whose overlap is its similarity of rotated boxes."""
    sides = torch.tensor([[3.0, 1, 3, 1], [1.0, 4, 1, 4], [2.0, 2, 2, 2]]).T[None]
    scores = torch.full((1, 1, 3), 20.0)
    angles = torch.tensor([0.2, -0.7, 1.0])
    for turn in (0.01, 0.3, math.pi / 2, 2.0, math.pi):
        found = []
        for k in range(3):
            one = {"scores": scores[..., k : k + 1], "boxes": sides[..., k : k + 1], "angle": angles[k].view(1, 1, 1)}
            found.append(float(divergence((one | {"angle": one["angle"] + turn},), (one,))["angles"]))
        size = sides[0, :2].T + sides[0, 2:].T + 0.1
        here = torch.cat([torch.zeros(3, 2), size, angles[:, None]], 1).double()
        there = here + torch.tensor([0, 0, 0, 0, turn])
        distance = -(1 - (1 - probiou(here, there)).square()).log().flatten()  # from that of Hellinger
        torch.testing.assert_close(torch.tensor(found).double(), 40 * distance, rtol=2e-2, atol=1e-4)
        assert found[2] < 1e-4 and (found[0] < 1e-4) == (turn == math.pi)
