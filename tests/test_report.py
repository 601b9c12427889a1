"""The page of a run: whole, self-contained, escaped, and every figure on it is one that was measured."""

import base64
import errno
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from conftest import COCO_MINI, every
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from test_workflow import parameters, settings
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from depgraph_hsic_only import DataError, DefaultYolov8SegPruner, PruningReport, RunReport, load_model, prune
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.errors import StorageError
from depgraph_hsic_only.evaluation import masks
from depgraph_hsic_only.evaluation.agreement import COMPARED, measure_agreement
from depgraph_hsic_only.evaluation.bootstrap import Matches, draws_for_deviation
from depgraph_hsic_only.evaluation.latency import Latency, measure_latency
from depgraph_hsic_only.evaluation.validation import Accuracy, ClassMetrics, Validation, validate_model
from depgraph_hsic_only.report.figures.channels import plot_sensitivity
from depgraph_hsic_only.report.figures.fonts import find_fonts, fonts_for, picture_labels
from depgraph_hsic_only.report.figures.photographs import plot_pair
from depgraph_hsic_only.report.figures.run import plot_stages, plot_training, plot_trajectory
from depgraph_hsic_only.report.page import render_html, write_html
from depgraph_hsic_only.report.stages import PRUNED, StageReport
from depgraph_hsic_only.report.warnings import find_warnings, headline
from depgraph_hsic_only.support.fingerprint import fingerprint
from depgraph_hsic_only.utils.plots import plot_classes, plot_metrics, plot_network, plot_rivals
from depgraph_hsic_only.workflow.record.rivals import sizes_of_equal_cost
from depgraph_hsic_only.yolo.architecture import layer_repeats, layer_widths, list_layers
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.tasks import TASKS

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<b>&\"'$x_1$"
NOTHING = {"torch": None, "onnxruntime": None}


def stage(name: str = "pruned", mask: float | None = 0.4, ms: float | None = 10.0, **more: Any) -> StageReport:
    latency = {"torch": None, "onnxruntime": ms}
    metrics = {} if mask is None else {"mask": Accuracy(map50=0.6, map50_95=mask)}
    given = {"parameters": 100, "gmacs": 1.0, "metrics": metrics, "latency_ms": latency, **more}
    return StageReport(name, 1.0, **given)


def spread(low: float, high: float) -> dict[str, Any]:
    return {"latency_spread_ms": {"torch": None, "onnxruntime": (low, high)}}


def by(deployed: str, ms: float, **others: float) -> dict[str, Any]:
    return {"latency_ms": {**others, deployed: ms}, "deployed": deployed}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            stage("baseline", 0.412, 14.0, parameters=1000),
            stage("fine_tuned", 0.405, 10.0, parameters=570),
            "43 % fewer parameters, 1.4× faster on this CPU with onnxruntime, mask mAP50-95 0.412 → 0.405 (−0.007)",
        ),
        (
            stage("trained", 0.4, 10.0, parameters=1000),
            stage("pruned", 0.45, 12.5, parameters=1010),
            "1 % more parameters, 1.2× slower on this CPU with onnxruntime, mask mAP50-95 0.400 → 0.450 (+0.050)",
        ),
        (
            stage("baseline", 0.4, 10.0, **spread(5.0, 15.0)),
            stage("baseline", 0.4, 5.0, **spread(4.0, 6.0)),
            "as many parameters, 2.0× faster on this CPU with onnxruntime (within the spread), mask mAP50-95 0.400 → "
            "0.400 (unchanged)",
        ),
        (
            stage("baseline", None, None, parameters=1000),
            stage("pruned", 0.3, None, parameters=999),
            "almost as many parameters, latency not compared, mask mAP50-95 0.300 (not measured before)",
        ),
        (
            stage("baseline", 0.4, None, latency_ms={"torch": 10.0, "onnxruntime": None}),
            stage("pruned", None, None, latency_ms={"torch": 10.1, "onnxruntime": 5.0}),
            "as many parameters, as fast as before with PyTorch, mask mAP50-95 not measured",
        ),
        (
            stage("baseline", **by("command", 30.0, onnxruntime=9.0)),
            stage("pruned", None, **by("command", 15.0, onnxruntime=9.0)),
            "as many parameters, 2.0× faster by command, mask mAP50-95 not measured",
        ),
        (  # on a GPU, where the file in onnxruntime is no one's concern
            stage("baseline", **by("torch", 5.0, onnxruntime=30.0)),
            stage("pruned", None, **by("torch", 4.0, onnxruntime=10.0)),
            "as many parameters, 1.2× faster with PyTorch, mask mAP50-95 not measured",
        ),
        (  # by all axes: in float before, in int8 now
            stage("baseline", **by("onnxruntime", 15.0, torch=20.0)),
            stage("pruned", None, **by("onnxruntime int8", 5.0, onnxruntime=10.0)),
            "as many parameters, 3.0× faster (onnxruntime before, onnxruntime int8 now), mask mAP50-95 not measured",
        ),
    ],
)
def test_headline(before: StageReport, after: StageReport, expected: str) -> None:
    assert headline(before, after, after.map50_95) == expected


