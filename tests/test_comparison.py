"""Comparisons: the rule against tables made by hand, and small true ones that are killed, broken and sent to Ray."""

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from ultralytics import YOLO
from ultralytics.nn.modules import C2f
from ultralytics.utils.metrics import OBBMetrics, PoseMetrics, SegmentMetrics

from depgraph_hsic_only import Comparison, ConfigError, compare, register_criterion
from depgraph_hsic_only.channels.budgets import read_budgets
from depgraph_hsic_only.cli import main
from depgraph_hsic_only.comparison.recommendation import recommend
from depgraph_hsic_only.comparison.study import make_study, parse_amounts
from depgraph_hsic_only.comparison.table import Row, summarize, summary_table
from depgraph_hsic_only.criteria import registry
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.evaluation.bootstrap import Matches, mean_average_precision, paired_interval
from depgraph_hsic_only.evaluation.onnx import onnx_precision
from depgraph_hsic_only.evaluation.validation import Validation
from depgraph_hsic_only.report.figures.pareto import pareto_front, plot_pareto
from depgraph_hsic_only.support.fingerprint import fingerprint
from depgraph_hsic_only.workflow.stages.exported import file_shape
from depgraph_hsic_only.yolo.tasks import TASKS

ROOT = Path(__file__).parents[1]
SIZES = {None: 1000, "params=0.9": 900, "params=0.8": 800, "params=0.5": 500}


def row(criterion: str, target: str | None, mask: float, seed: int | None = 0, noise: float = 0.001) -> Row:
    """A row whose mAP on samples of the images is its mAP, with noise of its criterion's own."""
    steps = np.random.default_rng(sum(map(ord, criterion))).normal(0, noise, 200)
    size = SIZES.get(target, 700)
    maps = {"box": 0.0, "mask": mask}
    cost: Any = {"parameters": size, "gmacs": size / 100, "latency_ms": size / 10}
    return Row(criterion, target, seed, **cost, recovered=maps, samples=tuple(mask + steps))


UNPRUNED = row("unpruned", None, 0.30, None)


def test_a_clear_table() -> None:
    table = [
        *(UNPRUNED, row("a", "params=0.9", 0.29), row("b", "params=0.9", 0.27)),
        *(row("a", "params=0.8", 0.27), row("b", "params=0.8", 0.285)),
        *(row("a", "params=0.5", 0.10), row("b", "params=0.5", 0.05)),
    ]
    found = recommend(table, 0.02)
    assert [(c.target, c.criterion, c.runner_up, c.told_apart) for c in found.choices] == [
        ("params=0.9", "a", "b", True),
        ("params=0.8", "b", "a", True),
        ("params=0.5", "a", "b", True),
    ]
    assert found.chosen is found.choices[1]
    assert found.lines[0].startswith("Take b at params=0.8: the smallest compared size that loses at most 0.02")
    assert "0.015 [" in found.lines[0] and "may" not in found.lines[0]
    assert "0.95 of the unpruned 0.300; its lead over the next, a, is significant: 0.015 [" in found.lines[2]
    assert recommend(table, 0.5).chosen is not None and recommend(table, 0.5).chosen.target == "params=0.5"
    none = recommend(table, 0.001)
    assert none.chosen is None
    assert none.lines[0].startswith(
        "No size is recommended: none loses at most 0.001 of mask mAP50-95. The least, 0.010"
    )
    assert "a's at params=0.9" in none.lines[0]
    assert any(line.startswith("One seed:") for line in found.lines)


def test_a_lead_within_the_noise_is_not_significant() -> None:
    tie = recommend([UNPRUNED, row("b", "params=0.9", 0.29), row("a", "params=0.9", 0.29)])
    assert tie.choices[0].criterion == "b" and not tie.choices[0].told_apart  # equal: the one named first
    assert "lead over the next, a, is not significant" in tie.lines[1] and "is not significant" in tie.lines[0]
    near = recommend([UNPRUNED, row("a", "params=0.9", 0.29, noise=0.02), row("b", "params=0.9", 0.28, noise=0.02)])
    assert not near.choices[0].told_apart and near.choices[0].lead is not None
    assert near.choices[0].lead.interval[0] < 0 < near.choices[0].lead.interval[1]
    assert "may lose more" in near.lines[0]
    alone = recommend([UNPRUNED, row("a", "params=0.9", 0.29)])
    assert not alone.choices[0].told_apart and "no other criterion was compared" in alone.lines[1]


