"""Widths and plans: exact widths whatever the scores, plans that survive JSON, plans that refuse other models."""

import copy
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build
from hypothesis import given
from hypothesis import strategies as st

from depgraph_hsic_only import ConfigError, PlanError, PruningPlan, apply_plan, plan_pruning, register_criterion
from depgraph_hsic_only.channels.groups import ChannelGroup, trace_channels
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import follow_ties, partial_widths, threshold_widths, uniform_widths
from depgraph_hsic_only.criteria import registry

GRAPHS = {scale: trace_channels(build(scale)) for scale in "ns"}


@given(
    scale=st.sampled_from(sorted(GRAPHS)),
    ratio=st.integers(0, 999).map(lambda k: k / 1000),
    round_to=st.sampled_from([8, 16, 32]),
    min_channels=st.integers(0, 70),
)
def test_uniform_widths_are_the_nearest_multiples(scale: str, ratio: float, round_to: int, min_channels: int) -> None:
    widths = uniform_widths(GRAPHS[scale], ratio, Limits(round_to, min_channels))
    for group in GRAPHS[scale].widths:
        c, kept = group.channels, widths[group.name]
        if group.name == "h9":
            assert kept == widths["w8"] // 2
            continue
        smallest, multiple = (8, round_to) if group.name[0] == "w" else (4, 4)
        wanted = c * (1 - Fraction(str(ratio)))
        nearest = min(range(0, c + multiple, multiple), key=lambda m: (abs(m - wanted), -m))
        floor = next(m for m in range(smallest, 999, smallest) if m >= min_channels)
        assert kept == (c if ratio == 0 else min(c, max(nearest, floor)))
        assert kept % smallest == 0


def test_repeats_are_a_width_that_targets_and_limits_alone_are_of() -> None:
    graph = trace_channels(build(), [2, 4, 15], depth=True)
    assert list(graph.full) == ["h2", "w2", "d2", "h4", "w4", "d4", "h15", "w15", "d15", "box", "class", "mask"]
    assert [w.channels for w in graph.widths if w.is_repeats] == [1, 2, 1]
    limits = Limits(round_to=32, min_channels=64, max_ratio={"d4": 0.5, 15: 0.9})
    assert [limits.smallest(w) for w in graph.widths if w.is_repeats] == [0, 1, 1]
    scores = {group.name: torch.zeros(group.channels) for group in graph.groups}
    for widths in (uniform_widths(graph, 0.9), threshold_widths(graph, scores, 1.0)):
        assert {name: n for name, n in widths.items() if name[0] == "d"} == {"d2": 1, "d4": 2, "d15": 1}
        assert all(n < graph.full[name] for name, n in widths.items() if name[0] in "hw")
    wanted = follow_ties(graph, graph.full | {"d4": 0, "h4": 16})
    halfway = [partial_widths(graph, wanted, Fraction(k, 4)) for k in range(5)]
    assert [(w["d4"], w["h4"]) for w in halfway] == [(2, 32), (2, 28), (1, 24), (1, 20), (0, 16)]
    for wrong in (3, -1, 1.0):
        with pytest.raises(PlanError, match=r"width d4: expected an integer in \[0, 2\], got"):
            make_plan(graph, scores, graph.full | {"d4": wrong}, criterion="test", reasons={})  # type: ignore[dict-item]