def classes(*rows: tuple[str, int, float]) -> dict[str, Any]:
    return {"classes": tuple(ClassMetrics(name, count, {"box": 0.5, "mask": mask}) for name, count, mask in rows)}


def details(**figures: Any) -> dict[str, Any]:
    return {"details": figures}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (stage(), []),
        (stage(complete=False), ["NMS ran out of time on this machine (pruned)"]),
        (
            stage(**classes(("cat", 3, 0.25), ("dog", 40, 0.0), ("cow", 9, 0.41))),
            ["2 classes have lost at least 0.1 of mask mAP50-95: dog 0.500 → 0.000 on 40 instances; cat 0.500 → 0.25"],
        ),
        (stage(**classes(("cat", 3, 0.25))), ["on 3 instances, too few to tell."]),
        (stage(resampled=(0.38, 0.42)), ["155 images: the result's mask mAP50-95 is good to about ±0.040"]),
        (stage(resampled=(0.4, 0.401)), []),
        (
            stage(**details(recovery={"method": "bn", "images": 64})),
            ["recovered on 64 images only (set calibration.images higher)"],
        ),
        (stage(**details(recovery={"method": "none", "images": 64})), []),
        (stage(**details(stability=0.71)), ["Two halves of the images agree on 71% of the channels that stay; more"]),
        (stage(**details(stability=0.95)), []),
        (stage(**spread(8.0, 10.5)), ["overlap (10th to 90th percentile 10.0 – 12.0 ms before, 8.0 – 10.5 ms after)"]),
        (stage(**spread(8.0, 9.5)), []),
    ],
)
def test_warnings(after: StageReport, expected: list[str]) -> None:
    known = classes(("cat", 3, 0.5), ("dog", 40, 0.5), ("cow", 9, 0.5))
    before = stage("baseline", **known, **spread(10.0, 12.0))
    found = find_warnings((before, after), {"train": 260, "val": 155})
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True)), found


def test_a_change_is_judged_on_the_same_draws() -> None:
    before = stage("baseline", resampled=(0.30, 0.40, 0.50))
    after = stage(resampled=(0.29, 0.39, 0.49))
    assert "its change to about ±0.000" in find_warnings((before, after), {"val": 9})[0]


def test_resampling_finds_the_deviation_of_a_share() -> None:
    """One object in each image, found in half of them and nothing else: the mAP is the share of those found."""
    n = 200
    hit = np.ones((1, 10), bool)
    none = np.zeros((0, 10), bool)
    matches = Matches("mask")
    matches.images = [(hit if k % 2 else none, np.full(k % 2, 0.9), np.zeros(k % 2), np.zeros(1)) for k in range(n)]
    maps = matches.bootstrap(draws_for_deviation(n))
    assert len(maps) == 40 and np.mean(maps) == pytest.approx(0.5, abs=0.03)
    assert np.std(maps) == pytest.approx((0.25 / n) ** 0.5, rel=0.4)
    assert [draws_for_deviation(images) for images in (1, 2, 1000, 1001)] == [0, 40, 40, 0]


def test_the_spread_holds_the_median() -> None:
    latency = measure_latency({"sum": lambda: sum(range(1000))})["sum"]
    assert 0 < latency.p10 <= latency.median <= latency.p90


def test_masks_are_compared_in_blocks_as_at_once(monkeypatch: Any) -> None:
    """In blocks of any size, of any type; ten thousand pixels do not fit a block of the small one."""
    a, b = (torch.rand(count, 90, 110) > share for count, share in ((7, 0.5), (5, 0.3)))
    both = (a[:, None] & b).sum((2, 3)).double()
    expected = both / (a[:, None] | b).sum((2, 3))
    for values in (2**24, 4096):
        monkeypatch.setattr(masks, "_VALUES", values)
        assert torch.equal(masks.pairwise_iou(a, b.byte()), expected)
    assert float(masks.pairwise_iou(a[:1] & False, b[:1] & False)) == 0.0


def test_classes_have_names_or_numbers_in_figures() -> None:
    """Nothing is drawn that no font has: a glyph that is missing is a warning, which is an error here."""
    nowhere = "\U000f0000"  # of private use
    names = ["größe", "ножницы", "$x_1$ and $\\frac{", "two\nlines", "a" * 100, nowhere, f"{nowhere} too"]
    rows = [{"name": name, "index": k, "instances": 3, "map50_95_mask": 0.5} for k, name in enumerate(names)]
    rows[-1].pop("index")  # of an older version
    figure = plot_classes(rows, rows)
    figure.savefig(io.BytesIO())
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    expected = ["größe", "ножницы", "$x_1$ and $\\frac{", "two lines", "a" * 37 + "...", "class 5", "class ?"]
    assert shown == [f"{name} (3)" for name in expected]
    assert picture_labels(dict(enumerate(names)))[5] == "class 5"