def test_seeds_must_agree_and_only_shared_ones_count() -> None:
    ahead = [row("a", "params=0.9", 0.29, 0), row("a", "params=0.9", 0.25, 1)]
    behind = [row("b", "params=0.9", 0.25, 0), row("b", "params=0.9", 0.26, 1)]
    mixed = recommend([UNPRUNED, *ahead, *behind]).choices[0]
    assert mixed.criterion == "a" and mixed.lead is not None and mixed.lead.interval[0] > 0 and not mixed.told_apart
    assert not any("One seed" in line for line in recommend([UNPRUNED, *ahead, *behind]).lines)
    second = recommend([UNPRUNED, *ahead[1:], *behind]).choices[0]
    assert (second.criterion, second.seeds, second.map50_95) == ("b", 1, 0.26)
    assert recommend([UNPRUNED, *ahead[:1], *behind[1:]]).lines[0].startswith("No recommendation: no target")


@pytest.mark.parametrize("control", [[], [row("unpruned", None, 0.0, None)]])
def test_nothing_is_claimed_without_a_control_that_works(control: list[Row]) -> None:
    found = recommend([*control, row("a", "params=0.9", 0.0), row("b", "params=0.9", 0.0)])
    assert found.chosen is None and "no unpruned control that finds anything" in found.lines[0]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["params=0.9", "params=0.8", "params=0.5"]), st.sampled_from("abc")),
        st.integers(0, 30),
        min_size=1,
    ),
    st.integers(0, 30),
)
def test_the_rule_is_what_the_table_says(hundredths: dict[tuple[str, str], int], drop: int) -> None:
    cells = {key: value / 100 for key, value in hundredths.items()}
    found = recommend([UNPRUNED, *(row(c, t, mask) for (t, c), mask in cells.items())], drop / 100)
    for choice in found.choices:
        assert choice.map50_95 == max(mask for (target, _), mask in cells.items() if target == choice.target)
    good = [SIZES[target] for (target, _), mask in cells.items() if 0.30 - mask <= drop / 100]
    assert (found.chosen is None) == (not good)
    assert found.chosen is None or found.chosen.size == min(good)


def test_sizes_go_by_the_targets_own_metric() -> None:
    slim = replace(row("a", "gmacs=0.9", 0.29), parameters=100, gmacs=9.0)
    fast = replace(row("a", "gmacs=0.8", 0.29), parameters=900, gmacs=8.0)
    assert recommend([UNPRUNED, slim, fast]).chosen.target == "gmacs=0.8"  # type: ignore[union-attr]
    mixed = replace(fast, target="gmacs=0.8+params=0.9")
    assert recommend([UNPRUNED, slim, mixed]).chosen.target == "gmacs=0.9"  # type: ignore[union-attr]
    mixed = replace(fast, target="ratio=0.25")
    assert recommend([UNPRUNED, slim, mixed]).chosen.target == "gmacs=0.9"  # type: ignore[union-attr]
    quick = [replace(slim, target="latency=0.9", latency_ms=5.0), replace(fast, target="latency=0.8", latency_ms=4.0)]
    assert recommend([UNPRUNED, *quick]).chosen.target == "latency=0.8"  # type: ignore[union-attr]


def deployed(criterion: str, target: str | None, mask: float, *at: Any) -> Row:
    """A row for images of a side and a precision, of so many GMACs and milliseconds."""
    imgsz, precision, gmacs, latency = at
    seed = None if target is None else 0
    return replace(
        row(criterion, target, mask, seed), imgsz=imgsz, precision=precision, gmacs=gmacs, latency_ms=latency
    )


AXES = (
    deployed("unpruned", None, 0.30, 64, "float", 10.0, 10.0),
    deployed("unpruned", None, 0.295, 64, "int8", 10.0, 6.0),
    deployed("unpruned", None, 0.29, 48, "float", 5.6, 5.6),
    deployed("a", "gmacs=0.5", 0.25, 64, "float", 5.0, 6.0),
    deployed("a", "gmacs=0.5", 0.24, 64, "int8", 5.0, 4.0),
    deployed("a", "gmacs=0.5", 0.20, 48, "float", 2.8, 3.4),
)


def test_sizes_and_precisions_are_recommended_too() -> None:
    found = recommend(AXES, 0.02, 64)
    assert found.chosen is not None and found.chosen.setting == (None, 48, "float")  # both lose little: the faster one
    assert found.lines[0].startswith(
        "Take the unpruned model at 48 px, float: the compared model with the lowest latency that loses at most 0.02"
    )
    assert found.lines[1].startswith("The unpruned model at 48 px, float beats all cut models at its cost")
    assert "0.290 at 5.6 ms, where a at gmacs=0.5, 64 px, float has 0.250 at 6 ms" in found.lines[1]
    assert [choice.setting for choice in found.choices] == [each.setting for each in AXES if each.target]
    assert "0.67 of the unpruned 0.300 at 64 px; " in str(found.choices[-1])
    told = json.loads(json.dumps(found.to_dict()))
    assert told["chosen"]["imgsz"] == 48 and told["within"] is None and "rows" not in told["chosen"]
    alone = recommend(AXES[:2], 0.02, 64)  # nothing is cut
    assert alone.chosen is not None and alone.chosen.size == 6.0 and "which no cut" not in alone.lines[0]
    orphan = recommend(AXES[2:], 0.02, 64, read_budgets("gmacs=0.5"))  # of a control that has failed
    assert orphan.chosen is None and orphan.lines[0] == "Within gmacs=0.5: no compared model is known to be."
    better = replace(AXES[4], recovered={"box": 0.0, "mask": 0.291})
    assert recommend([*AXES[:4], better, *AXES[5:]], 0.02, 64).beaten == ()  # a cut one is faster and better
    sizes = [each for each in AXES if each.precision == "float"]
    slow = [replace(sizes[1], latency_ms=99.0), *sizes[2:]]
    assert recommend([sizes[0], *slow], 0.02, 64).chosen.size == 5.6  # type: ignore[union-attr]  # the targets' GMACs


