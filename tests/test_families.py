"""Every family, scale and task: a cut model is stock, costs what was planned, and does what the full one does."""

import copy
import functools
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import enliven, every
from torch import nn
from ultralytics.nn.tasks import guess_model_task, yaml_model_load

from depgraph_hsic_only import (
    ConfigError,
    PlanError,
    PruningPlan,
    UnsupportedModelError,
    apply_plan,
    plan_pruning,
    prune,
)
from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.channels.groups import ChannelGraph, trace_channels
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import follow_ties
from depgraph_hsic_only.pruning.describe import describe
from depgraph_hsic_only.utils.conversion import merge_c2f, split_c2f
from depgraph_hsic_only.workflow.stages.prune_steps import Step
from depgraph_hsic_only.yolo.architecture import layer_repeats, layer_widths, origin_of
from depgraph_hsic_only.yolo.cost import on_meta
from depgraph_hsic_only.yolo.predictions import raw_predictions
from depgraph_hsic_only.yolo.tasks import TASKS

VARIANTS = [  # family, tasks
    ("yolov8{}", ("", "-seg", "-pose", "-obb", "-p2", "-p6", "-seg-p6", "-pose-p6")),
    ("yolo11{}", ("", "-seg", "-pose", "-obb")),
    ("yolo12{}", ("", "-seg", "-pose", "-obb")),
    ("yolo26{}", ("", "-seg", "-pose", "-obb", "-p2", "-p6")),
]
NANOS = [family.format("n") + task for family, tasks in VARIANTS for task in tasks]
LARGER = [family.format(scale) + task for family, tasks in VARIANTS for scale in "smlx" for task in tasks]
EACH = ["yolov8n-obb", "yolov8n-seg-p6", "yolo11n-pose", "yolo12n", "yolo26n-seg"]
EACH = every(EACH, [name for name in NANOS if name not in EACH])


def build(name: str, nc: int = 5, scaled: tuple[float, float, int] | None = None) -> Any:
    """A network with random weights, whose signals neither vanish nor explode with depth, and live residual scales.

    Its scale is `scaled` in depth, width and the most channels where these are given.
    """
    return copy.deepcopy(_built(name, nc, scaled))


@functools.lru_cache(maxsize=4)
def _built(name: str, nc: int, scaled: tuple[float, float, int] | None) -> Any:
    torch.manual_seed(0)
    yaml = yaml_model_load(f"{name}.yaml")
    if scaled is not None:
        yaml["scales"] = {yaml["scale"]: list(scaled)}
    return enliven(TASKS[guess_model_task(yaml)].model(yaml, nc=nc, verbose=False)).eval()


def tensors(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, (dict, list, tuple)):
        own = [t for key, t in found.items() if key != "feats"] if isinstance(found, dict) else found
        for part in own:
            yield from tensors(part)