def test_bins_are_a_width_that_targets_alone_are_of() -> None:
    """The nearest stay, whatever a criterion says, and the branch for the boxes is as wide as Ultralytics makes it."""
    model = build()
    graph = trace_channels(model, "all")
    (bins,) = (w for w in graph.widths if w.name == "reg_max")
    limits = Limits(), Limits(round_to=32, min_channels=32), Limits(min_channels=99), Limits(max_ratio={"reg_max": 0})
    assert [limit.smallest(bins) for limit in limits] == [4, 8, 16, 16]
    assert [Limits(max_ratio=share).smallest(bins) for share in (0.3, {22: 0.5}, 1.0)] == [12, 8, 4]
    scores = {group.name: torch.arange(group.channels) / group.channels for group in graph.groups}  # the last best
    assert graph.ranked.groups == tuple(group for group in graph.groups if group.width != "reg_max")
    ranked = {group.name: scores[group.name] for group in graph.ranked.groups}
    for widths in (uniform_widths(graph, 0.9), threshold_widths(graph, ranked, 2.0)):
        assert (widths["reg_max"], widths["box"]) == (16, 64) and widths["w15"] < 64 > widths["npr"]
    for amount in ({"ratio": 0.5}, {"threshold": 2.0}):
        plan = plan_pruning(model, **amount, layers="all", criterion="random")
        (kept,) = (w for w in plan.widths if w.name == "reg_max")
        assert kept.after == kept.before == 16 and kept.reason == "bins are cut for a target alone"
    for changes, box in (({}, 64), ({"w15": 8}, 64), ({"reg_max": 8}, 32), ({"reg_max": 4, "w15": 8}, 16)):
        widths = follow_ties(graph, graph.full | changes)
        assert widths["box"] == box == max(widths["w15"] // 4, 16, 4 * widths["reg_max"])
        plan = make_plan(graph, scores, widths, criterion="test", reasons=dict.fromkeys(widths, ""))
        kept = {group.keep for group in plan.groups if group.width == "reg_max"}
        assert kept == {tuple(range(widths["reg_max"]))}
    whole = plan_pruning(model, 0.5, layers="all", criterion="random").to_dict()
    earlier = {key: [it for it in whole[key] if "reg_max" not in it.values()] for key in ("widths", "groups")}
    assert [len(whole[key]) - len(earlier[key]) for key in earlier] == [1, 1]
    states = []
    for data in (whole, whole | earlier):
        cut = copy.deepcopy(model)
        apply_plan(cut, PruningPlan.from_dict(data))
        states.append(cut.state_dict())
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    far = plan.to_dict()
    for group in far["groups"]:
        group["keep"] = [k + (12 if group["width"] == "reg_max" else 0) for k in group["keep"]]
    with pytest.raises(PlanError, match=r"expected the first bins to stay, got \[12, 13, 14, 15\]"):
        apply_plan(copy.deepcopy(model), PruningPlan.from_dict(far))
    for wrong in (3, 17):
        with pytest.raises(PlanError, match=r"width reg_max: expected an integer in \[4, 16\], got"):
            make_plan(graph, scores, graph.full | {"reg_max": wrong}, criterion="test", reasons={})


@pytest.mark.parametrize("score", ["ties", "zeros", "two values", "descending"])
def test_exactly_the_planned_channels_whatever_the_scores(score: str) -> None:
    graph = GRAPHS["n"]
    make = {
        "ties": torch.ones,
        "zeros": torch.zeros,
        "two values": lambda c: (torch.arange(c) % 2).float(),
        "descending": lambda c: -torch.arange(c).float(),
    }[score]
    widths = uniform_widths(graph, 0.6)
    scores = {group.name: make(group.channels) for group in graph.groups}
    plan = make_plan(graph, scores, widths, criterion="test", reasons=dict.fromkeys(widths, ""))
    for cut in plan.groups:
        assert len(cut.keep) == widths[cut.width]
        if score in ("ties", "zeros", "descending"):
            assert cut.keep == tuple(range(widths[cut.width]))  # of equal scores the lower index stays


def test_a_plan_replays_to_bit_identical_weights(tmp_path: Path) -> None:
    model, other = build(), build()
    plan = plan_pruning(model, 0.5, layers=[4, 5, 9])
    apply_plan(model, plan)
    again = PruningPlan.load(plan.save(tmp_path / "plan.json"))
    assert again == plan
    apply_plan(other, again)
    a, b = model.state_dict(), other.state_dict()
    assert list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)
    assert "w4" in str(plan) and "64 -> 32" in str(plan)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("groups"), "expected a pruning plan"),
        (lambda d: d.update(format=99), "format 1"),
        (lambda d: d["groups"][0].update(keep=[0, 0, 1]), "ascending channel indices"),
        (lambda d: d["groups"][0].update(keep=[10_000]), "ascending channel indices"),
        (lambda d: d["groups"][0].update(keep="abc"), "ascending channel indices"),
        (lambda d: d.update(widths=3), "expected a pruning plan"),
        (lambda d: d["widths"][0].update(colour="red"), "expected a pruning plan"),
    ],
)
def test_a_damaged_plan_is_refused(damage: Any, message: str, tmp_path: Path) -> None:
    data = plan_pruning(build(), 0.5, layers=[3]).to_dict()
    damage(data)
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=message):
        PruningPlan.load(tmp_path / "plan.json")


def test_a_plan_for_another_model_is_refused_and_changes_nothing() -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PlanError, match="made for"):
        apply_plan(model, plan_pruning(build("s"), 0.5))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.2}, "0 <= ratio < 1"),
        ({"ratio": 1}, "0 <= ratio < 1"),
        ({"ratio": -0.1}, "0 <= ratio < 1"),
        ({"ratio": float("nan")}, "0 <= ratio < 1"),
        ({"ratio": "abc"}, "0 <= ratio < 1"),
        ({"ratio": True}, "0 <= ratio < 1"),
        ({"layers": [3, 44]}, "got 44"),
        ({"layers": "neck"}, "'backbone', 'all' or a list"),
        ({"layers": [1.0]}, "got 1.0"),
        ({"layers": 3}, "'backbone', 'all' or a list"),
        ({"round_to": 12}, "round_to"),
        ({"min_channels": -1}, "min_channels"),
        ({"imgsz": "wide"}, "imgsz: expected a side in pixels of at least 32, got 'wide'"),
        ({"imgsz": -5}, "imgsz: expected a side in pixels of at least 32, got -5"),
        ({"criterion": "magnitud"}, "did you mean 'magnitude'"),
        ({"criterion": "random", "sed": 1}, "unknown option 'sed'"),
    ],
)
def test_wrong_settings_are_refused_and_change_nothing(settings: dict[str, Any], message: str) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        plan_pruning(model, **({"ratio": 0.5} | settings))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_criterion_of_ones_own_and_its_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))  # others list all criteria

    @register_criterion("test_last")
    def last(group: ChannelGroup, *, wrong: str = "") -> torch.Tensor:
        score = torch.arange(group.channels).float()
        return {"": score, "shape": score[1:], "nan": score * float("nan")}[wrong]

    plan = plan_pruning(build(), 0.5, criterion="test_last")
    assert all(cut.keep == tuple(range(cut.channels - len(cut.keep), cut.channels)) for cut in plan.groups)
    for wrong in ("shape", "nan"):
        with pytest.raises(PlanError, match="finite scores"):
            plan_pruning(build(), 0.5, criterion="test_last", wrong=wrong)
    with pytest.raises(ConfigError, match="taken"):
        register_criterion("test_last")(last)
