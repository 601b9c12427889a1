"""What a model is, told from the network itself: against fresh counts, and against the model from before the cut."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build, every
from test_loading import Hostile
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from depgraph_hsic_only import ConfigError, ModelInfo, UnsupportedModelError, apply_plan, describe, load_model, prune
from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import follow_ties
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.yolo.architecture import layer_widths
from depgraph_hsic_only.yolo.cost import measure_cost


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def named(info: ModelInfo) -> list[str]:
    return [origin.name for origin in info.origins]


@pytest.mark.parametrize(
    ("name", "task", "scale"),
    [
        ("yolov8n-seg.yaml", "segment", "n"),
        ("yolov8s-seg.yaml", "segment", "s"),
        ("yolov8m.yaml", "detect", "m"),
        ("yolov8l-seg.yaml", "segment", "l"),
        ("yolov8x.yaml", "detect", "x"),
    ],
)
def test_stock_models(name: str, task: str, scale: str) -> None:
    yolo = load_model(name, task=None)
    info = describe(yolo, 320)
    assert (info.task, info.scale, info.pruned, info.verdict) == (task, scale, False, "no")
    assert named(info) == [Path(name).stem] and info.cost == measure_cost(yolo.model, 320)
    assert info.origins[0].cost == info.cost and info.origins[0].widths == info.widths == layer_widths(yolo.model)


@pytest.mark.parametrize(
    ("scale", "ratio", "layers", "transferred"),
    every(
        [("n", 0.3, "backbone", True), ("n", 0.3, [12, 22], False), ("s", 0.5, "all", True)],
        [("n", 0.3, "backbone", False), ("n", 0.3, [12, 22], True), ("s", 0.5, "all", False)],
    ),
)
def test_a_cut_model_is_compared_with_what_it_was_before(
    scale: str, ratio: float, layers: Any, transferred: bool
) -> None:
    """The class branch of a transferred model is wider than the stock model's of ten classes, before the cut too."""
    network = build(scale, nc=10, transferred=transferred)
    before, widths = measure_cost(network), layer_widths(network)
    prune(network, ratio, layers=layers)
    info = describe(network)
    assert info.pruned and info.scale == scale and named(info) == [f"yolov8{scale}-seg"]
    assert info.cost.parameters == count(network) and info.widths == layer_widths(network)
    assert (info.origins[0].widths, info.origins[0].cost) == (widths, before)
    assert f"{count(network) / before.parameters:.1%} of its parameters" in info.verdict
    assert f"{info.cost.gmacs / before.gmacs:.1%} of its multiply-adds" in info.verdict


def test_what_it_was_cut_from_stands_in_its_yaml_and_is_not_inferred() -> None:
    half = build("s")
    del half.yaml["yaml_file"]
    parameters, widths = count(half), layer_widths(half)
    prune(half, 0.5, layers="all")
    assert layer_widths(half) == layer_widths(build("n"))  # exactly n
    assert half.yaml["pruned"] == {"from": None, "classes": 80, "parameters": parameters, "widths": widths}
    prune(half, 0.2)
    info = describe(half)
    assert info.pruned and info.scale == "s" and info.pruned_from == half.yaml["pruned"]
    assert info.verdict.startswith(f"yes, from yolov8s-seg: {count(half) / parameters:.1%} of its parameters")
    for told in (None, {"from": "x"}, {"from": "x", "parameters": 0, "widths": widths}, {"widths": 3}, "yes"):
        half.yaml["pruned"] = told  # as by an earlier version, or by hand
        info = describe(half)
        assert info.pruned is None and info.origins == () and info.verdict.endswith("by an earlier version or by hand")
    prune(half, 0.2)  # by this version, after one that it knows nothing of
    assert "pruned" not in half.yaml and describe(half).verdict.endswith("by an earlier version or by hand")
    medium = SegmentationModel("yolov8m-seg.yaml", verbose=False)
    prune(medium, 0.0)
    assert describe(medium).pruned is False and describe(medium).scale == "m"