def predicted(network: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """All that a network puts out, decoded and raw, of training alone too."""
    with torch.no_grad():
        found = list(tensors(network.eval()(image)))
        for module in (network.model[-1], getattr(network.model[-1], "proto", None)):
            if module is not None:
                module.training = True
        found += tensors(raw_predictions(network, image))
    network.eval()
    return found


def assert_stock(original: Any, cut: Any, plan: PruningPlan) -> None:
    assert all(type(m).__module__.startswith(("torch.", "ultralytics.")) for m in cut.modules())
    rebuilt = type(cut)(copy.deepcopy(cut.yaml), verbose=False)
    shapes, wanted = ({k: v.shape for k, v in m.state_dict().items()} for m in (rebuilt, cut))
    assert [k for k in {**shapes, **wanted} if shapes.get(k) != wanted.get(k) and "cv3." not in k] == []
    kinds = [[type(m) for m in network.modules()] for network in (rebuilt, cut)]
    assert kinds[0] == kinds[1]
    rebuilt.load(copy.deepcopy(cut), verbose=False)
    assert list(rebuilt.state_dict()) == list(cut.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(predicted(rebuilt, image), predicted(cut, image), strict=True))
    before, after = (layer_widths(network) | layer_repeats(network) for network in (original, cut))
    gone = {n for n in before if n[0] in "abf" and after.get(f"d{n[1:]}") == 0 != before[f"d{n[1:]}"]}
    assert gone.isdisjoint(plan.after) and plan.before.items() <= before.items()
    assert after == {name: width for name, width in (before | plan.after).items() if name not in gone}


def assert_costs(graph: ChannelGraph, costs: CostModel, report: Any) -> None:
    assert costs.parameters(graph.full) == pytest.approx(report.before.parameters, abs=0.5)
    assert costs.parameters(report.plan.after) == pytest.approx(report.after.parameters, abs=0.5)
    assert costs.gmacs(graph.full) == pytest.approx(report.before.gmacs)
    assert costs.gmacs(report.plan.after) == pytest.approx(report.after.gmacs)


def masked(original: Any, plan: PruningPlan) -> Any:
    """A second implementation: the full model in which every removed channel is zero wherever it is read.

    What removed attention heads put out is zero where it is projected, and so is what removed inner blocks put out.
    Removed bins have no probability.
    """
    model = copy.deepcopy(original)
    for bins in (width.after for width in plan.widths if width.name == "reg_max" and width.after < width.before):
        for scale in model.model[-1].cv2:
            far = torch.arange(scale[2].out_channels) % model.model[-1].reg_max >= bins
            scale[2].register_forward_hook(lambda _, __, out, far=far: out.masked_fill(far[None, :, None, None], -1e9))
    for width in plan.widths:
        for block in model.model[width.layer].m[width.after :] if width.name == f"d{width.layer}" else ():
            block.register_forward_hook(lambda _, __, output: output * 0)
    graph = trace_channels(original, list(plan.layers))
    keep = {group.name: torch.tensor(group.keep) for group in plan.groups}
    masks: dict[str, torch.Tensor] = {}
    for group in (group for group in graph.groups if group.name in keep):
        for member in group.members:
            if member.role == "input":
                path = member.name
                for part in ("first", "second"):
                    path = path.replace(f".{part}.conv", ".cv1.conv")
                for part in ("q", "k", "v"):
                    path = path.replace(f".attn.{part}.conv", ".attn.qkv.conv")
                mask = masks.setdefault(path, torch.ones(model.get_submodule(path).in_channels))
                mask[member.index[~torch.isin(member.channel, keep[group.name])]] = 0
    for path, mask in masks.items():
        hook = functools.partial(lambda mask, m, inputs: (inputs[0] * mask[None, :, None, None],), mask)
        model.get_submodule(path).register_forward_pre_hook(hook)
    return model


def assert_same(cut: Any, full: Any, image: torch.Tensor) -> None:
    """All outputs are those of the full model, but for the logits of bins that its removed ones don't have."""
    bins, before = (network.model[-1].reg_max for network in (cut, full))
    for a, b in zip(predicted(cut, image), predicted(full, image), strict=True):
        if b.shape[1] == 4 * before and bins < before:
            assert a.shape[1] == 4 * bins
            b = b.unflatten(1, (4, before))[:, :, :bins].flatten(1, 2)
        if b.shape[1:2] != (300,):  # an end-to-end head's choice of the best, in an order that rounding changes
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", EACH)
def test_does_what_the_full_model_does_without_the_removed_channels(name: str) -> None:
    original = build(name)
    cut = copy.deepcopy(original)
    report = prune(cut, 0.5, criterion="random", seed=3, layers="all")
    assert_stock(original, cut, report.plan)
    graph = trace_channels(original, "all")
    assert_costs(graph, CostModel(original, graph), report)
    image = torch.rand(2, 3, 64, 64) if "p6" in name else torch.rand(2, 3, 64, 96)
    assert_same(cut, masked(original, report.plan), image)


_WITH_BINS = [family + task for family in ("yolov8n", "yolo11n") for task in ("-seg", "", "-pose", "-obb")]
_FIRST = ("yolov8n-seg", "yolo11n-pose")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in _FIRST)) for name in _WITH_BINS]
)
def test_does_what_the_full_model_does_without_the_removed_bins(name: str) -> None:
    """With logits that tell distances apart, in a branch for the boxes that gets narrower too."""
    original = build(name)
    for scale in original.model[-1].cv2:
        nn.init.normal_(scale[2].weight, 0, 0.3)
        nn.init.normal_(scale[2].bias, 0, 2)
    cut, image = copy.deepcopy(original), torch.rand(2, 3, 64, 96)
    graph = trace_channels(original, "all")
    widths = follow_ties(graph, graph.full | {"reg_max": 8})
    scores = {group.name: torch.rand(group.channels) for group in graph.groups}
    plan = make_plan(graph, scores, widths, criterion="test", reasons=dict.fromkeys(widths, ""))
    report, head = apply_plan(cut, PruningPlan.from_dict(plan.to_dict())), cut.model[-1]
    assert {name for name, n in plan.after.items() if n < plan.before[name]} == {"reg_max", "box"}
    assert (head.reg_max, head.no, plan.after["box"], cut.yaml["reg_max"]) == (8, head.nc + 32, 32, 8)
    assert type(cut)(copy.deepcopy(cut.yaml), verbose=False).model[-1].reg_max == 8
    assert_stock(original, cut, plan)
    full = masked(original, plan)
    assert_same(cut, full, image)
    boxes, farther = (predicted(network, image)[0][:, :4] for network in (full, original))
    assert float((boxes - farther).abs().max()) > 1  # pixels
    assert_costs(graph, CostModel(original, graph), report)