@pytest.mark.parametrize(
    ("budget", "best", "width", "imgsz", "precision"),
    [
        ("latency=0.6", AXES[1], AXES[3], AXES[2], AXES[1]),
        ("latency=0.4", AXES[4], None, None, None),
        ("latency=5ms,gmacs=0.3", AXES[5], None, None, None),
        ("gmacs=5", AXES[3], AXES[3], None, None),
        ("latency=1", AXES[0], AXES[3], AXES[2], AXES[1]),
        ("latency=1ms", None, None, None, None),
    ],
)
def test_within_a_budget_the_best_of_all_is_taken(
    budget: str, best: Row | None, width: Row | None, imgsz: Row | None, precision: Row | None
) -> None:
    found = recommend(AXES, 0.02, 64, read_budgets(budget))
    assert found.within is not None

    def row_of(choice: Any) -> Row | None:
        return choice and choice.rows[0]

    assert row_of(found.within.chosen) == best
    alone = {"width": width, "imgsz": imgsz, "precision": precision}
    assert {axis: row_of(choice) for axis, choice in found.within.alone.items()} == alone
    assert found.lines[0].startswith(f"Within {'+'.join(map(str, read_budgets(budget))).replace('+', ' and ')}: ")
    if best is AXES[1]:
        assert "take the unpruned model at 64 px, int8, which no cut one within it beats" in found.lines[0]
        assert found.lines[1].startswith("By width alone: a at gmacs=0.5, 64 px, float, 0.250, less by 0.045 [")
        assert found.lines[3] == "By precision alone: the same."
    if best is AXES[4]:
        assert found.lines[1:4] == tuple(
            f"By {axis} alone: no compared model is within it." for axis in ("width", "image size", "precision")
        )


def test_a_summary_has_means_and_spreads() -> None:
    rows = [UNPRUNED, row("a", "params=0.9", 0.2, 0), row("a", "params=0.9", 0.3, 1), row("b", "params=0.9", 0.1)]
    control, a, b = summarize(rows)
    assert (control.kept, a.seeds, b.spread["mask"], b.seeds) == (1.0, 2, None, 1)
    assert a.map50_95["mask"] == pytest.approx(0.25) and a.spread["mask"] == pytest.approx(0.05 * math.sqrt(2))
    assert a.kept == pytest.approx(0.25 / 0.3) and a.latency_ms == 90


@pytest.mark.parametrize("task", TASKS)
def test_a_comparison_speaks_of_its_own_task(task: str, tmp_path: Path) -> None:
    kinds, primary = TASKS[task].kinds, TASKS[task].primary
    rows = [UNPRUNED, row("a", "params=0.9", 0.29), row("b", "params=0.9", 0.27)]
    own = [{**dict.fromkeys(kinds, 0.0), primary: each.primary} for each in rows]
    rows = [replace(each, recovered=maps, fine_tuned=maps) for each, maps in zip(rows, own, strict=True)]
    validation = Validation(64, 2, nms=False)
    found = Comparison(tmp_path, {}, tuple(rows), recommend(rows, 0.02), validation, {})
    data = json.loads(found.to_json())
    assert [Row.from_dict(each) for each in data["rows"]] == rows
    for name, keys in (("rows", "fine_tuned_map50_95_{}"), ("summary", "map50_95_{}"), ("summary", "{}_spread")):
        assert all(keys.format(kind) in data[name][0] for kind in kinds)
    assert data["recommendation"]["chosen"][primary] == 0.29 and "kind" not in data["recommendation"]["chosen"]
    assert f"of {primary} mAP50-95" in found.summary() and f"has the best {primary} mAP50-95" in str(found)
    assert "nms=False" in str(found) and found.plot().axes[0].get_ylabel() == f"{primary} mAP50-95"
    if primary != "mask":
        assert "mask" not in found.to_json() + str(found)
    seeds = summary_table(summarize([*rows, replace(rows[1], seed=1)]))
    assert [heading for heading in seeds.headings if "mAP" in heading] == [f"{kind}\nmAP50-95" for kind in kinds]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points)
    assert [points[k] for k in front] == sorted(points[k] for k in front) and len(set(front)) == len(front)
    for k, (cost, value) in enumerate(points):
        beaten = any((c < cost and v >= value) or (c <= cost and v > value) for c, v in points)
        assert (k in front) == (not beaten)