def test_an_installed_font_is_taken_for_what_matplotlib_has_not(tmp_path: Path) -> None:
    character = "翘"
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "one"])
    builder.setupCharacterMap({ord(character): "one"})
    pen = TTGlyphPen(None)
    for point, draw in (((0, 0), pen.moveTo), ((0, 700), pen.lineTo), ((700, 0), pen.lineTo)):
        draw(point)
    pen.closePath()
    glyph = pen.glyph()
    builder.setupGlyf({".notdef": glyph, "one": glyph})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "one": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "One Character", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "one.ttf")
    before = list(fontManager.ttflist)
    fontManager.addfont(tmp_path / "one.ttf")
    try:
        fonts = find_fonts([f"{character} and more"])
        assert character not in fonts.missing and len(fonts.families) == 2
        rows = [{"name": character, "index": 0, "instances": 3, "map50_95_mask": 0.5}]
        plot_classes(rows, rows).savefig(io.BytesIO())
        with fonts_for({0: character}):
            figure = Figure()
            figure.text(0.5, 0.5, f"{character} $\\frac{{$")  # as Ultralytics would
            figure.savefig(io.BytesIO())
    finally:
        fontManager.ttflist[:] = before
        fontManager._findfont_cached.cache_clear()


@pytest.fixture(scope="module")
def run(checkpoint: Path, shapes: Path, tmp_path_factory: Any) -> RunReport:
    """A small run to the end."""
    given = {"train.epochs": 0, "fine_tune.epochs": 1, "prune.ratio": 0.5, "rivals": []}
    return DefaultYolov8SegPruner(checkpoint, **settings(tmp_path_factory.mktemp("run"), shapes, **given)).run()


@pytest.fixture(scope="module")
def page(run: RunReport) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Takes down tags that are left open, attributes, and the cells of tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._title, self._rows = "", [[""]]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._title, self._rows = (dict(attrs)["aria-label"] or "").split(" (")[0], []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "table":
            self.tables[self._title] = self._rows

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self._rows[-1][-1] += data