DEEP = (1.0, 0.25, 512)  # of many repeats, and narrow
EACH_DEEP = [("yolov8n-seg", DEEP), ("yolo12l", (0.67, 0.25, 512)), ("yolo26n-pose", DEEP)]
MORE_DEEP = [(f"{name}m-seg", None) for name in ("yolov8", "yolo11", "yolo12", "yolo26")] + [("yolo12n-seg", DEEP)]


@pytest.mark.parametrize(("name", "scaled"), every(EACH_DEEP, MORE_DEEP))
def test_does_what_the_full_model_does_without_the_removed_blocks(name: str, scaled: Any) -> None:
    """At random repeats and widths, of which it costs exactly what was foreseen."""
    original, draw = build(name, scaled=scaled), random.Random(name)
    graph = trace_channels(original, "all", depth=True)
    widths = graph.full
    for width in (w for w in graph.widths if w.tie is None):
        steps = width.channels // width.multiple
        widths[width.name] = width.multiple * draw.randint(width.least, max(width.least, steps - width.is_repeats))
    widths = follow_ties(graph, widths)
    scores = {group.name: torch.rand(group.channels) for group in graph.groups}
    plan = make_plan(graph, scores, widths, criterion="test", reasons=dict.fromkeys(widths, ""))
    repeats = {change.name: (change.before, change.after) for change in plan.widths if change.is_repeats}
    assert repeats == {name: (n, widths[name]) for name, n in layer_repeats(original).items()}
    assert all(after < before or (before == 1 and "12" in name) for before, after in repeats.values())
    cut = copy.deepcopy(original)
    report = apply_plan(cut, PruningPlan.from_dict(plan.to_dict()))
    assert_stock(original, cut, plan)
    assert_costs(graph, CostModel(original, graph), report)
    fewer = {name for name, (before, after) in repeats.items() if after < before}
    assert report.widths_before == {n: w for n, w in graph.full.items() if n in fewer or n not in repeats}
    has = layer_widths(cut) | layer_repeats(cut)
    assert report.widths_after == {name: has.get(name, 0) for name in report.widths_before}
    told = ", ".join(f"layer {n[1:]}: {before} -> {after}" for n, (before, after) in repeats.items() if n in fewer)
    assert f"Repeats of {told}" in " ".join(str(report).split())
    assert_same(cut, masked(original, plan), torch.rand(1, 3, 64, 96))


