"""A budget spent on image size and precision too: the search alone, and through a run."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch
from conftest import build
from hypothesis import given
from hypothesis import strategies as st
from test_workflow import settings
from ultralytics import YOLO

from depgraph_hsic_only import ConfigError, DefaultYoloPruner, load_model
from depgraph_hsic_only.axes import trials
from depgraph_hsic_only.axes.candidates import (
    Candidate,
    candidate_sides,
    from_dict,
    leading,
    read_axes,
    search,
    to_dict,
)
from depgraph_hsic_only.axes.choice import Choice
from depgraph_hsic_only.budget.reachable import OutOfReach
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.budgets import Budget
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.evaluation.deployed.deployment import Deployment
from depgraph_hsic_only.evaluation.file_size import FileKind
from depgraph_hsic_only.evaluation.onnx import onnx_input, open_session
from depgraph_hsic_only.evaluation.relative_latency import TimeShare
from depgraph_hsic_only.evaluation.validation import Validation
from depgraph_hsic_only.pruning import planner as planning
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.workflow.config import load_config
from depgraph_hsic_only.workflow.evaluations import Evaluations
from depgraph_hsic_only.workflow.stages import trainings
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.input_shape import InputShape


def test_axes_and_sizes_as_they_are_written() -> None:
    assert read_axes("imgsz,width") == ("width", "imgsz") == read_axes(["width", "imgsz"])
    for wrong, message in {"height": "got 'height'", "": "one or several", "widht": "did you mean 'width'"}.items():
        with pytest.raises(ConfigError, match=f"axes: expected .*{message}"):
            read_axes(wrong)
    assert candidate_sides(320, 32) == [96, 128, 160, 192, 224, 256, 288, 320]
    assert candidate_sides(640, 32)[-3:] == [512, 576, 640] and min(candidate_sides(1280, 64)) >= 384
    assert candidate_sides(32, 32) == [32]
    faults = {
        "prune.axes": ("imgsz", "expected a target to meet by imgsz, got a ratio"),
        "export.quantize": (8, "expected none beside prune.axes with precision"),
    }
    for key, (value, message) in faults.items():
        target = {} if key == "prune.axes" else {"prune.target": "size=0.5", "prune.axes": "width,precision"}
        with pytest.raises(ConfigError, match=f"{key}: {message}"):
            load_config(None, {**target, key: value})


@given(
    st.lists(st.integers(0, 50), min_size=8, max_size=8),
    st.lists(st.integers(0, 9), min_size=8, max_size=8),
    st.integers(0, 7),
    st.integers(0, 8),
)
def test_the_best_candidate_is_found_and_nothing_is_made_twice(
    scores: list[int], losses: list[int], begin: int, met: int
) -> None:
    """Against every candidate there is, where scores rise to one peak; cut off anywhere, it goes on from there."""
    sides = candidate_sides(320, 32)
    peak, possible = sorted(scores[:4]) + sorted(scores[4:], reverse=True), sides[begin : begin + met]
    table = {(side, "float"): (peak[k] + k / 9, 0.0) for k, side in enumerate(sides)}
    table |= {(side, "int8"): (peak[k] + k / 7 + 2, float(losses[k])) for k, side in enumerate(sides)}
    made: list[tuple[int, str]] = []
    kept: list[Mapping[tuple[int, str], Candidate]] = [{}]

    def attempt(side: int, precision: str) -> Candidate:
        made.append((side, precision))
        if side not in possible:
            return Candidate(side, precision, why=f"target: {side} px are too slow")
        return Candidate(side, precision, 1, 1.0, table[side, precision][0], seconds=1.0)

    def confirm(candidate: Candidate) -> Candidate:
        lost = table[candidate.key][1]
        return replace(candidate, score=(candidate.score or 0) - lost, lost=lost)

    def found(known: Mapping[tuple[int, str], Candidate], keep: Any, most: int = 1) -> tuple[Candidate, ...]:
        return search(sides, ["int8", "float"], attempt, confirm, known, keep, lambda _: sides[begin], most)

    if not possible:
        with pytest.raises(ConfigError, match=f"target: {sides[begin]} px are too slow"):
            found({}, lambda _: None)
        return
    best, *others = found({}, lambda now: kept.append(dict(now)), 3)
    assert len({c.imgsz for c in (best, *others)}) == 1 + len(others) <= 3
    for one in others:
        assert (one.score or 0) >= (0.8 if one.imgsz > best.imgsz else 0.9) * (best.score or 0)
    tried = {key: (score, lost) for key, (score, lost) in table.items() if key in made}
    for one in (best, *others):  # of each size the best, by what it is worth as it is deployed
        known = [score - lost for (side, _), (score, lost) in tried.items() if side == one.imgsz]
        assert one.score == pytest.approx(max(known)) and (one.precision == "float" or one.lost is not None)
    assert len(made) == len(set(made)) and min(side for side, _ in made) == sides[begin]
    tops = {p: max(table[side, p][0] for side in possible) for p in ("float", "int8")}
    assert best.score is not None  # one peak: none that is better was left out
    if {p for _, p in made} == {"float", "int8"}:
        assert best.score >= tops["float"]
    else:  # nothing that is in float and needs more cut can be better by more than int8 has lost
        assert best.lost is not None and best.lost <= 0.05 * best.score and best.score + best.lost <= tops["int8"]
    for state in kept:
        made.clear()
        known = from_dict(json.loads(json.dumps(to_dict(list(state.values())))))
        assert found(known, lambda _: None)[0].score == best.score
        assert not set(made) & set(known)


def test_budgets_stay_those_of_the_unpruned_network_at_its_own_size(monkeypatch: Any) -> None:
    network = build("n", 5)
    timed = Deployment(InputShape(120, 160), threads=1)
    planner = Planner("magnitude", Amount.target("gmacs=0.5,params=0.9,latency=0.6"), imgsz=160, timed=timed)
    smaller = planner.on(network, 128, "int8")
    assert smaller.timed is not None and smaller.timed.shape == InputShape(96, 128) and smaller.unpruned == timed
    (macs,) = (budget for budget in smaller.amount.budgets if budget.metric == "gmacs")
    assert macs.absolute and macs.value == pytest.approx(0.5 * measure_cost(network, 160).gmacs)
    assert [b for b in smaller.amount.budgets if b.metric != "gmacs"] == list(planner.amount.budgets[1:])
    assert smaller.timed.precision == "int8" and smaller.file.int8 and planner.on(network, 160) is planner
    assert smaller.on(network, 96).unpruned == timed
    sized = replace(planner, amount=Amount.target("size=0.5"), timed=None)
    weighed: list[float] = []
    weigh = FileKind.weigh
    monkeypatch.setattr(FileKind, "weigh", lambda *given: weighed.append(weigh(*given)) or weighed[-1])
    fixed = sized.fixed(network)
    amounts = [of.amount.budgets for of in (fixed, fixed.on(network, 128), fixed.on(network, 96, "int8"))]
    assert amounts == [(Budget("size", 0.5 * weighed[0], absolute=True),)] * 3 and len(weighed) == 1


def test_a_search_begins_with_the_largest_images_for_which_nothing_need_be_cut(monkeypatch: Any) -> None:
    """By multiply-adds and latency, which here goes with the area; smaller images save no parameters."""

    def clock(network: Any, graph: Any, timed: Deployment, unpruned: Deployment | None) -> Any:
        share = timed.shape.height * timed.shape.width / (unpruned or timed).shape.width ** 2
        return lambda widths: TimeShare.of([10.0, 10.0], [10 * share, 10 * share])

    monkeypatch.setattr(planning, "relative_latency", clock)
    model, sides = YOLO("yolov8n-seg.yaml"), candidate_sides(160, 32)
    begun = {}
    for target in (
        "gmacs=0.5",
        "latency=0.65",
        "gmacs=0.9,latency=0.2",
        "gmacs=0.1",
        "params=0.5",
        "gmacs=0.65,params=0.9",
    ):
        planner = Planner("magnitude", Amount.target(target), imgsz=160)
        subject = trials.Subject(planner, model, {}, Sensitivity({}, {}, 0, 0.0), "none")
        begun[target] = trials.Trials(subject, cast(trials.Judge, None), Path()).first(sides, "float")
    assert sides == [64, 96, 128, 160] and [*begun.values()] == [96, 128, 64, 64, 160, 128]


def test_what_other_axes_meet_is_not_refused_and_what_cannot_be_run_is(monkeypatch: Any) -> None:
    """By a clock for which int8 takes half of the time, and no width saves any; PyTorch runs no int8."""

    def clock(network: Any, graph: Any, timed: Deployment, unpruned: Deployment | None) -> Any:
        share = 0.5 if timed.precision == "int8" else 0.99
        return lambda widths: TimeShare.of([10.0, 10.0], [10 * share, 10 * share])

    monkeypatch.setattr(planning, "relative_latency", clock)
    network, shape = build("n", 5), InputShape(64, 64)
    planner = Planner("magnitude", Amount.target("latency=0.8"), imgsz=64, timed=Deployment(shape))
    trials.check_axes(planner, network, ["width", "precision"])
    with pytest.raises(ConfigError, match=r"can reach, got latency=0.8, but .* takes 0.990"):
        trials.check_axes(planner, network, ["width", "imgsz"])
    with pytest.raises(ConfigError, match=r"can reach, got latency=0.4, but .* takes 0.500"):
        trials.check_axes(replace(planner, amount=Amount.target("latency=0.4")), network, ["width", "precision"])
    for runtime, possible in ("onnxruntime", True), ("torch", False):
        of = replace(planner, amount=Amount.target("size=0.3"), timed=Deployment(shape, runtime), layers=[8])
        with nullcontext() if possible else pytest.raises(ConfigError, match="of the bytes of the file are left"):
            trials.check_axes(of, network, ["width", "precision"])


def test_what_precision_loses_is_measured_on_files_of_their_own_shape_and_a_broken_clock_is_no_answer(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    model, data = load_model(checkpoint), find_dataset(str(shapes))
    planner = Planner("magnitude", Amount.target("size=0.5"), imgsz=64, timed=Deployment(InputShape(32, 64)))
    subject = trials.Subject(planner, model, {}, Sensitivity({}, {}, 0, 0.0), "none")
    made = trials.Trials(subject, trials.Judge(data, Validation(64, 4), "cpu", 0), tmp_path)
    model.save(tmp_path / "64-int8.pt")
    confirmed = made.confirm(Candidate(64, "int8", 1, 1.0, 0.5))
    assert confirmed.lost is not None and confirmed.score == pytest.approx(0.5 - confirmed.lost)
    for error, answers in (OutOfReach("too slow"), True), (ConfigError("ssh: timed out"), False):
        monkeypatch.setattr(Planner, "plan", Mock(side_effect=error))
        with nullcontext() if answers else pytest.raises(ConfigError, match="ssh: timed out"):
            assert made.attempt(64, "float").why == "too slow"


def test_finalists_come_near_the_best_and_training_decides_between_them() -> None:
    """Of every size the best, larger ones first, none that is too far behind, none that can't meet the target."""
    rows = [(320, "float", 0.49), (288, "float", 0.5), (288, "int8", 0.4), (256, "float", 0.6), (224, "float", 0.55)]
    rows += [(192, "float", 0.53), (160, "float", 0.58)]
    found = tuple(Candidate(side, precision, 1, 1.0, score) for side, precision, score in rows)
    every = (Candidate(352, "float", why="too slow"), *found)
    sides = [[c.imgsz for c in leading(every, most)] for most in (1, 2, 9)]
    assert sides == [[256], [256, 288], [256, 288, 320, 160, 224]]
    far = [replace(c, score=0.47) for c in found if c.imgsz > 256]
    assert [c.imgsz for c in leading([*far, *found[3:]], 2)] == [256, 160]
    choice = Choice(every, (256, "float"), 64, leading(every, 2))
    decided = choice.decided({(256, "float"): 0.61, (288, "float"): 0.62})
    assert decided.chosen == (288, "float") and decided.best.tuned == 0.62 and choice.best.imgsz == 256
    assert [row["tuned"] for row in decided.to_dict()["candidates"]] == [None, None, 0.62, None, 0.61, None, None, None]
    for single in ({"prune.steps": 2}, {"prune.max_map_drop": 0.1}, {"fine_tune.epochs": 0}):
        settings = {"prune.target": "gmacs=0.5", "prune.axes": "width,imgsz", **single}
        assert load_config(None, settings).finalists == 1 < load_config(None, {}).finalists
        with pytest.raises(ConfigError, match=r"prune\.finalists: expected 1 with several steps"):
            load_config(None, {**settings, "prune.finalists": 2})