def test_repeats_that_were_left_out_stand_in_its_yaml_too() -> None:
    """Where they are all that was cut, and after another cut."""
    network = build(nc=10)
    before, graph = measure_cost(network), trace_channels(network, [4, 6], depth=True)
    widths, scores = graph.full | {"d4": 1, "d6": 0}, {g.name: torch.zeros(g.channels) for g in graph.groups}
    apply_plan(network, make_plan(graph, scores, widths, criterion="test", reasons=dict.fromkeys(widths, "")))
    for _ in range(2):
        info = describe(network)
        assert info.pruned and named(info) == ["yolov8n-seg"] and info.origins[0].cost == before
        assert [info.repeats[name] for name in ("d2", "d4", "d6")] == [1, 1, 0]
        assert info.pruned_from == network.yaml["pruned"]
        assert info.pruned_from["repeats"] == info.origins[0].repeats == info.repeats | {"d4": 2, "d6": 2}
        assert f"{count(network) / before.parameters:.1%} of its parameters" in info.verdict
        assert "repeats     layer 4: 2 -> 1, layer 6: 2 -> 0" in str(info)
        prune(network, 0.2)
    assert "\nrepeats" not in str(describe(build()))


@pytest.mark.parametrize(("cut_from", "classes"), [(80, 3), (3, 80)])
def test_a_cut_model_for_other_classes_is_held_against_the_stock_model_of_those(cut_from: int, classes: int) -> None:
    """As Ultralytics rebuilds it from its YAML for another data set, with another class branch."""
    network = SegmentationModel("yolov8n-seg.yaml", nc=cut_from, verbose=False)
    prune(network, 0.25)
    moved, stock = (SegmentationModel(yaml, nc=classes, verbose=False) for yaml in (network.yaml, "yolov8n-seg.yaml"))
    assert moved.yaml["pruned"]["classes"] == cut_from
    info = describe(moved)
    assert info.origins[0].widths == layer_widths(stock) and info.origins[0].cost.parameters == count(stock)
    assert info.verdict.startswith(f"yes, from yolov8n-seg: {count(moved) / count(stock):.1%} of its parameters")
    assert {name for name, width in info.widths.items() if width != layer_widths(stock)[name]} == {
        name for name, width in layer_widths(network).items() if width != network.yaml["pruned"]["widths"][name]
    }
    del moved.yaml["pruned"]["widths"]["w0"]
    assert describe(moved).pruned is None


def test_a_cut_model_is_held_against_the_one_that_it_was_cut_from_with_its_class_branch() -> None:
    """Transferred from 80 classes, that is wider than Ultralytics builds it for five."""
    network = build(nc=5, transferred=True)
    before, widths = measure_cost(network), layer_widths(network)
    prune(network, 0.5, layers="all", criterion="magnitude")
    info = describe(network)
    assert widths["class"] == 80 and (info.origins[0].widths, info.origins[0].cost) == (widths, before)


def test_what_it_was_cut_from_is_known_of_checkpoints_from_before_bins_were_cut() -> None:
    network = build(nc=10)
    before, widths = measure_cost(network), layer_widths(network)
    prune(network, 0.3)
    assert network.yaml["pruned"]["widths"].pop("reg_max") == 16 and "reg_max" not in network.yaml
    for reg_max in (16, 8):  # after another cut, of bins, too
        info = describe(network)
        assert info.pruned and (info.origins[0].widths, info.origins[0].cost) == (widths, before)
        assert info.widths["reg_max"] == reg_max and f"{count(network) / before.parameters:.1%} of its" in info.verdict
        graph = trace_channels(network, [22])
        fewer = follow_ties(graph, graph.full | {"reg_max": 8})
        scores = {group.name: torch.zeros(group.channels) for group in graph.groups}
        apply_plan(network, make_plan(graph, scores, fewer, criterion="test", reasons=dict.fromkeys(fewer, "")))
    assert network.yaml["pruned"]["widths"] == widths