def test_the_plot_draws_every_point_and_the_front() -> None:
    rows = [
        UNPRUNED,
        row("a", "params=0.9", 0.2),
        row("b", "params=0.9", 0.1),
        replace(row("a", "params=0.5", 0.05), latency_ms=None),
    ]
    figure = plot_pareto([summary.to_dict() for summary in summarize(rows)])
    panels = figure.axes
    assert [len(axes.containers) for axes in panels] == [4, 4, 3]
    assert [bar.lines[0].get_alpha() == 1 for bar in panels[1].containers] == [True, True, False, True]
    assert [text.get_text() for text in panels[1].texts] == ["params=0.5", "params=0.9", "unpruned"]
    assert panels[1].lines[0].get_xydata().tolist() == [[5.0, 0.05], [9.0, 0.2], [10.0, 0.3]]


def test_names_in_a_crowded_plot_hide_each_other_nowhere() -> None:
    targets = {None: (1.0, 0.0), "gmacs=0.9": (0.9, 0.01), "gmacs=0.75": (0.75, 0.03), "gmacs=0.5": (0.5, 0.1)}
    rows = []
    for imgsz, precision, (target, (share, lost)) in itertools.product(
        (320, 256, 224), ("float", "int8"), targets.items()
    ):
        gmacs, int8 = 2.5 * share * (imgsz / 320) ** 2, precision == "int8"
        mask = 0.3 - lost - (320 - imgsz) * 0.0004 - 0.008 * int8
        latency = (6 * gmacs + 4) * (0.7 if int8 else 1)
        rows.append(deployed("a" if target else "unpruned", target, mask, imgsz, precision, gmacs, latency))
    figure = plot_pareto([summary.to_dict() for summary in summarize(rows, 320)])
    figure.draw_without_rendering()
    for axes in figure.axes:
        names = [text for text in axes.texts if text.get_text()]
        boxes = [Text.get_window_extent(name) for name in names]
        assert len(names) == len(axes.lines[0].get_xdata()) > 1  # the front, and nothing else
        assert all(Bbox.intersection(a, b) is None for a, b in itertools.combinations(boxes, 2))
        assert all(axes.get_window_extent().padded(8).fully_contains(*corner) for b in boxes for corner in b.corners())
    assert "gmacs=0.5, 224 px, int8" in [text.get_text() for text in figure.axes[2].texts]


@pytest.mark.parametrize(
    ("targets", "ratios", "amounts"),
    [
        ("params=0.9,0.8,gmacs=0.75", None, ["params=0.9", "params=0.8", "gmacs=0.75"]),
        (
            {"params": [0.9, 0.8], "latency": 0.75},
            "0.25, 0.5",
            ["params=0.9", "params=0.8", "latency=0.75", "ratio=0.25", "ratio=0.5"],
        ),
        (["params=0.9", "params=0.90"], 0.5, ["params=0.9", "ratio=0.5"]),
        (None, [0.25], ["ratio=0.25"]),
        (
            "gmacs=3,0.8,latency=0.5+params=2M,size=5MB",
            None,
            ["gmacs=3G", "gmacs=0.8", "latency=0.5+params=2M", "size=5MB"],
        ),
        ([{"latency": 0.5, "params": "2M"}, "size=5MB"], None, ["latency=0.5+params=2M", "size=5MB"]),
    ],
)
def test_amounts(targets: object, ratios: object, amounts: list[str]) -> None:
    assert list(map(str, parse_amounts(targets, ratios))) == amounts