def test_cuts_of_repeats_one_after_the_other_are_one_cut() -> None:
    """In a last step of a plan that knows of widths alone too; a block that is gone takes its widths along."""
    original = build("yolo26n-pose", scaled=DEEP)
    networks, plans, made = [original], list[PruningPlan](), Step(0, original)
    for changes in ({"d8": 1, "h8": 48, "d22": 0}, {"d8": 0, "w8": 40, "d4": 0}, {"h8": 32, "w22": 64}):
        graph = trace_channels(networks[-1], [4, 8, 22], depth=any(name[0] == "d" for name in changes))
        widths = follow_ties(graph, graph.full | changes)
        scores = {group.name: torch.rand(group.channels) for group in graph.groups}
        plans.append(make_plan(graph, scores, widths, criterion="test", reasons=dict.fromkeys(widths, "")))
        done = cut(networks[-1], plans[-1])
        assert done.kept.keys() <= {name for name, _ in done.network.named_modules()}
        made = made.then(done.network, plans[-1], done.kept, {})
        networks.append(done.network)
    assert made.plan is not None and not {"b4", "b8", "b22", "a22", "f22"} & made.plan.after.keys()
    at_once = cut(original, PruningPlan.from_dict(made.plan.to_dict()))
    assert at_once.kept == made.kept and at_once.network.yaml == networks[-1].yaml
    found, wanted = at_once.network.state_dict(), networks[-1].state_dict()
    assert list(found) == list(wanted) and all(torch.equal(found[k], wanted[k]) for k in wanted)
    origin = {"widths": layer_widths(original), "repeats": layer_repeats(original)}
    assert origin.items() <= (origin_of(networks[-1]) or {}).items() and origin_of(networks[-1]) == origin_of(
        networks[1]
    )
    with pytest.raises(PlanError, match="made for the result"):
        plans[1].then(plans[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("nc", [1, 10, 80])
def test_every_family_and_task(name: str, nc: int) -> None:
    for layers, ratio in itertools.product(("backbone", "all"), (0.25, 0.5)):
        original, cut = build(name, nc), build(name, nc)
        report = prune(cut, ratio, criterion="random", layers=layers)
        assert_stock(original, cut, report.plan)
        graph = trace_channels(original, layers)
        assert_costs(graph, CostModel(original, graph), report)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_every_scale(name: str) -> None:
    original = build(name)
    for layers, ratio in itertools.product(("backbone", "all"), (0.25, 0.5)):
        cut = copy.deepcopy(original)
        report = prune(cut, ratio, criterion="random", layers=layers)
        rebuilt = type(cut)(copy.deepcopy(cut.yaml), verbose=False)
        shapes, wanted = ({k: v.shape for k, v in m.state_dict().items()} for m in (rebuilt, cut))
        assert list(shapes) == list(wanted)
        assert [k for k in wanted if shapes[k] != wanted[k] and "cv3." not in k] == []
        graph = trace_channels(original, layers)
        assert_costs(graph, CostModel(original, graph), report)


@pytest.mark.parametrize("name", ["yolo12n-seg", "yolov8n-p6", "yolo26n"])
def test_the_split_form_gives_the_same_outputs(name: str) -> None:
    original = build(name)
    split: Any = split_c2f(copy.deepcopy(original))
    image = torch.rand(1, 3, 64, 128)
    for a, b in zip(predicted(split, image), predicted(original, image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    merged = merge_c2f(split)
    assert list(merged.state_dict()) == list(original.state_dict())
    assert all(torch.equal(v, original.state_dict()[k]) for k, v in merged.state_dict().items())
    assert [type(m) for m in merged.modules()] == [type(m) for m in original.modules()]


def test_attention_goes_in_whole_heads_or_stays() -> None:
    nano, large = build("yolo11n"), on_meta(build("yolo11m"))
    plan = plan_pruning(nano, 0.2, criterion="random", layers="all")
    assert plan.before["a10"] == plan.after["a10"] == 2 and plan.after["h10"] == 128 and plan.after["w10"] < 256
    halved = plan_pruning(nano, 0.5, criterion="random", layers="all").after
    assert (halved["a10"], halved["h10"], halved["f10"]) == (1, 64, 128)
    assert halved["w10"] == halved["w9"] == 2 * halved["h9"] * halved["w9"] // halved["w8"]
    widths = layer_widths(large)
    assert widths["a10"] == widths["h10"] // 64 == 4


def test_learned_residual_scales_cost_no_multiply_adds() -> None:
    narrow = yaml_model_load("yolo12l.yaml") | {"scales": {"l": [0.25, 0.25, 512]}}
    original: Any = TASKS["detect"].model(narrow, nc=5, verbose=False).eval()
    assert original.model[6].gamma is not None
    cut = copy.deepcopy(original)
    report = prune(cut, 0.5, criterion="random", layers="all")
    graph = trace_channels(original, "all")
    assert_costs(graph, CostModel(original, graph), report)


def test_names_and_parts_of_other_families() -> None:
    for name, nc in (("yolo26n-seg", 80), ("yolo11n-pose", 1), ("yolo12n-obb", 15)):
        cut = build(name, nc)
        assert [origin.name for origin in describe(cut).origins] == [name]
        prune(cut, 0.5, criterion="random", layers="all")
        found = describe(cut)
        assert found.pruned and [origin.name for origin in found.origins] == [name]
        assert sum(part.parameters for part in found.cost.parts) <= found.cost.parameters


def test_layers_whose_widths_an_amount_leaves_as_they_are_are_refused() -> None:
    """What a detection head has of its own are bins, for targets alone; SPPF with a shortcut follows what it reads."""
    for name, layer in (("yolov8n", 22), ("yolo26n", 9)):
        with pytest.raises(ConfigError, match=rf"a width that a ratio cuts, got \[{layer}\]"):
            plan_pruning(build(name), 0.5, layers=[layer], criterion="magnitude")


def test_what_is_not_in_the_table_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layer 1 is .*GhostConv"):
        prune(build("yolov8n-ghost-p2"), 0.5)


def test_a_plan_that_splits_a_head_is_refused() -> None:
    network = build("yolo11n")
    plan = plan_pruning(network, 0.5, criterion="random", layers=[10])
    data = plan.to_dict()
    for width in data["widths"]:
        if width["name"] == "h10":
            width["after"] = 96
    for group in data["groups"]:
        if group["width"] == "h10":
            group["keep"] = tuple(range(96))
    with pytest.raises(ValueError, match=r"h10: expected an integer in \[1, 128\] and a multiple of 64, got 96"):
        apply_plan(network, PruningPlan.from_dict(data))
