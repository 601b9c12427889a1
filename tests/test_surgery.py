"""A cut model is a stock Ultralytics model, and does what the full one does without the removed channels."""

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from conftest import build, every, outputs
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from depgraph_hsic_only import ConfigError, PlanError, PruningPlan, apply_plan, plan_pruning, prune
from depgraph_hsic_only.channels.cut import kept_channels
from depgraph_hsic_only.utils.conversion import split_c2f
from depgraph_hsic_only.workflow.stages.prune_steps import Step
from depgraph_hsic_only.yolo.architecture import layer_widths
from depgraph_hsic_only.yolo.cost import measure_cost

RATIOS = [step / 20 for step in range(19)]
FEW = [0.0, 0.05, 0.35, 0.9]
SCOPES = ("backbone", "all")
COUNTS = [(1, True, "all"), (10, True, "backbone"), (10, False, "all"), (80, False, "all")]
CUTS: list[tuple[Any, float]] = [
    ("backbone", 0.3),
    ("backbone", 0.8),
    ([0], 0.5),
    ([2], 0.5),
    ([4, 6], 0.6),
    ([8], 0.5),
    ([9], 0.5),
    ([3, 9], 0.7),
    ([15], 0.5),
    ([12, 16, 18, 19, 21], 0.4),
    ([22], 0.5),
    ("all", 0.5),
]


def widths_of(model: Any) -> dict[str, int]:
    """The widths of a stock model, read off its modules."""
    widths = {}
    for i, layer in enumerate(model.model[:-1]):
        if i in (2, 4, 6, 8, 12, 15, 18, 21):
            assert layer.cv1.conv.out_channels == 2 * layer.c
            assert {conv.conv.out_channels for b in layer.m for conv in (b.cv1, b.cv2)} == {layer.c}
            widths[f"h{i}"] = layer.c
        if i == 9:
            widths["h9"] = layer.cv1.conv.out_channels
        if any(True for _ in layer.parameters()):
            widths[f"w{i}"] = (layer if i in (0, 1, 3, 5, 7, 16, 19) else layer.cv2).conv.out_channels
    head = model.model[-1]
    widths["reg_max"] = head.dfl.conv.in_channels
    assert {scale[2].out_channels for scale in head.cv2} == {4 * widths["reg_max"]}
    assert (head.reg_max, head.no) == (widths["reg_max"], head.nc + 4 * widths["reg_max"])
    for name, branch in {"box": head.cv2, "class": head.cv3, "mask": getattr(head, "cv4", ())}.items():
        for scale in branch:
            hidden = {conv.conv.out_channels for conv in scale[:2]}
            assert hidden == {widths.setdefault(name, *hidden)}
    if hasattr(head, "proto"):
        made = {m.out_channels for m in (head.proto.cv1.conv, head.proto.upsample, head.proto.cv2.conv)}
        assert made == {head.npr}
        widths["npr"] = head.npr
    return widths