@pytest.mark.parametrize(
    ("targets", "ratios", "message"),
    [
        (None, None, "got neither"),
        ("0.9,params=0.8", None, "write params= before it"),
        ("parms=0.9", None, "did you mean 'params'"),
        ("params=0.9,1.2", None, "no share in"),
        ("params=0.9,x", None, "params=x, which is no number"),
        ("latency=0.5+params=2M,1M", None, "got '1M' after none"),
        (None, "0.5,half", "got 'half'"),
        (None, "1.5", "0 <= ratio < 1"),
    ],
)
def test_mistaken_amounts(targets: object, ratios: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_amounts(targets, ratios)


@pytest.mark.parametrize(
    ("kind", "build", "key", "figures"),
    [
        ("box", OBBMetrics, "tp", "box"),
        ("mask", SegmentMetrics, "tp_m", "seg"),
        ("pose", PoseMetrics, "tp_p", "pose"),
    ],
)
def test_samples_of_the_images_are_paired_and_their_map_is_ultralytics(
    kind: str, build: Any, key: str, figures: str
) -> None:
    random = np.random.default_rng(0)
    metrics = build({0: "a", 1: "b"})
    matches = Matches(kind)

    class Validator:
        """What Ultralytics hands a callback, as far as it is looked at."""

    validator: Any = Validator()
    validator.metrics = metrics
    for k in range(12):
        found, true = 6 if k else 0, 0 if k == 1 else 3
        stat = {
            "tp": random.random((found, 10)) < 0.6,
            "conf": random.random(found),
            "pred_cls": random.integers(0, 2, found),
        }
        stat |= {"target_cls": random.integers(0, 2, true), "target_img": np.arange(true and 1)}
        extra = {} if key == "tp" else {key: stat["tp"][::-1]}
        metrics.update_stats({**stat, **extra, "im_name": str(k)})
        if k % 5 == 4 or k == 11:
            matches(validator)
    metrics.process()
    assert len(matches.images) == 12
    wanted = getattr(metrics, figures).map
    assert mean_average_precision(matches.images) == pytest.approx(wanted, abs=1e-12) and wanted > 0.01
    samples = matches.bootstrap(50)
    assert samples == matches.bootstrap(50) and len(set(samples)) > 20
    assert np.mean(samples) == pytest.approx(wanted, abs=0.1)
    shifted = [sample + 0.01 for sample in samples]
    assert paired_interval([shifted], [samples]) == pytest.approx((0.01, 0.01))
    assert paired_interval([shifted, samples], [samples, shifted]) == pytest.approx((0, 0))


def test_a_file_of_a_single_run_gives_what_is_common_to_all(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "imgsz: 96\ntrain: {epochs: 7}\nfine_tune: {epochs: 7, lr0: 0.001}\ncalibration: {images: 5}\n"
        "prune: {criterion: hsic_lasso, threshold: 0.1, max_map_drop: 0.1, options: {gamma: 0.5}, layers: [8]}\n"
    )
    given = {"seed": 3, "name": "b", "project": str(tmp_path)}
    study = make_study("random", None, 0.5, 2, tmp_path / "run.yaml", given)
    config = study.config
    assert (config.imgsz, config.calibration["images"], config.prune.layers) == (96, 5, [8])
    assert (config.train["epochs"], study.epochs, config.fine_tune["lr0"]) == (0, 0, 0.001)
    assert (config.prune.threshold, config.prune.max_map_drop) == (None, None)
    assert (study.seeds, study.folder, study.criteria) == ((3, 4), tmp_path / "b", ("random",))


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Path:
    """A folder with a data set and a checkpoint of its classes."""
    folder: Path = tmp_path_factory.mktemp("files")
    shapes_dataset(folder / "set", train=8, val=4, imgsz=64)
    torch.manual_seed(0)
    yolo = YOLO("yolov8n-seg.yaml")
    yolo.model = type(yolo.model)("yolov8n-seg.yaml", nc=5, verbose=False)
    yolo.model.args, yolo.model.task = {"imgsz": 64, "task": "segment"}, "segment"
    yolo.model.names = dict(enumerate(["circle", "square", "triangle", "star", "cross"]))
    yolo.ckpt = {"train_args": {"imgsz": 64, "task": "segment"}}
    yolo.save(folder / "five.pt")
    return folder


def flags(files: Path, folder: Path, *more: str) -> list[str]:
    given = {"pretrained": files / "five.pt", "data": files / "set" / "data.yaml", "imgsz": 64, "workers": 0}
    given |= {"device": "cpu", "criteria": "magnitude,random", "ratios": 0.5, "project": folder, "name": "exp"}
    words = itertools.chain.from_iterable((f"--{flag}", str(value)) for flag, value in given.items())
    return ["compare", *words, "calibration.images=4", *more]


def settings(files: Path, folder: Path, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"pretrained": files / "five.pt", "data": files / "set" / "data.yaml", "imgsz": 64}
    given |= {"workers": 0, "device": "cpu", "project": str(folder), "name": "exp", "calibration.images": 4}
    return {**given, "criteria": ["magnitude", "random"], **more}


def measured(found: Comparison) -> list[tuple[Any, ...]]:
    """Everything but times: the figures and the weights."""
    return [
        (replace(r, seconds=0.0, latency_ms=None), fingerprint(YOLO(found.folder / r.weights).model))
        for r in found.rows
    ]


def parts(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (folder / "parts").glob("*.json")}


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: Any) -> Comparison:
    """An uninterrupted comparison in this process."""
    return compare(**settings(files, tmp_path_factory.mktemp("whole"), ratios=0.5))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def test_all_files_say_the_same(whole: Comparison) -> None:
    folder = whole.folder
    data = json.loads((folder / "comparison.json").read_text())
    assert data == json.loads(whole.to_json()) and not data["failures"]
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert [r["criterion"] for r in rows] == ["unpruned", "magnitude", "random"]
    assert tuple(map(Row.from_dict, data["rows"])) == whole.rows
    figures = [
        "parameters",
        "gmacs",
        *(f"{s}_map50_95_{k}" for s in ("recovered", "fine_tuned") for k in ("box", "mask")),
    ]
    axes = ["imgsz", "precision"]
    ends = ["latency_ms", "seconds", "weights", "complete"]
    assert list(rows[0]) == ["criterion", "target", "seed", *axes, *figures, *ends]
    figures = ["parameters", "gmacs", "map50_95_box", "box_spread", "map50_95_mask", "mask_spread", "kept"]
    assert data["summary"][0].keys() == {"criterion", "target", "seeds", *axes, *figures, "latency_ms", "seconds"}
    assert all(choice.keys() >= {"target", "criterion", "mask"} for choice in data["recommendation"]["choices"])
    for line, told, value in zip(rows, data["rows"], whole.rows, strict=True):
        assert len(told.pop("samples")) == 200
        assert line == {key: "" if figure is None else str(figure) for key, figure in told.items()}
        assert value.latency_ms is not None and value.latency_ms > 0
        assert sum(p.numel() for p in YOLO(folder / value.weights).model.parameters()) == value.parameters
    control, a, b = whole.rows
    assert control.parameters > a.parameters == b.parameters and a.gmacs == b.gmacs and a.latency_ms == b.latency_ms
    assert (folder / "plots" / "pareto.png").is_file()
    for shown in (str(whole), whole._repr_html_()):
        assert f"{a.parameters:,}" in shown and "No size is recommended" in shown
        assert "Latency is of 1 image of 64x64 px, float, onnxruntime " in shown