def test_the_page_is_whole_and_fetches_nothing(run: RunReport, page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    references = [value for _, name, value in reader.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert references and all(value.startswith("data:image/png;base64,") for value in references)
    bare = page
    for value in references:
        bare = bare.replace(value, "")
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe|<object", bare)
    assert len(page.encode()) < 8e6
    shown = Counter(base64.b64decode(value.partition(",")[2]) for value in references)
    files = list((run.folder / "plots").glob("*.png"))
    assert not (run.folder / "plots" / "widths.png").exists()
    assert shown == Counter(path.read_bytes() for path in files)
    names = {"stages", "network", "scores", "training", "classes", "latency"}
    assert names | {f"example-{k}" for k in range(1, 5)} <= {path.stem for path in files}
    assert run.summary() in page and f"--cfg {run.folder}/args.yaml" in page


def test_every_figure_of_the_page_is_that_of_the_report(run: RunReport, page: str) -> None:
    data = json.loads((run.folder / "report.json").read_text())
    tables = Reader(page).tables

    def same(cell: str, figure: float | None) -> bool:
        if figure is None or cell == "-":
            return figure is None and cell == "-"
        digits = len(cell.partition(".")[2])
        return abs(float(cell.replace(",", "")) - figure) <= 0.5000001 * 10**-digits

    baseline, pruned, tuned = data["stages"]
    rows = {row[0]: row[1:] for row in tables["Stages"][1:]}
    for name, row in (("baseline", baseline), ("pruned", pruned), ("fine-tuned", tuned)):
        keys = ("parameters", "gmacs", "size_mb", "map50_95_box", "map50_95_mask")
        figures = [*(row[key] for key in keys), *row["latency_ms"].values(), row["seconds"]]
        assert all(map(same, rows[name], figures)), (rows[name], figures)
    assert rows["as cut"][0] == rows["pruned"][0] and same(
        rows["as cut"][4], pruned["details"]["as_cut"]["map50_95_mask"]
    )
    for row, b, a in zip(tables["Cost by part"][1:], baseline["parts"], tuned["parts"], strict=True):
        assert row[0] == b["name"] and all(map(same, (row[1], row[2]), (b["parameters"], a["parameters"])))
        assert all(map(same, (row[4], row[5]), (b["gmacs"], a["gmacs"])))
    before, after = ({row["name"]: row for row in stage["classes"]} for stage in (baseline, tuned))
    by_class = {row[0]: row[1:] for row in tables["mAP50-95 by class"][1:]}
    assert by_class.keys() == after.keys()
    for name, cells in by_class.items():
        assert int(cells.pop(0)) == after[name]["index"]
        assert same(cells[0], after[name]["instances"])
        assert same(cells[1], before[name]["map50_95_mask"]) and same(cells[2], after[name]["map50_95_mask"])
        assert same(cells[4], before[name]["map50_95_box"]) and same(cells[5], after[name]["map50_95_box"])
    for row, runtime in zip(tables["Latency of 1 image of 64x64 px"][1:], ("torch", "onnxruntime"), strict=True):
        for k, stage_ in ((1, baseline), (3, tuned)):
            assert same(row[k], stage_["latency_ms"][runtime])
            assert all(map(same, row[k + 1].split(" – "), stage_["latency_spread_ms"][runtime]))


def test_the_figures_are_true(run: RunReport, shapes: Path) -> None:
    """A fresh count of parameters, a fresh validation, the objects counted in the label files."""
    data = json.loads((run.folder / "report.json").read_text())
    best = run.folder / "weights" / "best.pt"
    assert run.after.parameters == parameters(best)
    found = YOLO(best).val(data=str(shapes), workers=0, plots=False, **data["validation"])
    assert (found.box.map, found.seg.map) == (run.after.map50_95["box"], run.after.map50_95["mask"])
    files = (shapes.parent / "labels" / "val").glob("*.txt")
    labels = [line.split()[0] for file in files for line in file.read_text().splitlines()]
    names = find_dataset(shapes).names
    assert {row.name: row.instances for row in run.after.classes} == Counter(names[int(label)] for label in labels)
    assert data["images"] == {"train": 16, "val": 6} and run.agreement is not None and run.agreement.images == 6


def test_a_page_is_made_again_from_its_folder(run: RunReport, page: str) -> None:
    loaded = RunReport.load(run.folder)
    assert loaded.to_json() == run.to_json() and str(loaded) == str(run)
    assert loaded.to_json() == (run.folder / "report.json").read_text()
    (run.folder / "report.html").unlink()
    assert write_html(run.folder).read_text(encoding="utf-8") == page
    with pytest.raises(DataError, match=r"expected a run folder with a report\.json"):
        RunReport.load(run.folder / "weights")


def data_of(run: RunReport, first: str) -> list[dict[str, Any]]:
    """The stages of a report from one on, as it is written."""
    names = [stage.name for stage in run.stages]
    return [stage.to_dict() for stage in run.stages[names.index(first) :]]


def test_what_else_costs_as_little_stands_beside_the_result(run: RunReport, shapes: Path, page: str) -> None:
    rival, int8 = run.rivals  # 32 px alone are fewer than 64
    assert (rival.name, rival.imgsz, rival.parameters) == ("the unpruned model at 32 px", 32, run.before.parameters)
    assert rival.gmacs == pytest.approx(run.before.gmacs / 4)
    found = YOLO(run.folder / "weights" / "trained.pt").val(data=shapes, imgsz=32, batch=4, plots=False, workers=0)
    assert rival.map50_95 == {"box": found.box.map, "mask": found.seg.map}
    assert rival.name in page and RunReport.load(run.folder).rivals == run.rivals
    assert (int8.name, int8.imgsz, int8.gmacs) == ("the unpruned model in int8", 64, run.before.gmacs)
    assert all(of.latency_ms and of.epochs == 0 for of in run.rivals) and int8.map50_95.keys() == {"box", "mask"}
    network = load_model(run.folder / "weights" / "trained.pt").model
    whole = measure_cost(network, 640).gmacs
    assert sizes_of_equal_cost(network, 0.5 * whole, 640) == [480, 448]  # 0.5625 and 0.49
    assert sizes_of_equal_cost(network, 0.49 * whole * (1 + 1e-9), 640) == [480, 448]
    assert sizes_of_equal_cost(network, 0.97 * whole, 640) == [608]

    won = replace(rival, map50_95={"box": 1.0, "mask": 1.0})
    better = "but the unpruned model at 32 px costs"
    assert better in replace(run, rivals=(won,)).summary() and better not in run.summary()
    dear = replace(won, gmacs=run.after.gmacs * 1.01, latency_ms=run.after.deployed_ms)
    assert better not in replace(run, rivals=(dear,)).summary()
    assert better in replace(run, rivals=(replace(dear, latency_ms=0.9 * (run.after.deployed_ms or 0)),)).summary()

    file = replace(run.files[0], precision="int8", map50_95={"box": 0.25, "mask": 0.125})
    timed = replace(run.timed, precision="int8") if run.timed else None
    in_int8 = replace(run, files=(*run.files, file), timed=timed)
    assert "→ 0.125" in in_int8.summary() and in_int8.worth["box"] == 0.25 and run.worth == run.after.map50_95

    drawn = plot_rivals(run.before.to_dict(), data_of(run, PRUNED.name), [asdict(rival), asdict(int8)])
    for axes, cost in zip(drawn.axes, (run.after.deployed_ms, run.after.gmacs), strict=True):
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() != "None"]
        assert (cost, run.after.map50_95["mask"]) in points and len(points) == 5  # unpruned, two rivals, as cut
        assert [text.get_text() for text in axes.texts][1:3] == ["at 32 px", "in int8"]


def test_report_json_keeps_its_keys(run: RunReport) -> None:
    """Users' scripts read them; the names inside may change."""
    data = json.loads((run.folder / "report.json").read_text())
    keys = {"version", "task", "environment", "args", "stages", "widths", "onnx", "validation", "images", "sources"}
    assert data.keys() == keys | {"comparison", "layers", "files", "notes", "rivals", "latency", "dataset"}
    maps = {"map50_95_box", "map50_95_mask", "map50_box", "map50_mask", "resampled_mask"}
    cost = {
        "name",
        "seconds",
        "parameters",
        "gmacs",
        "size_mb",
        "weights",
        "latency_ms",
        "latency_spread_ms",
        "deployed",
        "parts",
    }
    for found, told in zip(run.stages, data["stages"], strict=True):
        assert told.keys() == maps | cost | {"imgsz", "complete", "classes", "notes", "epochs", "details"}
        assert StageReport.from_dict({**told, "details": found.details}) == found
    accuracy = {"box": Accuracy(0.1, 0.2), "mask": Accuracy(0.3, 0.4)}
    told = stage(metrics=accuracy, resampled=(0.5,), **classes(("cat", 3, 0.25))).to_dict()
    assert [told[f"map50_{kind}"] for kind in ("box", "mask")] == [0.1, 0.3]
    assert [told[f"map50_95_{kind}"] for kind in ("box", "mask")] == [0.2, 0.4]
    assert told["resampled_mask"] == (0.5,)
    assert told["classes"] == [
        {"name": "cat", "index": None, "instances": 3, "map50_95_box": 0.5, "map50_95_mask": 0.25}
    ]


def test_a_report_of_an_older_version_keeps_its_picture_of_the_network(run: RunReport, tmp_path: Path) -> None:
    data = json.loads((run.folder / "report.json").read_text())
    assert data.pop("layers")
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert RunReport.load(tmp_path).layers == ()
    drawn = {path.stem for path in plot_metrics(tmp_path)}
    assert {"stages", "scores", "latency"} <= drawn and "network" not in drawn
    shutil.copytree(run.folder / "plots", tmp_path / "plots", dirs_exist_ok=True)
    picture = base64.b64encode((run.folder / "plots" / "network.png").read_bytes()).decode()
    assert picture in write_html(tmp_path).read_text(encoding="utf-8")


def of_task(run: RunReport, task: str) -> RunReport:
    """The run as if its model had had another task, with the figures of masks as those of the kind that counts most."""
    kinds, primary = TASKS[task].kinds, TASKS[task].primary

    def other(maps: Any) -> dict[str, Any]:
        return {kind: maps["mask" if kind == primary else kind] for kind in kinds}

    epochs = {"metrics/mAP50-95(M)": f"metrics/mAP50-95({primary[0].upper()})"}
    stages = tuple(
        replace(
            row,
            task=task,
            notes=(),
            metrics=other(row.metrics),
            classes=tuple(replace(each, map50_95=other(each.map50_95)) for each in row.classes),
            epochs=tuple({epochs.get(key, key): value for key, value in epoch.items()} for epoch in row.epochs),
            details={
                **row.details,
                **({"as_cut": {f"map50_95_{kind}": 0.1 for kind in kinds}} if "as_cut" in row.details else {}),
                "trajectory": [{"step": k, "parameters": 9 - k, f"map50_95_{primary}": 0.5} for k in range(3)],
            },
        )
        for row in run.stages
    )
    files = tuple(replace(file, map50_95=dict.fromkeys(kinds, 0.25), loss=0.03) for file in run.files)
    return replace(run, stages=stages, files=files)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "segment"])