def assert_invariants(original: Any, pruned: Any, plan: PruningPlan) -> None:
    for m in pruned.modules():
        assert type(m).__module__.startswith(("torch.", "ultralytics.")), type(m)

    rebuilt = type(pruned)(copy.deepcopy(pruned.yaml), verbose=False)
    branch = f"model.{len(pruned.model) - 1}.cv3."
    shapes, wanted = ({k: v.shape for k, v in m.state_dict().items()} for m in (rebuilt, pruned))
    assert [k for k in wanted if shapes.get(k) != wanted[k] and not k.startswith(branch)] == []
    rebuilt.load(copy.deepcopy(pruned), verbose=False)
    state, wanted = rebuilt.state_dict(), pruned.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[k], wanted[k]) for k in wanted)
    image = torch.rand(1, 3, 64, 96)
    for a, b in zip(outputs(rebuilt, image), outputs(pruned, image), strict=True):
        assert torch.equal(a, b)

    before, after = widths_of(original), widths_of(pruned)
    assert plan.before.items() <= before.items()
    assert plan.after.items() <= after.items()
    assert {k: v for k, v in after.items() if k not in plan.after} == {
        k: v for k, v in before.items() if k not in plan.after
    }
    assert after["h9"] == after["w8"] // 2
    w15, full = after["w15"], before["w15"]
    needed = before["class"] if w15 == full else max(w15, min(pruned.model[-1].nc, 100))
    assert after["class"] == min(before["class"], needed)
    box = before["box"] if w15 == full and plan.after.get("reg_max", 16) == before["reg_max"] else max(w15 // 4, 16)
    assert after["box"] == min(before["box"], max(box, 4 * after["reg_max"]))
    assert layer_widths(pruned) == after


def masked(original: Any, plan: PruningPlan) -> Any:
    """A second implementation: the full model in which every removed channel is zero wherever it is read.

    Removed bins have no probability.
    """
    model = copy.deepcopy(original)
    for cut in plan.groups:
        mask = torch.zeros(cut.channels)
        mask[list(cut.keep)] = 1
        layer = model.model[int(cut.name.split(".")[1])]
        part = cut.name.split(".", 2)[2] if cut.name.count(".") > 1 else ""
        if cut.width.startswith("w"):
            layer.register_forward_hook(multiply(mask))
        elif part == "cv1.first" or part == "first":
            layer.cv1.register_forward_hook(multiply(torch.cat([mask, torch.ones(layer.c)])))
        elif part == "second":
            layer.cv1.register_forward_hook(multiply(torch.cat([torch.ones(layer.c), mask])))
            for bottleneck in layer.m:
                if bottleneck.add:
                    bottleneck.register_forward_hook(multiply(mask))
        elif cut.width == "reg_max":
            far = mask.repeat(4)[None, :, None, None] == 0
            hook = functools.partial(lambda far, _, __, output: output.masked_fill(far, -1e9), far)
            model.get_submodule(cut.name).register_forward_hook(hook)
        else:
            model.get_submodule(cut.name).register_forward_hook(multiply(mask))
    return model


def multiply(mask: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda module, inputs, output: output * mask[None, :, None, None]


@pytest.mark.parametrize(
    ("nc", "transferred", "layers"),
    every(COUNTS, [case for case in itertools.product((1, 10, 80), (False, True), SCOPES) if case not in COUNTS]),
)
def test_invariants_for_every_class_count(nc: int, transferred: bool, layers: str) -> None:
    original = build("n", nc, transferred=transferred)
    cut = copy.deepcopy(original)
    report = prune(cut, 0.5, layers=layers)
    if layers == "all":  # every branch is what Segment builds, so the YAML alone has all shapes
        rebuilt = SegmentationModel(copy.deepcopy(cut.yaml), verbose=False).state_dict()
        assert {k: v.shape for k, v in rebuilt.items()} == {k: v.shape for k, v in cut.state_dict().items()}
    assert_invariants(original, cut, report.plan)
    assert report.after.parameters == sum(p.numel() for p in cut.parameters())
    assert cut.yaml["nc"] == nc and cut.yaml["head"][-1][3][0] == "nc"


@pytest.mark.parametrize("scale", every(["s"], ["m", "l", "x"]))
def test_invariants_for_every_scale(scale: str) -> None:
    original = build(scale, 10, transferred=scale in "sl")
    cut = copy.deepcopy(original)
    assert_invariants(original, cut, prune(cut, 0.4, layers=[1, 2, 4, 6, 8, 9] if scale == "s" else "all").plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "nc", "transferred", "layers"),
    list(itertools.product("nsmlx", (1, 10, 80), (False, True), SCOPES)),
)
def test_invariants_for_all_combinations(scale: str, nc: int, transferred: bool, layers: str) -> None:
    original = build(scale, nc, transferred=transferred)
    cut = copy.deepcopy(original)
    assert_invariants(original, cut, prune(cut, 0.5, layers=layers).plan)


@pytest.mark.parametrize("ratio", every(FEW, [ratio for ratio in RATIOS if ratio not in FEW]))
def test_invariants_at_every_ratio(ratio: float) -> None:
    original = build()
    cut = copy.deepcopy(original)
    assert_invariants(original, cut, prune(cut, ratio).plan)


@pytest.mark.parametrize(
    ("layers", "ratio", "nc"),
    every(
        [(*cut, (2, 80)[k % 2]) for k, cut in enumerate(CUTS)],
        [(*cut, (80, 2)[k % 2]) for k, cut in enumerate(CUTS)],
    ),
)
def test_does_what_the_full_model_does_without_the_removed_channels(layers: object, ratio: float, nc: int) -> None:
    original = build(nc=nc, transferred=nc != 80)
    plan = plan_pruning(original, ratio, criterion="random", seed=3, layers=layers)
    assert plan.before != plan.after
    cut = copy.deepcopy(original)
    apply_plan(cut, plan)
    image = torch.rand(2, 3, 64, 96)
    for a, b in zip(outputs(cut, image), outputs(masked(original, plan), image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert_invariants(original, cut, plan)


def test_same_parameters_as_torch_prunings_local_pruner() -> None:
    model = build()
    split: Any = split_c2f(copy.deepcopy(model)).requires_grad_(True)
    kept = [m for layer in split.model[10:] for m in layer.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]

    class RawOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = split

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            self.network.model[-1].training = True
            return [t for name, t in self.network(x).items() if name != "feats"]

    tp.pruner.BasePruner(
        RawOutputs(),
        torch.zeros(1, 3, 64, 64),
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=kept,
    ).step()
    report = prune(model, 0.5)
    assert report.after.parameters == sum(p.numel() for p in split.parameters())


def test_real_model_at_half_has_the_known_size(real_yolo: Any) -> None:
    original = copy.deepcopy(real_yolo.model)
    report = prune(real_yolo, 0.5)
    assert report.before.parameters == 3_409_968
    assert report.after.parameters == 2_397_448 == sum(p.numel() for p in real_yolo.model.parameters())
    assert report.before.gmacs == pytest.approx(6.0, abs=0.01)
    assert_invariants(original, real_yolo.model, report.plan)


def test_ratio_zero_changes_no_weight() -> None:
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = prune(model, 0)
    assert report.plan.before == report.plan.after
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("layers", ["backbone", "all"])
def test_detection_models_too(layers: str) -> None:
    original = DetectionModel("yolov8n.yaml", nc=4, verbose=False).eval()
    cut = copy.deepcopy(original)
    assert_invariants(original, cut, prune(cut, 0.5, layers=layers).plan)
    with pytest.raises(ConfigError, match="got 20 in"):
        prune(cut, 0.5, layers=[20, 21])


def test_mode_device_format_and_frozen_parameters_stay() -> None:
    model = build().half().train()
    model.requires_grad_(False)
    model.model[3].conv.weight.requires_grad_(True)
    prune(model, 0.5)
    assert model.training and model.model[2].training and model.model[2].cv1.bn.training
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["model.3.conv.weight"]


def test_a_pruned_model_can_be_pruned_again_and_plans_compose() -> None:
    once, twice = build(), build()
    first = prune(twice, 0.25, layers=[2, 7, 8]).plan
    second = plan_pruning(twice, 0.5, criterion="random", layers=[2, 7, 8])
    steps = Step(0, once).then(twice, first, kept_channels(once, first), {})
    steps = steps.then(twice, second, kept_channels(twice, second), {})
    assert steps.kept == kept_channels(once, first.then(second))  # as a run that goes on finds it out
    apply_plan(twice, second)
    apply_plan(once, first.then(second))
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))
    with pytest.raises(PlanError, match="made for the result"):
        second.then(second)


def test_random_state_is_left_alone() -> None:
    model = build()
    state = torch.random.get_rng_state()
    prune(model, 0.5, criterion="random", seed=1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_cost_is_that_of_the_convolutions() -> None:
    model, macs = build(), [0]

    def count(m: Any, inputs: Any, output: torch.Tensor) -> None:
        per_output = m.weight[0].numel() if isinstance(m, nn.Conv2d) else m.in_channels
        macs[0] += output.numel() * per_output

    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) and m is not model.model[-1].dfl.conv:
            m.register_forward_hook(count)
    outputs(model, torch.zeros(1, 3, 640, 640))
    assert measure_cost(build(), 630).gmacs == pytest.approx(macs[0] / 1e9)


@pytest.mark.parametrize("source", ["file", "yaml"])
def test_the_live_object_is_as_good_as_the_file(source: str, tmp_path: Any, request: Any) -> None:
    yolo = request.getfixturevalue("real_yolo") if source == "file" else YOLO("yolov8n-seg.yaml")
    image = torch.rand(1, 3, 64, 64)
    yolo.predict(image, verbose=False)  # leaves a fused copy in yolo.predictor
    network = yolo.model
    report = prune(yolo, 0.5)
    assert yolo.model is network and report.after.parameters == sum(p.numel() for p in network.parameters())
    yolo.save(tmp_path / "pruned.pt")
    again = YOLO(tmp_path / "pruned.pt")
    assert sum(p.numel() for p in again.model.parameters()) == report.after.parameters
    yolo.predict(image, verbose=False)
    assert sum(p.numel() for p in yolo.predictor.model.parameters()) < report.after.parameters
    assert yolo.ckpt and not yolo.ckpt.get("optimizer") and yolo.ckpt_path is None
    assert isinstance(network, SegmentationModel)
