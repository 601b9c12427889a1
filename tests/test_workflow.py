"""The whole workflow on drawn shapes: what a run writes, what its report says, and what a user may replace."""

import csv
import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
import yaml
from conftest import save_untrained
from ultralytics import YOLO
from ultralytics.engine.model import Model

from depgraph_hsic_only import (
    ConfigError,
    DataError,
    DefaultYoloPruner,
    DefaultYolov8SegPruner,
    Exported,
    PruningPlan,
    UnsupportedModelError,
    Yolov8SegPruner,
    apply_plan,
    load_model,
    plan_pruning,
    prune,
)
from depgraph_hsic_only.criteria.hsic_lasso import HsicLasso
from depgraph_hsic_only.data.dataset import find_dataset, labelled_batches
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.evaluation.validation import Accuracy, Metrics
from depgraph_hsic_only.pruning.planner import Planner
from depgraph_hsic_only.support.fingerprint import fingerprint
from depgraph_hsic_only.training.callbacks import read_epochs
from depgraph_hsic_only.utils.conversion import export_onnx, verify_onnx
from depgraph_hsic_only.utils.plots import plot_metrics
from depgraph_hsic_only.workflow.stages import cuts
from depgraph_hsic_only.workflow.stages.prune_steps import Step
from depgraph_hsic_only.yolo import architecture
from depgraph_hsic_only.yolo.tasks import TASKS, map_column

CSV_HEADER = "stage,parameters,gmacs,size_mb,metrics/mAP50-95(B),metrics/mAP50-95(M),latency_ms"