def test_a_report_speaks_of_its_own_task(task: str, run: RunReport, tmp_path: Path) -> None:
    report = replace(of_task(run, task), folder=tmp_path)
    kinds, primary = TASKS[task].kinds, TASKS[task].primary
    text = report.to_json()
    data = json.loads(text)
    assert data["task"] == task and "mask" not in "".join(data["stages"][0])
    assert {key for key in data["stages"][0] if "map50_95" in key} == {f"map50_95_{kind}" for kind in kinds}
    assert list(data["stages"][0]["classes"][0])[3:] == [f"map50_95_{kind}" for kind in kinds]
    assert data["stages"][0][f"resampled_{primary}"] == list(run.before.resampled)
    (tmp_path / "report.json").write_text(text)
    assert RunReport.load(tmp_path).to_json() == text
    letter = primary[0].upper()
    assert report.after.csv_row()[f"metrics/mAP50-95({letter})"] == run.after.map50_95["mask"]
    assert f"{primary} mAP50-95" in report.summary() and "mask" not in report.summary()
    assert f"loses 0.0300 of {primary} mAP50-95" in report.losses()[0]

    rows = data["stages"]
    legends = [{text.get_text() for text in axes.get_legend().get_texts()} for axes in plot_training(rows).axes]
    assert legends[1] == set(kinds)
    trajectory, by_class = plot_trajectory(rows[-1]["details"]["trajectory"]), plot_classes(*[rows[0]["classes"]] * 2)
    assert trajectory.axes[0].get_ylabel() == f"{primary} mAP50-95" in by_class.axes[0].get_xlabel()
    assert plot_stages(rows).axes[2].get_title() == ("mAP50-95" if len(kinds) > 1 else "box mAP50-95")

    reader = Reader(render_html(report, dict.fromkeys([f"example-{k}" for k in range(1, 5)], b"")))
    words = " ".join(reader.texts)
    assert "Agreement is the panoptic quality" in words and f"{COMPARED[task].worth_called} over matching" in words
    headings = {name: " ".join(rows[0]) for name, rows in reader.tables.items()}
    for name in ("Stages", "Exported files"):
        assert all(f"{kind}\nmAP50-95" in headings[name] for kind in kinds) and "mask" not in headings[name]
    assert "mask" not in headings["mAP50-95 by class"] and f"greatest loss of {primary} mAP50-95 first" in words
    assert f"{primary}\nloss" in headings["Exported files"] and "mask mAP50-95" not in words