def test_narrow_by_design_is_not_pruned() -> None:
    yaml = copy.deepcopy(build("n").yaml)
    del yaml["scale"]
    yaml["scales"] = {"z": [0.33, 0.2, 1024]}
    info = describe(
        DetectionModel(yaml | {"head": [*yaml["head"][:-1], [[15, 18, 21], 1, "Detect", ["nc"]]]}, verbose=False)
    )
    assert info.task == "detect" and info.pruned is False and info.scale is None and info.origins == ()
    assert info.verdict.startswith("no; its widths are those of its own YAML")
    network = SegmentationModel(yaml, verbose=False)
    network.yaml["yaml_file"] = "my/mine.yaml"
    before = count(network)
    prune(network, 0.3)
    info = describe(network)
    assert info.pruned and info.scale is None and info.origins == ()
    assert info.verdict == f"yes, from mine: {count(network) / before:.1%} of its parameters"
    moved = SegmentationModel(network.yaml, nc=7, verbose=False)
    assert describe(moved).verdict == "yes, from mine, which had 80 classes"
    del network.yaml["pruned"]["from"]
    assert describe(network).pruned is None


def test_the_model_is_left_alone_and_mistakes_are_refused() -> None:
    network = build().train()
    before = copy.deepcopy(network.state_dict())
    describe(network)
    assert network.training and all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert not any(p.is_meta for p in network.parameters())
    with pytest.raises(ConfigError, match="imgsz: expected a side"):
        describe(network, 0)
    with pytest.raises(UnsupportedModelError, match="got Linear"):
        describe(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("layers", every(["all"], ["backbone"]))
def test_the_command_on_a_saved_cut(layers: str, tmp_path: Path, capsys: Any) -> None:
    yolo = YOLO("yolov8s-seg.yaml")
    full = count(yolo.model)
    prune(yolo, 0.4, layers=layers)
    yolo.save(tmp_path / "yolov8x.pt")  # its name is no evidence
    assert main(["info", str(tmp_path / "yolov8x.pt"), "--imgsz", "320", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    again = load_model(tmp_path / "yolov8x.pt").model
    cost = measure_cost(again, 320)
    assert (told["parameters"], told["gmacs"], told["imgsz"]) == (count(again), cost.gmacs, 320)
    assert told["parameters"] == count(yolo.model) < full
    assert told["widths"] == layer_widths(again) and told["classes"] == [str(name) for name in again.names.values()]
    assert told["pruned"] is True and told["scale"] == "s" and told["task"] == "segment"
    assert [(o["name"], o["parameters"]) for o in told["origins"]] == [("yolov8s-seg", full)]
    assert main(["info", "--imgsz", "320", str(tmp_path / "yolov8x.pt")]) == 0
    shown = capsys.readouterr().out
    assert f"yes, from yolov8s-seg: {count(again) / full:.1%} of its parameters" in shown
    assert f"{count(again):,}" in shown and f"{cost.gmacs:.3f}" in shown and "prototypes" in shown


def test_json_is_all_of_stdout(capfd: Any) -> None:
    """Ultralytics warns of a YAML without a scale, on stdout."""
    assert main(["info", "yolov8-seg.yaml", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["scale"] == "n"


def test_the_real_checkpoint(real_weights: Path, capsys: Any) -> None:
    assert main(["info", str(real_weights)]) == 0
    shown = capsys.readouterr().out
    assert "80: person, bicycle" in shown and "3,409,968" in shown and "6.001" in shown


def test_a_hostile_checkpoint_runs_no_code(tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "owned"
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps({"model": Hostile(target), "train_args": {}}))
    assert main(["info", str(tmp_path / "hostile.pt")]) == 2
    assert "could not be loaded" in capsys.readouterr().err and not target.exists()
    pickle.loads((tmp_path / "hostile.pt").read_bytes())
    assert target.exists()  # the file would have done it