def settings(folder: Path, data: Path, **more: Any) -> dict[str, Any]:
    """Of a run without rivals, whose int8 file alone takes a third of its time."""
    common = {"imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "project": str(folder), "name": "run"}
    return {"data": str(data), "plots": False, "cfg": None, "rivals": None, **common, "export.images": 2, **more}


def parameters(path: Path) -> int:
    return sum(p.numel() for p in YOLO(path).model.parameters())


def same_weights(a: Path, b: Path) -> bool:
    states = [YOLO(path).model.state_dict() for path in (a, b)]
    return list(states[0]) == list(states[1]) and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_run_from_an_80_class_model_to_a_proven_file(shapes: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Transfer to the data set's classes, cut, fine-tune, export; every file and figure of the design.

    Each checkpoint is loaded and checked once, the cut network is checked, and the one before it traced once.
    """
    loaded: list[str] = []
    traced: list[int] = []

    def counted(owner: Any, name: str, take: Any) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            take(*args)
            return original(*args, **kwargs)

        counting.setattr(owner, name, call)

    torch.manual_seed(0)
    YOLO("yolov8n-seg.yaml").save(tmp_path / "eighty.pt")
    events: list[str] = []
    own = {"train.epochs": 1, "fine_tune.epochs": 2, "prune.ratio": 0.5, "lr0": 1e-3, "rivals": []}
    pruner = DefaultYolov8SegPruner(tmp_path / "eighty.pt", **settings(tmp_path, shapes, **own))
    pruner.add_callback("on_fit_epoch_end", lambda trainer: events.append(f"epoch {trainer.epoch}"))
    pruner.add_callback("on_prune_start", lambda event: events.append(f"start {event.step}/{event.steps}"))
    pruner.add_callback("on_prune_end", lambda event: events.append(f"end {event.report.after.parameters}"))
    with monkeypatch.context() as counting:
        counted(Model, "_load", lambda _, weights, *rest: loaded.append(Path(weights).name))
        counted(architecture, "_check_matches_yaml", lambda *_: loaded.append("checked"))
        counted(tp.DependencyGraph, "build_dependency", lambda *_: traced.append(1))
        report = pruner.run()
    training = ["best.pt", "result.pt", "checked"]  # the first by Ultralytics: the best epoch's
    cut = ["checked", "pruned.pt", "checked"]
    rival = "model.onnx"  # in int8, to be validated
    assert loaded == [
        *("eighty.pt", "checked", *training, "trained.pt", "checked", *cut, *training, "best.pt", "checked", rival)
    ]
    assert len(traced) == 1

    run = tmp_path / "run"
    assert report.folder == run
    files = [".lock", "args.yaml", "plan.json", "report.html", "report.json", "results.csv", "run.log", "state.json"]
    assert sorted(p.name for p in run.iterdir()) == sorted([*files, "finetune", "plots", "train", "weights"])
    assert sorted(p.name for p in (run / "weights").iterdir()) == [
        "best.onnx",
        "best.pt",
        "pruned.pt",
        "pruned.yaml",
        "trained.pt",
    ]
    charts = [f"{name}.png" for name in ("stages", "network", "scores", "rivals", "training", "classes", "latency")]
    assert {p.name for p in (run / "plots").iterdir()} >= {*charts, "example-1.png"}
    data = json.loads((run / "report.json").read_text())
    assert data == json.loads(json.dumps(report.to_dict()))
    assert data["widths"]["before"] == architecture.layer_widths(
        YOLO(run / "weights" / "trained.pt").model
    )  # of five classes
    assert [stage["name"] for stage in data["stages"]] == ["baseline", "trained", "pruned", "fine_tuned"]
    baseline, trained, pruned, tuned = data["stages"]
    assert pruned["details"]["as_cut"].keys() == {"parameters", "map50_95_box", "map50_95_mask"}
    recovery = pruned["details"]["recovery"]
    assert recovery["images"] == 16 and recovery["divergence"]["after"] <= max(1e-6, recovery["divergence"]["before"])
    assert all(layer["after"] <= layer["before"] for layer in recovery["layers"])
    assert baseline["map50_95_mask"] is None and "other classes" in baseline["notes"][0]
    assert (
        trained["parameters"] > pruned["parameters"] == tuned["parameters"] == parameters(run / "weights" / "best.pt")
    )
    assert [len(stage["epochs"]) for stage in data["stages"]] == [0, 1, 0, 2]
    assert {"train/seg_loss", "val/seg_loss", "metrics/mAP50-95(M)", "lr/pg0"} <= tuned["epochs"][0].keys()
    assert all(ms > 0 for stage in data["stages"] for ms in stage["latency_ms"].values())
    assert tuned["latency_ms"] == pruned["latency_ms"] != trained["latency_ms"]  # of one network, which is timed once
    assert data["onnx"]["path"] == "weights/best.onnx" and data["onnx"]["max_abs_diff"] < 1e-3
    assert data["widths"]["before"]["w8"] == 256 and data["widths"]["after"]["w8"] == 128
    assert data["args"]["fine_tune"] == {"epochs": 2, "plots": False, "lr0": 1e-3}
    args = yaml.safe_load((run / "args.yaml").read_text())
    resolved = args.pop("fine_tune")
    assert args.items() <= json.loads(json.dumps(data["args"])).items() and args["train"]["epochs"] == 1
    assert resolved.items() > data["args"]["fine_tune"].items() and resolved["optimizer"] == "AdamW"
    selection = tuned["details"]["selection"]
    assert selection["input"] == pruned["map50_95_mask"] <= tuned["map50_95_mask"]
    assert tuned["map50_95_mask"] == max(selection["input"], selection["best"])
    assert (run / "results.csv").read_text().startswith(CSV_HEADER)
    assert len(list(csv.DictReader((run / "results.csv").read_text().splitlines()))) == 4
    assert [e for e in events if "epoch" not in e] == ["start 1/1", f"end {pruned['parameters']}"]
    assert sum("epoch" in e for e in events) >= 3
    assert "fine-tuned" in str(report) and f"{tuned['parameters']:,}" in str(report)

    found = YOLO(run / "weights" / "best.pt").val(data=str(shapes), workers=0, plots=False, **data["validation"])
    assert (found.box.map, found.seg.map) == (tuned["map50_95_box"], tuned["map50_95_mask"])
    plan = PruningPlan.load(run / "plan.json")
    replayed = load_model(run / "weights" / "trained.pt")
    batches = labelled_batches(find_dataset(shapes), images=256, imgsz=64, batch=4)
    images = torch.cat([batch["img"] for batch in batches])
    apply_plan(replayed, plan, recovery="least_squares", images=images)
    replayed.save(tmp_path / "replayed.pt")
    assert same_weights(tmp_path / "replayed.pt", run / "weights" / "pruned.pt")
    assert (
        YOLO(run / "weights" / "best.onnx").predict(torch.rand(1, 3, 64, 64), imgsz=64, verbose=False)[0].names[3]
        == "star"
    )

    shutil.rmtree(run / "plots")
    assert [p.name for p in plot_metrics(run)] == charts


@pytest.mark.slow
def test_a_user_replaces_one_stage(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    class Doubled(DefaultYolov8SegPruner):
        """Fine-tuning of one's own."""

        def fine_tune(self, model: Any) -> Any:
            model.model.model[0].conv.weight.data *= 2
            return model

    keys = yaml.safe_load(shapes.read_text())
    untouched = hashlib.sha256(checkpoint.read_bytes()).digest()
    given = settings(tmp_path, shapes, **{"train.epochs": 0, "prune.criterion": "taylor"})
    report = Doubled(checkpoint, **{**given, "data": keys, "imgsz": None, "calibration.images": 4}).run()
    assert [stage.name for stage in report.stages] == ["baseline", "pruned", "fine_tuned"]
    assert report.validation.imgsz == 64  # the checkpoint's own
    weights = report.folder / "weights"
    pruned, best = (YOLO(weights / name).model.model[0].conv.weight for name in ("pruned.pt", "best.pt"))
    assert torch.allclose(best, 2 * pruned)
    assert same_weights(weights / "trained.pt", checkpoint)
    assert parameters(weights / "pruned.yaml") == parameters(weights / "best.pt")
    written = yaml.safe_load((report.folder / "data.yaml").read_text())
    assert list(written["names"].values()) == list(keys["names"].values())
    assert all(stage.map50_95.keys() == {"box", "mask"} for stage in report.stages)
    assert hashlib.sha256(checkpoint.read_bytes()).digest() == untouched


def test_steps_reach_the_same_widths(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    whole = plan_pruning(load_model(checkpoint), 0.6)

    calls = []

    class Counting(DefaultYolov8SegPruner):
        """Fine-tuning of one's own is what happens between the steps too."""

        def fine_tune(self, model: Any) -> Any:
            calls.append(sum(p.numel() for p in model.model.parameters()))
            return model

    given = settings(tmp_path, shapes, **{"train.epochs": 0, "prune.ratio": 0.6, "prune.steps": 3})
    given |= {"prune.recover": "none"}
    stepped = Counting(checkpoint, **given)
    planned = stepped.folder.path
    assert planned == tmp_path / "run" and not planned.exists()
    model = stepped.prune(stepped.load())
    assert stepped.open_folder().path == stepped.folder.path == planned and planned.is_dir()
    assert len(calls) == 2 and calls[0] > calls[1]
    plan = PruningPlan.load(stepped.folder.path / "plan.json")
    assert plan.after == whole.after and plan.before == whole.before
    other = load_model(checkpoint)
    apply_plan(other, plan)
    assert all(torch.equal(a, b) for a, b in zip(other.model.parameters(), model.model.parameters(), strict=True))


@pytest.mark.parametrize("judged", [{}, {"prune.max_map_drop": 0.1}])
def test_fine_tunings_share_their_epochs(
    judged: dict[str, Any], checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    """All of them together have what was given; that of the result has the most, where any has one."""
    step = Step(0, load_model(checkpoint))
    for steps, total in itertools.product((1, 2, 3, 5), (0, 1, 2, 4, 10, 31)):
        given = {"prune.steps": steps, "fine_tune.epochs": total, **judged}
        pruner = DefaultYolov8SegPruner(checkpoint, **settings(tmp_path, shapes, **given))
        pruner.open_folder()
        before = [pruner._tuning(step, after=k).epochs for k in range(1, steps + len(judged))]
        last = pruner._tuning(step).epochs
        assert sum(before) + last == total and last >= max(before, default=0)
        assert min(before, default=1) > 0 or total <= len(before)


def test_a_target_is_met_step_by_step_and_its_scan_is_kept(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    planned: list[tuple[dict[str, int], dict[str, int]]] = []  # what was measured, what is there

    def plan(self: Planner, scored: Any, sensitivity: Any, *rest: Any) -> PruningPlan:
        planned.append((sensitivity.full, scored.graph.full))
        return original(self, scored, sensitivity, *rest)

    original = Planner.plan
    monkeypatch.setattr(Planner, "plan", plan)
    budget = {"train.epochs": 0, "fine_tune.epochs": 0, "prune.target": "gmacs=0.8", "prune.layers": [8, 22]}
    budget["imgsz"] = 32  # which is the result's own then, without any training too
    DefaultYolov8SegPruner(checkpoint, **settings(tmp_path, shapes, **budget, **{"prune.steps": 2})).run()
    assert all(full.items() <= there.items() for full, there in planned) and planned[0][1] != planned[1][1]
    run = tmp_path / "run"
    assert YOLO(run / "weights" / "best.pt").overrides["imgsz"] == 32
    data = json.loads((run / "report.json").read_text())
    assert [stage["name"] for stage in data["stages"]] == ["baseline", "pruned"]  # nothing was trained
    assert {note[:7] for note in data["stages"][-1]["notes"] if note.startswith("step ")} == {"step 1:", "step 2:"}
    assert same_weights(run / "weights" / "best.pt", run / "weights" / "pruned.pt")
    assert data["stages"][-1]["gmacs"] <= 0.8 * data["stages"][0]["gmacs"]
    parts = {part["name"]: part["gmacs"] for part in data["stages"][-1]["parts"]}
    assert list(parts) == ["backbone", "neck", "boxes", "classes", "prototypes", "masks"]
    assert sum(parts.values()) == pytest.approx(data["stages"][-1]["gmacs"])
    assert (run / "plots" / "sensitivity.png").is_file()
    plan = PruningPlan.load(run / "plan.json")
    assert all(w.reason.startswith("gmacs=0.8: ") for w in plan.widths if w.name not in ("h9", "box", "class", "mask"))
    assert data["widths"]["after"].items() >= plan.after.items()

    scan = (run / "sensitivity.json").read_text()
    both = {"params": 0.9, "size": "11.5MB"}
    again = settings(tmp_path, shapes, **{**budget, "exist_ok": True, "prune.target": both})
    report = DefaultYolov8SegPruner(checkpoint, **again).run()
    assert any("taken from the run folder" in note for note in report.stages[-1].notes)
    assert (run / "sensitivity.json").read_text() == scan
    assert report.stages[-1].parameters <= 0.9 * report.stages[0].parameters
    assert 11e6 < (run / "weights" / "best.onnx").stat().st_size <= 11.5e6
    assert any(note.startswith("target size=11.5MB: best.onnx has 11.") for note in report.notes)


@pytest.mark.slow
def test_rivals_are_trained_as_long_as_the_result_and_anew_in_a_run_begun_anew(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    given = {"train.epochs": 0, "rivals": [], "train_rivals": True, "prune.criterion": "magnitude", "prune.ratio": 0.5}
    for epochs in (2, 1):
        own = settings(tmp_path, shapes, **given, **{"fine_tune.epochs": epochs, "exist_ok": True})
        report = DefaultYolov8SegPruner(checkpoint, **own).run()
        trained = [rival for rival in report.rivals if rival.epochs]
        assert [(rival.imgsz, rival.epochs) for rival in trained] == [(32, epochs)]
        (table,) = (report.folder / "rivals").rglob("results.csv")
        assert len(read_epochs(table.parent)) == epochs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_ranks_measures_and_re_fits_to_what_the_cpu_does(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The whole cut is where the trainings are; its checkpoint is on the CPU, as Ultralytics leaves its own."""
    used: list[str] = []

    def noted(owner: Any, name: str, network: Any) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            used.append(next(network(args).parameters()).device.type)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    noted(Planner, "ranked", lambda args: args[1])
    noted(Planner, "sensitivity", lambda args: args[1].network)
    noted(cuts, "recover", lambda args: args[0])
    noted(cuts, "recover", lambda args: args[1])
    budget = {"train.epochs": 0, "fine_tune.epochs": 0, "prune.target": "gmacs=0.9", "prune.layers": [7, 8, 22]}
    for device, kind in (("cpu", "cpu"), (0, "cuda")):
        given = settings(tmp_path, shapes, **budget, **{"device": device, "name": kind})
        DefaultYolov8SegPruner(checkpoint, **given).run()
        assert used == [kind] * 4
        used.clear()
        weights = torch.load(tmp_path / kind / "weights" / "pruned.pt", weights_only=False)["model"].state_dict()
        assert {t.device.type for t in weights.values()} == {"cpu"}
    found = [json.loads((tmp_path / kind / "sensitivity.json").read_text())["damage"] for kind in ("cpu", "cuda")]
    for name, damage in found[0].items():
        assert found[1][name] == pytest.approx(damage, rel=0.05, abs=1e-4)


@pytest.mark.slow
def test_max_map_drop_keeps_the_last_good_step_and_says_so(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    maps = iter([0.5, 0.49, 0.48, 0.3])  # before, after each step
    measured: dict[int, Metrics] = {}

    def evaluate(self: Any, model: Any) -> Metrics:
        size = sum(p.numel() for p in model.model.parameters())
        if size not in measured:
            measured[size] = Metrics({"box": Accuracy(0, 0), "mask": Accuracy(0, next(maps))})
        return measured[size]

    monkeypatch.setattr(DefaultYolov8SegPruner, "evaluate", evaluate)
    steps = {"prune.ratio": 0.6, "prune.steps": 3, "prune.max_map_drop": 0.05, "prune.recover": "none"}
    given = settings(tmp_path, shapes, **{"train.epochs": 0, "fine_tune.epochs": 0, **steps})
    report = DefaultYolov8SegPruner(checkpoint, **given).run()
    assert report.stages[-1].parameters == prune(load_model(checkpoint), 0.4).after.parameters
    pruned = report.stages[-1]
    assert pruned.notes[-1] == "stopped by max_map_drop=0.05: step 2 is kept"
    steps = [(point["step"], point["map50_95_mask"]) for point in pruned.details["trajectory"]]
    assert steps == [(0, 0.5), (1, 0.49), (1, 0.49), (2, 0.48), (2, 0.48), (3, 0.3), (3, 0.3)]
    assert (report.folder / "plots" / "trajectory.png").is_file()
    assert PruningPlan.load(report.folder / "plan.json").after.items() <= report.widths_after.items()


@pytest.mark.parametrize("amount", [{"prune.ratio": 0}, {"prune.target": "gmacs=1"}, {"prune.threshold": -1}])
def test_where_nothing_is_cut_nothing_is_read_scored_or_fitted(
    amount: dict[str, Any], checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """A control, in two steps: the weights are those before, to the bit. A threshold needs scores and no more."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing was cut")

    if "prune.threshold" not in amount:
        monkeypatch.setattr(HsicLasso, "measure", forbidden)
        monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", forbidden)
    monkeypatch.setattr("depgraph_hsic_only.workflow.stages.cuts.recover", forbidden)
    steps = {"prune.criterion": "hsic_lasso", "train.epochs": 0, "fine_tune.epochs": 0, **amount}
    steps["prune.steps"] = 1 + ("prune.threshold" not in amount)
    pruner = DefaultYolov8SegPruner(checkpoint, **settings(tmp_path, shapes, **steps, **{"calibration.images": 4}))
    monkeypatch.setattr(pruner, "evaluate", lambda _: Metrics({"box": Accuracy(0, 0), "mask": Accuracy(0, 0.5)}))
    model = pruner.load()
    before = {name: t.clone() for name, t in model.model.state_dict().items()}
    after = pruner.prune(model).model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], t) for name, t in before.items())
    plan = PruningPlan.load(pruner.folder.path / "plan.json")
    assert plan.cuts_nothing and all(len(group.keep) == group.channels for group in plan.groups)


@pytest.mark.slow
def test_an_undone_step_leaves_nothing_in_the_report(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Scores, stability and recovery are those of the step that is kept, not of the one that was undone."""
    maps = iter([0.5, 0.2, 0.49])  # unpruned, as cut, recovered; then the second step, which is too much
    measured: dict[str, Metrics] = {}

    def evaluate(self: Any, model: Any) -> Metrics:
        key = fingerprint(model.model)
        if key not in measured:
            measured[key] = Metrics({"box": Accuracy(0, 0), "mask": Accuracy(0, next(maps, 0.1))})
        return measured[key]

    monkeypatch.setattr(DefaultYolov8SegPruner, "evaluate", evaluate)
    steps = {"prune.ratio": 0.5, "prune.steps": 2, "prune.max_map_drop": 0.05, "prune.criterion": "hsic_lasso"}
    given = settings(tmp_path, shapes, **{"train.epochs": 0, "fine_tune.epochs": 0, **steps})
    report = DefaultYolov8SegPruner(checkpoint, **given).run()
    pruned, plan = report.stages[-1], PruningPlan.load(report.folder / "plan.json")
    assert pruned.notes[-1] == "stopped by max_map_drop=0.05: step 1 is kept"
    assert {name: len(scores) for name, scores in pruned.details["scores"].items()} == {
        group.name: group.channels for group in plan.groups
    }
    assert pruned.details["as_cut"]["parameters"] == pruned.parameters
    said = [note for note in pruned.notes if note.startswith("step 1: recovered by")]
    before = pruned.details["recovery"]["divergence"]["before"]
    assert len(said) == 1 and f"divergence from the original {before:.3g} ->" in said[0]


def test_a_pruner_from_scratch(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    class Mine(Yolov8SegPruner):
        """Five stages of one's own, without a line of the default's."""

        def load(self) -> Any:
            planned.append(self.folder.path)
            return YOLO(self.config.pretrained)

        def train(self, model: Any) -> Any:
            return model

        def prune(self, model: Any) -> Any:
            prune(model, 0.25, layers=[7, 8])
            return model

        def fine_tune(self, model: Any) -> Any:
            return model

        def export(self, model: Any) -> Exported:
            path = export_onnx(model, self.folder.weights / "mine.onnx", imgsz=64)
            return Exported(path, verify_onnx(path, model, torch.rand(1, 3, 64, 64)))

    planned: list[Path] = []
    report = Mine(checkpoint, **settings(tmp_path, shapes)).run()
    assert planned == [report.folder]
    assert report.widths_after["w7"] == 192 and report.onnx is not None and report.onnx[0] == "weights/mine.onnx"
    with pytest.raises(TypeError, match="abstract"):
        Yolov8SegPruner(checkpoint)  # type: ignore[abstract]


@pytest.mark.slow
def test_classes_of_other_names_are_taken_by_index(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    """A class that was renamed is said once; classes in another order, or one of five, are refused."""
    yolo = YOLO(checkpoint)
    yolo.model.names = dict(enumerate(["circle", "square", "triangle", "star", "plus"]))
    yolo.save(tmp_path / "renamed.pt")
    yolo.model.names = dict(enumerate(["square", "circle", "triangle", "star", "cross"]))
    yolo.save(tmp_path / "permuted.pt")
    none = {"train.epochs": 0, "fine_tune.epochs": 0, "prune.ratio": 0.25}
    with pytest.raises(ConfigError, match="square -> circle, circle -> square"):
        DefaultYolov8SegPruner(tmp_path / "permuted.pt", **settings(tmp_path, shapes, **none)).run()
    with pytest.raises(ConfigError, match="5 classes and the data set 1 with single_cls"):
        DefaultYolov8SegPruner(checkpoint, **settings(tmp_path, shapes, **none, single_cls=True)).run()
    assert not (tmp_path / "run").exists()
    report = DefaultYolov8SegPruner(tmp_path / "renamed.pt", **settings(tmp_path, shapes, **none)).run()
    assert [note for note in report.stages[0].notes if "plus -> cross" in note] and report.stages[-1].metrics
    assert "plus" not in str(YOLO(tmp_path / "run" / "weights" / "best.pt").names)


def test_the_stages_of_another_task(tmp_path: Path) -> None:
    """The epoch is chosen by poses, not by boxes; what is cut and trained has the data set's keypoints."""
    data = shapes_dataset(tmp_path / "set", train=4, val=2, imgsz=64, task="pose")
    given = {"train.epochs": 0, "fine_tune.epochs": 1, "prune.recover": "bn"}
    pruner = DefaultYoloPruner(save_untrained("pose", tmp_path / "five.pt"), **settings(tmp_path, data, **given))
    model = pruner.load()
    tuned = pruner.fine_tune(pruner.prune(model))
    assert type(tuned.model).__name__ == "PoseModel" and pruner.dataset.keypoints == tuple(tuned.model.kpt_shape) == (
        4,
        3,
    )
    trained = pruner.folder.path / "finetune"
    assert yaml.safe_load((trained / "args.yaml").read_text())["task"] == "pose"
    assert map_column("pose") in (trained / "results.csv").read_text()
    assert list(pruner.evaluate(tuned).metrics) == ["box", "pose"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pose", "detect", "obb"])
def test_a_run_of_another_task(task: str, tmp_path: Path) -> None:
    """Nothing says of which task it is but the checkpoint: labels, training, choice of the epoch, export, report."""
    data = shapes_dataset(tmp_path / "set", train=8, val=4, imgsz=64, task=task)
    weights = save_untrained(task, tmp_path / "five.pt")
    given = {"train.epochs": 0, "fine_tune.epochs": 1, "calibration.images": 4}
    report = DefaultYoloPruner(weights, **settings(tmp_path, data, **given, **{"prune.recover": "bn"})).run()
    kinds, best = TASKS[task].kinds, tmp_path / "run" / "weights" / "best.pt"
    assert report.task == task and all(tuple(stage.metrics) == kinds for stage in report.stages)
    assert any(f"{kinds[-1]} mAP50-95" in note for note in report.stages[-1].notes)
    columns = [map_column(kind) for kind in kinds]
    assert set(columns) <= report.stages[-1].epochs[0].keys()
    trained = yaml.safe_load((tmp_path / "run" / "finetune" / "args.yaml").read_text())
    assert trained["task"] == task
    assert report.onnx is not None and report.onnx[1].ok
    stock = YOLO(best)
    assert stock.task == task and parameters(best) == report.after.parameters < parameters(weights)
    found = stock.val(data=str(data), workers=0, plots=False, **json.loads(report.to_json())["validation"])
    measured = [getattr(found, {"pose": "pose", "box": "box"}[kind]).map for kind in kinds]
    assert measured == list(report.stages[-1].map50_95.values())


def test_a_model_of_another_task_or_with_other_keypoints_is_refused_at_the_start(shapes: Path, tmp_path: Path) -> None:
    poses = save_untrained("pose", tmp_path / "pose.pt", kpt_shape=(17, 3))
    data = shapes_dataset(tmp_path / "set", train=2, val=1, imgsz=64, task="pose")
    none = {"train.epochs": 0, "fine_tune.epochs": 0}
    with pytest.raises(UnsupportedModelError, match="got one for 'pose'; DefaultYoloPruner takes it"):
        DefaultYolov8SegPruner(poses, **settings(tmp_path, data, **none)).run()
    with pytest.raises(ConfigError, match=r"kpt_shape is \[17, 3\] and the data set's \[4, 3\], got 0"):
        DefaultYoloPruner(poses, **settings(tmp_path, data, **none)).run()
    with pytest.raises(DataError, match="without kpt_shape"):
        DefaultYoloPruner(poses, **settings(tmp_path, shapes, **none)).run()
    assert not (tmp_path / "run").exists() and issubclass(DefaultYolov8SegPruner, Yolov8SegPruner)