def test_a_run_is_of_the_finalist_that_training_makes_the_best_and_killed_it_repeats_nothing(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Random weights are worth nothing, so it is said here what they are: untrained 64 px, fine-tuned 96 px is best.

    The run is cut off in the search and in the second finalist's training.
    """
    measure, validate, evaluate = trials.Trials.attempt, trials.validate_model, Evaluations.of
    tried: list[int] = []
    trained: list[int] = []
    asked: list[int] = []

    def worth(found: Any, value: float) -> Any:
        return replace(found, metrics={kind: replace(of, map50_95=value) for kind, of in found.metrics.items()})

    def attempt(self: trials.Trials, imgsz: int, precision: str) -> Candidate:
        tried.append(imgsz)
        if tried == [64, 96]:
            raise KeyboardInterrupt
        return measure(self, imgsz, precision)

    def untrained(model: Any, data: str, validation: Any, **where: Any) -> Any:
        return worth(validate(model, data, validation, **where), 1 - abs(64 - validation.imgsz) / 400)

    def fine_tuned(self: Evaluations, model: Any, validation: Any, *given: Any) -> Any:
        if given[-1]:  # training images
            asked.append(validation.imgsz)
        return worth(evaluate(self, model, validation, *given), validation.imgsz / 1000)

    def begin(trainer: Any) -> None:
        trained.append(trainer.args.imgsz)
        if trained == [64, 96]:
            raise KeyboardInterrupt

    def stop(trainer: Any) -> None:
        trainer.stop = trainer.epoch == 1  # as by patience

    def pruner() -> DefaultYoloPruner:
        found = DefaultYoloPruner(checkpoint, **given)
        found.add_callback("on_train_start", begin)
        found.add_callback("on_fit_epoch_end", stop)
        return found

    def plan(self: Planner, *scored: Any) -> Any:
        planned.extend([self.imgsz] * (self.trials == Planner("magnitude").trials))
        return make(self, *scored)

    make, planned = Planner.plan, list[int]()
    monkeypatch.setattr(Planner, "plan", plan)
    monkeypatch.setattr(trials, "validate_model", untrained)
    monkeypatch.setattr(trials.Trials, "attempt", attempt)
    monkeypatch.setattr(Evaluations, "of", fine_tuned)
    own = {"optimizer": "AdamW", "lr0": 1e-4, "nbs": 4, "batch": 4}
    monkeypatch.setattr(trainings, "trained_on", lambda *_: own)
    given = settings(tmp_path, shapes, **{"imgsz": 128, "train.epochs": 0, "fine_tune.epochs": 4, "prune.ratio": None})
    given |= {"prune.target": "gmacs=0.5", "prune.axes": ["width", "imgsz"], "calibration.images": 4}
    given |= {"prune.layers": [4, 6, 8]}  # which save too little at 128 px
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pruner().run()
    kept = [(run / name).stat().st_mtime_ns for name in ("sensitivity.json", "scores.pt")]
    with pytest.raises(KeyboardInterrupt):
        pruner().run(resume=run)
    report = pruner().run(resume=run)
    assert [(run / name).stat().st_mtime_ns for name in ("sensitivity.json", "scores.pt")] == kept
    assert tried == [64, 96, 96, 128]
    assert planned == [64, 96]  # once each: by a clock it would be another plan the second time
    assert set(asked) == {128}  # what is known by heart is of the size that it was learnt at
    assert trained == [64, 96, 96]  # the first one once, and none for the result, though all have stopped early

    before, after, search_ = report.before, report.after, report.stages[1].details["search"]
    assert (before.imgsz, after.imgsz, report.validation.imgsz) == (128, 96, 96)
    assert after.gmacs <= 0.5 * before.gmacs and after.metrics
    rows = {row["imgsz"]: row for row in search_["candidates"]}
    assert "can meet" in rows[128]["why"] and rows[96]["cut"] and not rows[64]["cut"] and search_["images"] == 8
    assert [(row["tuned"], row["chosen"]) for row in rows.values()] == [(0.064, False), (0.096, True), (None, False)]
    assert after.name == "fine_tuned" and len(after.epochs) == 2 < 4 and "selection" in after.details
    said = [[note for note in stage.notes if "trained" in note] for stage in report.stages[1:]]
    assert not said[0] and said[1][0] == "trained as one of the finalists: the time is in that of the pruning"
    assert any("by which the best one" in note for note in report.stages[1].notes)
    assert (run / "finetune-64px-float").is_dir() and not (run / "finetune-96px-float").exists()
    assert (run / "finetune" / "results.csv").read_text().count("\n") == 3
    for name in ("pruned.pt", "best.pt"):
        assert torch.load(run / "weights" / name, weights_only=False)["train_args"]["imgsz"] == 96
        assert YOLO(run / "weights" / name).overrides["imgsz"] == 96
    assert onnx_input(open_session(run / "weights" / "best.onnx")).shape.size == (96, 96)
    assert report.timed is not None and report.timed.input.size == (96, 96) and report.agreement is not None
    state = json.loads((run / "state.json").read_text())["settings"]
    assert state["imgsz"] == 128 and "imgsz: 128" in (run / "args.yaml").read_text()
    assert {"search.png"} <= {path.name for path in (run / "plots").iterdir()}
    assert "fine-tuned, on" in str(report) and "The finalists were planned again" in (run / "report.html").read_text()
    assert RunReport.load(run).to_json() == report.to_json()
    assert pruner().run(resume=run).to_json() == report.to_json()