def test_killed_it_goes_on_where_it_was(files: Path, whole: Comparison, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "depgraph_hsic_only", *flags(files, tmp_path)]
    folder = tmp_path / "exp"
    with subprocess.Popen(command, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while not (folder / "parts" / "magnitude-ratio=0.5-seed0.json").is_file():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = parts(folder)
    assert "random-ratio=0.5-seed0.json" not in before and len(before) == 5
    found = compare(**settings(files, tmp_path, ratios=0.5))
    after = parts(folder)
    assert before.items() <= after.items() and len(after) == 6
    assert measured(found) == measured(whole)


def test_sizes_are_added_to_a_comparison(files: Path, whole: Comparison) -> None:
    before = parts(whole.folder)
    given = settings(files, whole.folder.parent, criteria="magnitude", ratios=0.5, budget="gmacs=0.5")
    found = compare(**{**given, "imgsz": "64,32"})
    assert not found.failures and before.items() <= parts(whole.folder).items()
    assert len(parts(whole.folder)) == len(before) + 2  # scores and widths are those of the first size
    assert [(r.criterion, r.imgsz) for r in found.rows] == list(itertools.product(("unpruned", "magnitude"), (64, 32)))
    large, small = found.rows[2:]
    untimed = [replace(r, latency_ms=None) for r in (*found.rows[::2], *whole.rows[:2])]
    assert untimed[:2] == untimed[2:] and len({r.latency_ms for r in found.rows}) == 4  # all are timed anew, in turns
    models = [YOLO(found.folder / r.weights) for r in (large, small)]
    assert [model.overrides["imgsz"] for model in models] == [model.model.args["imgsz"] for model in models] == [64, 32]
    weights = [model.model.state_dict() for model in models]
    assert [w.shape for w in weights[0].values()] == [w.shape for w in weights[1].values()]
    assert any((weights[0][key] != w).any() for key, w in weights[1].items())  # recovered on other images
    plans = [(found.folder / r.weights).parents[1] / "plan.json" for r in (large, small)]
    assert plans[0].read_text() == plans[1].read_text()
    assert small.gmacs == pytest.approx(large.gmacs / 4, rel=0.01) and small.parameters == large.parameters
    data = json.loads((found.folder / "comparison.json").read_text())
    assert tuple(map(Row.from_dict, data["rows"])) == found.rows and data["args"]["sides"] == [64, 32]
    old = {key: value for key, value in data["rows"][0].items() if key not in ("imgsz", "precision")}
    assert Row.from_dict(old).setting == (None, None, "float")
    assert "Within gmacs=0.5: take" in found.summary() and "at 32 px" in found.summary()


@pytest.mark.slow
def test_blocks_are_left_out_by_a_comparison(files: Path, tmp_path: Path) -> None:
    """By depth alone nothing else can have met the target, and what is left is a stock model of fewer repeats."""
    found = compare(**settings(files, tmp_path, criteria="magnitude", targets="params=0.98", axes="depth"))
    assert not found.failures and (tmp_path / "exp" / "comparison.json").read_text().count('"depth"') == 1
    full, cut = (YOLO(found.folder / row.weights).model for row in found.rows)
    repeats = [[len(block.m) for block in model.model if isinstance(block, C2f)] for model in (full, cut)]
    assert sum(repeats[1]) < sum(repeats[0]) == 10 and all(a <= b for a, b in zip(*reversed(repeats), strict=True))
    plan = json.loads(((found.folder / found.rows[1].weights).parents[1] / "plan.json").read_text())
    changed = {w["name"] for w in plan["widths"] if w["before"] != w["after"]}
    assert changed and all(name.startswith("d") for name in changed)
    assert found.rows[1].parameters <= 0.98 * found.rows[0].parameters


@pytest.mark.slow
def test_precisions_are_added_to_a_comparison(files: Path, whole: Comparison) -> None:
    before = parts(whole.folder)
    found = compare(**settings(files, whole.folder.parent, precision="int8"))  # nothing is cut
    assert not found.failures and before.items() <= parts(whole.folder).items()
    assert [(r.target, r.imgsz, r.precision) for r in found.rows] == [(None, 64, "float"), (None, 64, "int8")]
    for own in found.rows:
        file = found.folder / own.weights
        assert (
            file_shape(file).size == (64, 64)
            and onnx_precision(file).removesuffix("32") == own.precision
            and len(own.samples) == 200
        )
    assert found.rows[0].primary == pytest.approx(whole.rows[0].primary, abs=1e-3)  # of square images
    assert found.rows[0].latency_ms != found.rows[1].latency_ms and found.recommendation.choices == ()
    assert "of other rows at their own" in str(found) and "of the files, on square images" in str(found)


def test_a_broken_part_loses_no_other_and_is_tried_again(
    files: Path, whole: Comparison, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))  # others list all criteria

    @register_criterion("now_and_then")
    def now_and_then(group: Any) -> torch.Tensor:
        if broken:
            raise ZeroDivisionError("no scores today")
        return torch.arange(float(group.channels))

    before = parts(whole.folder)
    assert main(flags(files, whole.folder.parent, "--criteria", "magnitude,now_and_then")) == 2
    said = capfd.readouterr()
    assert "2 parts failed (scores-now_and_then-seed0, now_and_then-ratio=0.5-seed0)" in said.err
    assert "ZeroDivisionError: no scores today" in said.err and "magnitude" in said.err
    assert "Traceback" in (whole.folder / "errors" / "scores-now_and_then-seed0.txt").read_text()
    broken = False
    found = compare(**settings(files, whole.folder.parent, criteria="now_and_then,random", ratios=0.5))
    assert not found.failures and [r.criterion for r in found.rows] == ["unpruned", "now_and_then", "random"]
    assert not list((whole.folder / "errors").iterdir())
    assert before.items() <= parts(whole.folder).items()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--imgsz", "96"], "imgsz: 64 there, 96 now"),
        (["--pretrained", "@other.pt"], "checkpoint: "),
        (["--data", "@other/data.yaml"], "data set: "),
        (["--fine-tune-epochs", "3"], "fine_tune.epochs: 0 there, 3 now"),
        (["prune.ratio=0.5"], "it comes from ratios"),
        (["--criteria", "magnitud"], "did you mean 'magnitude'"),
        (["--targets", "params=0.001"], "0.001"),
        (["--max-map-drop", "2"], "max_map_drop: expected"),
        (["--seeds", "0"], "seeds: expected"),
        (["--backend", "raj"], "did you mean 'ray'"),
        (["--address", "auto"], "pass --backend ray too"),
        (["--imgsz", "64,small"], "got 'small'"),
        (["--imgsz", "64,16"], "at least 32, got 16"),
        (["--precision", "int4"], "expected some of float, half, int8, got 'int4' (did you mean 'int8'?)"),
        (["--precision", "int8", "latency.precision=int8"], "expected float beside precision, which says it, got int8"),
        (["--precision", "int8", "latency.runtime=torch"], "with runtime=torch, got int8"),
        (["--precision", "int8", "export.opset=11"], "expected 13 or later for int8"),
        (["--budget", "size=0.5"], "got size, which is not compared"),
        (["--budget", "gmac=0.5"], "budget: expected budgets such as"),
        (["prune.axes=width,imgsz"], "it comes from axes, and imgsz and precision"),
        (["--axes", "width,imgsz"], "axes: expected width, depth or both, got imgsz"),
        (["--axes", "depth"], "axes: expected targets to meet by depth, got ratios"),
    ],
)
def test_what_differs_is_refused_in_one_line(
    more: list[str], message: str, files: Path, whole: Comparison, capsys: Any
) -> None:
    if not (files / "other.pt").exists():
        yolo = YOLO(files / "five.pt")
        yolo.model.model[0].conv.weight.data += 0.1
        yolo.save(files / "other.pt")
        shapes_dataset(files / "other", train=9, val=4, imgsz=64)
    before = {p: p.stat().st_mtime_ns for p in whole.folder.rglob("*") if p.is_file()}
    given = [word.replace("@", f"{files}/") for word in more]
    assert main(flags(files, whole.folder.parent, *given)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said, said
    assert {p: p.stat().st_mtime_ns for p in whole.folder.rglob("*") if p.is_file()} == before


def test_without_ray_one_line_says_what_to_install(
    files: Path, whole: Comparison, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(flags(files, whole.folder.parent, "--backend", "ray")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'depgraph-hsic-only[ray]'" in said


ON_RAY = """
import os, signal, sys
from pathlib import Path
import ray, torch
from depgraph_hsic_only import compare, register_criterion

if __name__ == "__main__":
    files, folder = map(Path, sys.argv[1:])

    @register_criterion("deadly")
    def deadly(group) -> torch.Tensor:
        if not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.arange(float(group.channels))

    @register_criterion("broken")
    def broken(group) -> torch.Tensor:
        raise ZeroDivisionError("no scores today")

    ray.init(num_cpus=2, include_dashboard=False)
    found = compare(
        files / "five.pt", files / "set" / "data.yaml", criteria="magnitude,random,deadly,broken", ratios=0.5, imgsz=64,
        workers=0, device="cpu", project=str(folder), name="exp", backend="ray", **{"calibration.images": 4},
        precision="int8",
    )
    assert ray.is_initialized()  # it was there before
    ray.shutdown()
    (folder / "found.json").write_text(found.to_json())
"""


@pytest.mark.slow
def test_on_ray_the_numbers_are_the_same_and_a_lost_worker_is_replaced(
    files: Path, whole: Comparison, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "script.py").write_text(ON_RAY)
    command = [sys.executable, str(tmp_path / "script.py"), str(files), str(tmp_path)]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    data = json.loads((tmp_path / "found.json").read_text())
    assert (tmp_path / "died").exists()
    broken = "broken-ratio=0.5-seed0"
    assert list(data["failures"]) == ["scores-broken-seed0", broken, f"{broken}-float", f"{broken}-int8"]
    assert [r["criterion"] for r in data["rows"][::2]] == ["unpruned", "magnitude", "random", "deadly"]
    made = (tmp_path / "exp" / "parts" / f"{r.criterion}-{r.target}-seed0.json" for r in whole.rows[1:])
    files_of = [tmp_path / "exp" / "parts" / "unpruned-seed0.json", *made]
    rows = [Row.from_dict(json.loads(file.read_text())["row"]) for file in files_of]
    found = replace(whole, folder=tmp_path / "exp", rows=tuple(rows))
    assert measured(found) == measured(whole)


@pytest.mark.slow
def test_targets_and_fine_tuning_on_two_seeds(files: Path, tmp_path: Path) -> None:
    given = {"seeds": 2, "fine_tune.epochs": 1, "prune.layers": [7, 8]}
    found = compare(**settings(files, tmp_path, targets="params=0.9", **given))
    assert not found.failures
    assert [(r.criterion, r.seed) for r in found.rows] == [
        (criterion, seed) for criterion in ("unpruned", "magnitude", "random") for seed in (0, 1)
    ]
    assert all(r.fine_tuned is not None and r.fine_tuned.keys() == {"box", "mask"} for r in found.rows)
    full = found.rows[0].parameters
    for seed in (0, 1):
        cut = [r for r in found.rows if r.seed == seed and r.target]
        assert len({r.parameters for r in cut}) == 1 and cut[0].parameters <= 0.9 * full
    assert [p.name for p in (found.folder / "runs").glob("*/weights/trained.pt")] == []
    seen = [(found.folder / "parts" / f"images-seed{seed}.txt").read_text() for seed in (0, 1)]
    assert seen[0] != seen[1] and all(len(text.split("\n")) == 4 for text in seen)
    before = parts(found.folder)
    assert any(name.startswith("sensitivity") for name in before)
    again = compare(**settings(files, tmp_path, targets="params=0.9", **given))
    assert again.to_dict() == found.to_dict() and parts(found.folder) == before
    axes = {"imgsz": [64, 32], "precision": ["float", "int8"], "criteria": "random"}
    more = compare(**{**settings(files, tmp_path, targets="params=0.9", **given), **axes})
    assert not more.failures and before.items() <= parts(found.folder).items() and len(more.rows) == 16
    own = [r for r in more.rows if (r.imgsz, r.precision) == (64, "float")]
    as_made = [r for r in found.rows if r.criterion != "magnitude"]
    assert [r.primary for r in own] == pytest.approx([r.primary for r in as_made], abs=1e-3)
    assert all(r.fine_tuned is not None and r.recovered is None for r in more.rows)
    assert {r.seed for r in more.rows if r.target is None and r.imgsz == 32} == {0, 1}
    assert (
        yaml.safe_load((found.folder / "runs" / "unpruned-seed1-32px" / "train" / "args.yaml").read_text())["imgsz"]
        == 32
    )