def test_a_report_without_a_task_is_one_of_segmentation(run: RunReport, tmp_path: Path) -> None:
    data = json.loads((run.folder / "report.json").read_text())
    del data["task"], data["validation"]["nms"]  # as an older version has written it
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert replace(RunReport.load(tmp_path), folder=run.folder).to_json() == run.to_json()


def test_a_report_starts_no_process_and_imports_no_matplotlib_to_be_shown(run: RunReport, monkeypatch: Any) -> None:
    code = "import sys; from depgraph_hsic_only import RunReport; print(RunReport.load(sys.argv[1]).summary()); "
    code += "assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(run.folder)], check=True)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert RunReport(run.folder, {}, run.stages, run.validation, {}, {}).environment == {}


@pytest.mark.parametrize(
    ("build", "yaml", "feeding"),
    [
        (SegmentationModel, "yolov8n-seg.yaml", [15, 18, 21]),
        (DetectionModel, "yolov8x.yaml", [15, 18, 21]),
        (DetectionModel, "yolov8n-p2.yaml", [18, 21, 24, 27]),
    ],
)
def test_the_network_is_drawn_as_its_yaml_connects_it(build: Any, yaml: str, feeding: list[int]) -> None:
    network = build(yaml, verbose=False)
    layers, widths = list_layers(network), layer_widths(network)
    sides: dict[int, int] = {}
    for i, layer in enumerate(network.model[:-1]):
        layer.register_forward_hook(lambda _, __, out, i=i: sides.update({i: out.shape[-1]}))
    network(torch.zeros(1, 3, 64, 64))
    assert {layer.index: 64 // layer.stride for layer in layers[:-1]} == sides
    assert layers[-1].sources == tuple(feeding)
    assert [layer.index for layer in layers if layer.part == "backbone"] == list(range(10))

    axes = plot_network(widths, {name: max(1, width // 2) for name, width in widths.items()}, layers).axes[0]
    rows = {text.get_text().partition("  ")[0]: text.get_position() for text in axes.texts}
    places = {int(name): place for name, place in rows.items() if name.isdecimal()}
    assert {f"w{index}" for index in places} == {name for name in widths if name.startswith("w")}
    assert len(set(places.values())) == len(places)
    assert [places[i][1] - places[0][1] for i in range(10)] == pytest.approx(list(range(10)))
    leaves = {layer.stride: layer.index for layer in layers if layer.part == "backbone"}
    for layer in layers[10:-1]:
        if layer.kind == "C2f":  # it stands beside the backbone's last layer of its stride
            assert places[layer.index][1] == pytest.approx(places[leaves[layer.stride]][1])
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    chain, joins = 9, 2 * sum(layer.kind == "Concat" for layer in layers)
    convolutions = sum(layer.kind == "Conv" and layer.part == "neck" for layer in layers)
    assert len(arrows) == chain + joins + convolutions + len(feeding)


@pytest.mark.parametrize("yaml", ["yolov8n-obb.yaml", "yolo11n.yaml", "yolo26n-pose.yaml", "yolo26n-seg.yaml"])
def test_every_width_is_drawn_within_the_box_of_its_layer(yaml: str) -> None:
    network = YOLO(yaml).model
    before = dict.fromkeys(layer_widths(network), 768) | dict.fromkeys(layer_repeats(network), 6)
    figure = plot_network(before, {name: width // 2 for name, width in before.items()}, list_layers(network))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert sum(bool(patch.get_hatch()) for patch in axes.patches) == len(before)
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    texts = [text.get_window_extent() for text in axes.texts if "→" in text.get_text()]
    assert len(texts) == len(before)
    for text in texts:
        assert any(text.x0 >= b.x0 and text.x1 <= b.x1 and text.y0 >= b.y0 and text.y1 <= b.y1 for b in boxes)


@pytest.mark.parametrize("full", every([False], [True]))
def test_a_failure_in_pictures_costs_no_run(full: bool, run: RunReport, tmp_path: Path, monkeypatch: Any) -> None:
    """Whatever drawing meets is said in the report; but a full disk ends the run, to go on when there is room."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device") if full else RuntimeError("no such font")

    monkeypatch.setattr("depgraph_hsic_only.workflow.record.recorder.measure_agreement", fail)
    monkeypatch.setattr("depgraph_hsic_only.report.figures.run.plot_stages", fail)
    none = dict.fromkeys(("median", "p10", "p90"), 1.0)
    monkeypatch.setattr(
        "depgraph_hsic_only.workflow.record.latencies.measure_latency",
        lambda runs, _: {run: Latency(**none) for run in runs},
    )
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)  # as a run that was cut off in its last stage
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "done": state["done"][:-1]}))
    pruner = DefaultYolov8SegPruner(cfg=None, **state["settings"])
    if full:
        with pytest.raises(StorageError, match="No space left"):
            pruner.run(resume=folder)
        return
    report = pruner.run(resume=folder)
    assert "no images before and after (RuntimeError: no such font)" in report.after.notes and report.onnx is not None
    text = "".join(Reader((report.folder / "report.html").read_text(encoding="utf-8")).texts)
    assert "The figures could not be drawn (RuntimeError: no such font)." in text and report.after.notes[-1] in text
    assert json.loads((report.folder / "state.json").read_text())["done"][-1] == "exported"


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (16, 16), (400, 8000), (8000, 400)])
def test_pictures_of_any_shape_can_be_seen(height: int, width: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    figure = plot_pair(picture, picture, ("before: 300 found", "after: 300 found"))
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert max(box.width, box.height) >= 3.5 * figure.dpi
        title = axes.title.get_window_extent()
        assert title.x0 >= 0 and title.x1 <= figure.bbox.x1
    assert not figure.axes[0].title.get_window_extent().overlaps(figure.axes[1].title.get_window_extent())


def test_texts_are_escaped(run: RunReport) -> None:
    rows = tuple(replace(row, name=HOSTILE) for row in run.after.classes[:1])
    stages = tuple(replace(row, classes=rows, notes=(HOSTILE,)) for row in run.stages)
    hostile = replace(run, args={**run.args, "pretrained": HOSTILE, "data": HOSTILE}, stages=stages)
    page = render_html(hostile, {f"example-{k}": b"" for k in range(1, 5)})
    reader = Reader(page)
    assert reader.open == [] and HOSTILE not in page
    assert reader.tables["mAP50-95 by class"][1][0] == HOSTILE
    assert sum(HOSTILE in text for text in reader.texts) >= 5
    assert "<b>&" not in hostile._repr_html_() and "&lt;b&gt;&amp;" in hostile._repr_html_()


def test_reports_show_themselves(run: RunReport, checkpoint: Path) -> None:
    pruning = prune(load_model(checkpoint), 0.5)
    assert isinstance(pruning, PruningReport)
    assert pruning.summary() == "31 % fewer parameters, 22 % fewer multiply-adds (widths by magnitude)"
    for report in (run, pruning):
        assert "\n" not in report.summary() and isinstance(report.plot(), Figure)
        assert json.loads(report.to_json()) == json.loads(json.dumps(report.to_dict()))
        html = Reader(report._repr_html_())
        assert html.open == [] and f"{parameters(run.folder / 'weights' / 'best.pt'):,}" in "".join(html.texts)


def test_a_notebook_gets_a_report_as_text_too(run: RunReport, monkeypatch: Any) -> None:
    text, html = str(run), run._repr_html_()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # where rich would show what it is to write
    assert str(run) == text and run._repr_html_() == html


def test_images_that_cannot_be_read_are_an_error(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    yolo = load_model(checkpoint)
    with pytest.raises(DataError, match="none of 1 validation files could be read"):
        measure_agreement(yolo, yolo, [tmp_path / "a.png"], shape=InputShape(64, 64), device="cpu")


def test_real_models_agree_with_themselves_and_less_when_cut(real_weights: Path) -> None:
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    files = find_dataset(COCO_MINI).images("val")[:6]
    cut = load_model(real_weights)
    prune(cut, 0.1)
    same, _ = measure_agreement(
        load_model(real_weights), load_model(real_weights), files, shape=InputShape(160, 160), device="cpu"
    )
    assert same.agreement == 1.0 and same.differing == () and any(row.before for row in same.examples)
    less, pairs = measure_agreement(load_model(real_weights), cut, files, shape=InputShape(160, 160), device="cpu")
    assert less.agreement is not None and less.agreement < 1.0 and len(less.examples) == 4
    figures = [row.agreement for row in less.differing]
    assert figures == sorted(figures) and figures[-1] < 1.0
    pair = pairs["difference-1"]
    assert pair.found == less.differing[0] and pair.before.shape == pair.after.shape
    assert (pair.before != pair.after).any()


def test_real_classes_are_those_of_a_fresh_validation(real_weights: Path) -> None:
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    validation = Validation(128, 16)
    metrics = validate_model(load_model(real_weights), str(COCO_MINI), validation, device="cpu", workers=0, draws=40)
    found = YOLO(real_weights).val(data=str(COCO_MINI), imgsz=128, batch=16, workers=0, plots=False, device="cpu")
    for row, fresh in zip(metrics.classes, found.summary(decimals=9), strict=True):
        assert (row.name, row.instances) == (fresh["Class"], fresh["Instances"])
        assert row.map50_95["box"] == pytest.approx(fresh["mAP50-95"], abs=1e-8)
    mask = metrics["mask"].map50_95
    assert np.mean([row.map50_95["mask"] for row in metrics.classes]) == pytest.approx(mask)
    assert mask == found.seg.map > 0.05 and metrics["box"].map50_95 == found.box.map
    assert (metrics["box"].map50, metrics["mask"].map50) == (found.box.map50, found.seg.map50)
    assert np.mean(metrics.resampled) == pytest.approx(mask, abs=0.03)


def test_the_report_says_what_it_was_made_from(run: RunReport, checkpoint: Path, shapes: Path) -> None:
    """Digests that another machine can compare, and the state of the package."""
    assert run.sources["checkpoint"] == fingerprint(load_model(checkpoint).model)
    assert run.sources["data"] == find_dataset(shapes).digest()
    assert RunReport.load(run.folder).sources == run.sources
    assert run.environment["commit"] is None or len(run.environment["commit"].partition("-")[0]) >= 7


def test_a_file_that_loses_too_much_is_warned_of(run: RunReport) -> None:
    (plain,) = run.files
    assert (plain.precision, plain.loss, plain.map50_95) == ("float32", None, {}) and run.losses() == []
    int8 = [
        replace(plain, path=f"{k}.onnx", precision="int8", loss=loss) for k, loss in enumerate((0.03, 0.01, -0.001))
    ]
    report = replace(run, files=(plain, *int8), agreement=None)
    assert [line.partition(" of ")[0] for line in report.losses()] == [
        "0.onnx in int8 loses 0.0300",
        "1.onnx in int8 loses 0.0100",
        "2.onnx in int8 gains 0.0010",
    ]
    page = render_html(report, {})
    (warned,) = re.findall(r"<li>([^<]*\.onnx[^<]*)</li>", page)
    assert warned.startswith("0.onnx in int8 loses 0.0300") and "more than 0.02" in warned
    files = (plain, replace(int8[1], calibrated_on=8, complete=False), replace(int8[2], calibrated_on=64))
    page = render_html(replace(report, files=files, notes=("trained for int8",)), {})
    slow, few = (line for line in re.findall(r"<li>([^<]*)</li>", page) if "1.onnx" in line)
    assert "NMS ran out of time on this machine (1.onnx)" in slow and "2.onnx" not in slow + few
    assert few == "1.onnx was quantised by 8 images only, whose ranges others will exceed: calibrate on 32 or more " + (
        "(calibration.images)."
    )
    assert "<b>export</b>: trained for int8" in page
    other = replace(
        plain, path="best_ncnn_model", format="ncnn", verified=None, latency_ms=None, says="unverified: why"
    )
    good = replace(plain, path="best.mnn", format="mnn", verified=True, says="same on 8 images")
    assert run.timed is not None
    timed = replace(run.timed, warning="the machine was busy: others had it")
    report = replace(run, files=(plain, other, good), timed=timed, agreement=None)
    page, text = render_html(report, {}), " ".join(str(report).split())
    assert "<li>best_ncnn_model (ncnn): unverified: why.</li>" in page and "<p>best.mnn (mnn): same on 8 im" in page
    assert "<li>best.mnn" not in page and "<li>The machine was busy: others had it.</li>" in page
    assert f"What is deployed: {timed}" in page and f"Latency of what is deployed: {timed}" in text
    assert "best_ncnn_model (ncnn): unverified: why" in text and "the machine was busy: others had it" in text
    assert RunReport.load(run.folder).files == run.files


def test_the_page_of_a_smaller_int8_result_is_of_what_is_deployed(run: RunReport, tmp_path: Path) -> None:
    """Its mAP at the top, its images beside the latencies, what plain Ultralytics takes, and a target that was missed.

    Where no width was an axis none was measured, which costs no figure.
    """
    (plain,) = run.files
    worth = {"box": 0.625, "mask": 0.375}
    after = replace(run.after, imgsz=32, latency_ms=run.before.latency_ms)
    args = {**run.args, "data": "shapes", "prune": {**run.args["prune"], "target": {"latency": 0.8}}}
    report = replace(
        run,
        folder=tmp_path,
        args=args,
        stages=(*run.stages[:-1], after),
        files=(plain, replace(plain, path="best_int8.onnx", precision="int8", map50_95=worth)),
        timed=replace(run.timed, precision="int8"),
        agreement=None,
    )
    assert "; the target latency=0.8 is missed by 0.200" in report.summary()
    assert (
        "missed" not in replace(report, args={**args, "prune": {**args["prune"], "target": "latency=0.99"}}).summary()
    )
    page = render_html(report, {})
    tables = Reader(page).tables
    assert '<span class="after">0.375</span>' in page and '<span class="after">0.625</span>' in page
    assert "mAP50-95 by class, in float" in tables
    assert "Latency of 1 image of 64x64 px, before the cut by imgsz=64" in tables
    assert f"model.train(data=&#39;{run.dataset}&#39;" in page and Path(run.dataset).is_file()
    (tmp_path / "report.json").write_text(report.to_json())
    (tmp_path / "sensitivity.json").write_text(json.dumps(Sensitivity({"w3": {}}, {"w3": 32}, 4, 1.0).to_dict()))
    assert {"stages.png", "training.png"} <= {path.name for path in plot_metrics(tmp_path)}


def test_ticks_of_logarithmic_axes_are_numbers(monkeypatch: Any) -> None:
    """In a run no text is a formula, so that no class name is."""
    monkeypatch.setitem(matplotlib.rcParams, "text.parse_math", False)
    figure = plot_sensitivity(Sensitivity({"w3": {8: 9.0, 16: 0.01}}, {"w3": 32}, 4, 1.0), {"w3": 16})
    figure.savefig(io.BytesIO())
    (axes,) = (panel for panel in figure.axes if panel.get_visible())
    ticks = [text for label in axes.get_yticklabels(which="both") if (text := label.get_text())]
    assert len(ticks) > 2 and all(float(text) > 0 for text in ticks)
