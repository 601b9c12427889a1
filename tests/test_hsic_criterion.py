"""HSIC-Lasso in the network: samples against Ultralytics' own forward pass, scores against a planted truth."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import COCO_MINI, build, every
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from depgraph_hsic_only import (
    ConfigError,
    DataError,
    HsicLassoPruner,
    UnsupportedModelError,
    ensure_nms,
    load_model,
    plan_pruning,
    prune,
    score_channels,
)
from depgraph_hsic_only.channels.groups import trace_channels
from depgraph_hsic_only.channels.plan import selection_stability
from depgraph_hsic_only.channels.widths import threshold_widths
from depgraph_hsic_only.criteria.hsic_lasso import HsicLasso
from depgraph_hsic_only.evaluation.agreement import measure_agreement
from depgraph_hsic_only.recovery.samples import Samples, gather_samples
from depgraph_hsic_only.utils.plots import plot_lasso_path, plot_scores
from depgraph_hsic_only.yolo.input_shape import InputShape


def random_images(n: int = 6, side: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(2))


def test_samples_are_what_the_convolutions_read_and_put_out() -> None:
    """Weights times patches are the outputs, at every sampled place, for all kernels and strides."""
    graph = trace_channels(build())
    readers = dict.fromkeys(m.name for group in graph.groups for m in group.members if m.role == "input")
    batches = [{"img": (random_images() * 255).byte()}, {"img": random_images(3)}]
    samples = gather_samples(graph.model, list(readers), batches, positions=4, seed=0)
    assert {name for s in samples for name in s.convolutions} == set(readers)
    for s in samples:
        assert s.inputs.shape[0] == s.outputs.shape[0] == min(4, (64 // 4) ** 2) * 9 or "model.9" in s.convolutions[0]
        made = torch.einsum("nck,ock->no", s.inputs, s.weight)
        torch.testing.assert_close(made, s.outputs, rtol=1e-3, atol=1e-3, msg=str(s.convolutions))
    assert not any(m._forward_hooks for m in graph.model.modules())


def test_parts_of_one_convolution_share_their_samples(monkeypatch: Any) -> None:
    """However many they are, and whatever their order."""
    network, names = build(), [f"model.22.{branch}.0.0.conv" for branch in ("cv4", "cv2", "cv3")]  # read the same
    alone = gather_samples(network, names, [{"img": random_images(3)}], positions=4, seed=0)
    monkeypatch.setattr("depgraph_hsic_only.recovery.samples.split_of", lambda network, path: path[:8])
    (found,) = gather_samples(network, names, [{"img": random_images(3)}], positions=4, seed=0)
    assert found.convolutions == tuple(sorted(names))
    by_name = {s.convolutions[0]: s for s in alone}
    for key in ("outputs", "weight"):
        dim = 1 if key == "outputs" else 0
        expected = torch.cat([getattr(by_name[name], key) for name in sorted(names)], dim)
        torch.testing.assert_close(getattr(found, key), expected)
    torch.testing.assert_close(found.inputs, alone[0].inputs)


def test_hooks_and_modes_are_put_back_after_an_error() -> None:
    graph = trace_channels(build().train())
    modes = [m.training for m in graph.model.modules()]
    with pytest.raises(DataError, match="expected calibration images"):
        gather_samples(graph.model, ["model.3.conv"], [], positions=4, seed=0)
    with pytest.raises(RuntimeError):
        gather_samples(graph.model, ["model.3.conv"], [{"img": torch.rand(1, 3, 50, 50)}], positions=4, seed=0)
    assert [m.training for m in graph.model.modules()] == modes
    assert not any(m._forward_hooks for m in graph.model.modules())


def planted(n: int = 600, d: int = 12) -> Samples:
    """Outputs that read channels 0–3, of which 3 repeats 2; 4 is dead; the rest is noise that weights ignore."""
    x = torch.randn(n, d, 1, generator=torch.Generator().manual_seed(0))
    x[:, 3] = -3 * x[:, 2] + 1
    x[:, 4] = 0.5
    weight = torch.zeros(5, d, 1)
    weight[:, :4] = torch.randn(5, 4, 1, generator=torch.Generator().manual_seed(1))
    weight[:, 3] /= 10
    return Samples(("c",), x, torch.einsum("nck,ock->no", x, weight), weight)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_what_is_read_enters_first_and_what_repeats_or_is_dead_scores_nothing(gamma: float) -> None:
    scores = HsicLasso(gamma=gamma).score_inputs(planted())[0]
    assert scores.max() == 1 and (scores >= 0).all()
    assert scores[4] == 0 and scores[3] == 0  # dead; of two that say the same the one with less energy
    assert scores[:3].min() > 2 * scores[5:].max()


def test_scores_do_not_depend_on_batches_or_chosen_layers() -> None:
    model, images = build(), random_images(8)
    whole = score_channels(model, "hsic_lasso", batches=[{"img": images}], layers=[3, 4], positions=8, block_size=64)
    split = score_channels(
        model, "hsic_lasso", batches=[{"img": b} for b in images.split(3)], layers=[4], positions=8, block_size=64
    )
    for name, scores in split.items():
        torch.testing.assert_close(scores, whole[name], rtol=1e-3, atol=1e-4)


def test_a_channel_counts_where_it_counts_most(monkeypatch: Any) -> None:
    """The second half of a C2f is read at four slots: each channel takes its largest score."""
    graph = trace_channels(build(), [4])
    group = next(g for g in graph.groups if g.name == "model.4.second")
    table = {
        m.name: torch.rand(cast_conv(m.module).in_channels, dtype=torch.float64)
        for m in group.members
        if m.role == "input"
    }
    monkeypatch.setattr(
        HsicLasso,
        "score_inputs",
        lambda self, s: table.get(s.convolutions[0], torch.zeros(s.inputs.shape[1]).double())[None],
    )
    found = HsicLasso().score(graph, [{"img": random_images(2)}])[group.name]
    slots = table["model.4.cv2.conv"][32:].reshape(3, 32)
    places = [slots.amax(0), table["model.4.m.0.cv1.conv"], table["model.4.m.1.cv1.conv"]]
    assert torch.equal(found, torch.stack(places).amax(0))


def cast_conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module


def test_a_threshold_cuts_nothing_at_or_above_it() -> None:
    graph = trace_channels(build())
    generator = np.random.default_rng(0)
    scores = {g.name: torch.from_numpy(generator.random(g.channels)) for g in graph.groups}
    for threshold in (0.0, 0.3, 0.9, 1.5):
        widths = threshold_widths(graph, scores, threshold)
        assert widths["h9"] == widths["w8"] // 2
        for width in graph.widths:
            needs = [int((scores[g.name] >= threshold).sum()) for g in width.groups]
            assert widths[width.name] >= max(needs)
            slack = 16 if width.name in ("w8", "h9") else 8
            assert widths[width.name] <= max(max(needs) + slack, 8) or width.name == "w8"
    assert threshold_widths(graph, scores, 0.0) == {w.name: w.channels for w in graph.widths}


@pytest.mark.parametrize("kind", every(["YOLO", "detection"], ["network", "yaml"]))
def test_prunes_a_live_model_and_reports(kind: str) -> None:
    model: Any = {
        "YOLO": lambda: YOLO("yolov8n-seg.yaml"),
        "yaml": lambda: YOLO("yolov8s-seg.yaml"),
        "network": build,
        "detection": lambda: DetectionModel("yolov8n.yaml", nc=3, verbose=False),
    }[kind]()
    if kind == "YOLO":
        ensure_nms()  # which predict needs
        model.predict(random_images(1), verbose=False)
    network = model.model if kind in ("YOLO", "yaml") else model
    before = copy.deepcopy(network.state_dict())
    pruner = HsicLassoPruner(ratio=0.5, images=random_images(40), positions=4, block_size=64)
    scores = pruner.score(model)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    report = pruner.prune(model)
    assert report.after.parameters == sum(p.numel() for p in network.parameters()) < report.before.parameters
    assert {n: len(s) for n, s in report.scores.items()} == {n: len(s) for n, s in scores.items()}
    assert all(0 <= v <= 1 for s in report.scores.values() for v in s)
    for cut in report.plan.groups:  # what was kept scores no less than what was cut
        kept = set(cut.keep)
        lost = [v for k, v in enumerate(report.scores[cut.name]) if k not in kept]
        assert not lost or max(lost) <= min(report.scores[cut.name][k] for k in kept)
    if kind in ("YOLO", "yaml"):
        assert model.predict(random_images(1), verbose=False)[0].orig_shape == (64, 64)
    assert f"{report.after.parameters:,}" in str(report)


def test_without_images_it_takes_photographs_and_says_how_few(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="2 calibration images are few"):
        scores = HsicLassoPruner(imgsz=64, layers=[8]).score(build())
    assert set(scores) == {"model.8.first", "model.8.second", "model.8.m.0.cv1", "model.8.cv2", "model.9.cv1"}


def test_settings_come_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "hsic.yaml"
    path.write_text("threshold: 0.05\nlayers: [8]\npositions: 4\nblock_size: 32\nimgsz: 64\n")
    report = HsicLassoPruner.load_config(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert "scores of at least 0.05" in str(report.prune(build()))
    path.write_text("treshold: 0.05\n")
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        HsicLassoPruner.load_config(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.1, "ratio": 0.5}, "a ratio, a threshold or a target"),
        ({"threshold": float("nan")}, "threshold: expected"),
        ({"threshold": 2}, r"threshold: expected a score of HSIC-Lasso, in \[0, 1\], got 2"),
        ({"ratio": 1.5}, "ratio: expected"),
        ({"gama": 1}, "unknown option 'gama'"),
        ({"layers": "neck"}, "'backbone', 'all' or a list"),
        ({"layers": [3, -1]}, "got -1"),
        ({"max_images": 0}, "max_images: expected"),
        ({"kernel": "cubic"}, "kernel"),
        ({"centering": "none"}, "centering"),
        ({"gamma": -1}, "gamma"),
        ({"positions": 0}, "positions"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HsicLassoPruner(**settings)


def test_layers_that_the_model_has_not_are_refused_before_an_image_is_read(tmp_path: Path) -> None:
    pruner = HsicLassoPruner(layers=[11], images=tmp_path / "missing")
    for use in (pruner.prune, pruner.score):
        with pytest.raises(ConfigError, match=r"layers: expected some of 0-9, 12, 15, .*got 11"):
            use(build())


def test_bad_input_is_refused_and_the_model_unchanged(tmp_path: Path) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    broken = build()
    broken.model[3].conv.weight.data[0, 0, 0, 0] = float("nan")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_text("no image")
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (broken, random_images(), DataError, "finite activations"),
        (model, tmp_path / "empty", DataError, "got no images"),
        (model, [tmp_path / "broken.jpg"], DataError, "none of 1 files"),
        (model, random_images()[0], DataError, r"\(n, 3, h, w\)"),
        (model, random_images() * 300, DataError, "divide by 255"),
        (model, random_images() * float("nan"), DataError, r"float in \[0, 1\], got values from nan"),
        (model, random_images(1, 32), DataError, "at least 8 samples"),
        (nn.Conv2d(3, 3, 3), random_images(), UnsupportedModelError, "got Conv2d"),
        (build().half(), random_images(), UnsupportedModelError, r"float32, got torch.float16; call model.float\(\)"),
        (YOLO("yolov8n-ghost.yaml"), random_images(), UnsupportedModelError, "can be pruned"),
    ]
    for network, images, error, message in cases:
        with warnings.catch_warnings(), pytest.raises(error, match=message):
            warnings.simplefilter("ignore", UserWarning)
            HsicLassoPruner(images=images, positions=4).prune(network)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_where_nothing_is_cut_no_image_is_read_and_no_weight_changes(tmp_path: Path) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    for amount in ({"ratio": 0}, {"target": {"latency": 1}}):
        report = HsicLassoPruner(images=tmp_path / "missing", layers=[8], **amount).prune(model)
        assert report.plan.cuts_nothing and report.recovery is None and not report.scores
    assert prune(model, 0, criterion="taylor", layers=[8]).plan.cuts_nothing
    report = HsicLassoPruner(threshold=0, images=random_images(32), layers=[2], positions=4, block_size=32).prune(model)
    assert report.plan.cuts_nothing and report.recovery is None and report.scores
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "as many parameters, as many multiply-adds" in report.summary()


def test_images_that_say_nothing_are_refused_and_repeated_ones_count_once() -> None:
    model, one = build(), random_images(1, 128)
    before = copy.deepcopy(model.state_dict())
    black, greys = torch.zeros(40, 3, 64, 64), torch.linspace(0, 1, 40)[:, None, None, None].expand(40, 3, 64, 64)
    for images in (black, greys):
        for use in (HsicLassoPruner(images=images).prune, HsicLassoPruner(images=images).score):
            with pytest.raises(DataError, match="of one colour each"):
                use(model)
    with pytest.raises(DataError, match="at least 2 different images"), pytest.warns(UserWarning, match="1 calib"):
        HsicLassoPruner(images=one.repeat(64, 1, 1, 1), layers=[8], positions=16).prune(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.warns(UserWarning, match="1 calib"):
        report = HsicLassoPruner(ratio=0.5, images=one.repeat(64, 1, 1, 1), layers=[8], positions=16).prune(model)
    assert report.recovery is not None and report.recovery.images == 1


def test_channels_that_never_change_go_first_and_are_not_missed() -> None:
    """Dead ones (gamma and beta 0) and constant ones: they score 0, and the re-fit makes good what they added."""
    model = build()
    for k, beta in ((range(0, 8), 0.0), (range(8, 16), 1.0)):
        norm = model.model[7].bn
        norm.weight.data[list(k)], norm.bias.data[list(k)] = 0.0, beta
    report = HsicLassoPruner(ratio=16 / 256, images=random_images(40), layers=[7]).prune(model)
    kept = next(group.keep for group in report.plan.groups if group.name == "model.7")
    assert kept == tuple(range(16, 256)) and not any(report.scores["model.7"][:16])
    assert report.recovery is not None and report.recovery.divergence[1] < 0.02 * report.recovery.divergence[0] + 1e-6
    with torch.no_grad():
        assert all(torch.isfinite(t).all() for t in model.eval()(random_images(1))[0])


def test_few_images_cut_what_their_recovery_carries(monkeypatch: Any) -> None:
    """Said nothing: the largest part of the cut that moves predictions little elsewhere; said how much: it is told."""
    images, tried = random_images(4), []

    def moved(network: Any, plan: Any, images: Any, method: str) -> float:
        tried.append(sum(w.before - w.after for w in plan.widths))
        return 10.0 * tried[-1] / tried[0]

    few = {"images": images, "layers": [8], "positions": 16}
    with monkeypatch.context() as made_up, pytest.warns(UserWarning, match="4 calibration images are few"):
        made_up.setattr("depgraph_hsic_only.pruning.few_images.divergence_elsewhere", moved)
        report = HsicLassoPruner(**few).prune(build())
    lost = sum(w.before - w.after for w in report.plan.widths)
    assert 0 < lost <= 0.1 * tried[0] and lost == max(n for n in tried if n <= 0.1 * tried[0])
    assert report.elsewhere == pytest.approx(10 * lost / tried[0]) and "hardly any object is lost" in report.summary()
    with pytest.warns(UserWarning, match="4 calibration images are few"):
        report = HsicLassoPruner(ratio=0.5, **few).prune(build())
    assert all(w.after == w.before // 2 for w in report.plan.widths)
    assert report.elsewhere is not None and report.recovery is not None
    assert report.elsewhere > report.recovery.divergence[1]


@pytest.mark.slow
def test_nothing_given_the_real_model_still_finds_what_it_found(real_yolo: Any, real_weights: Path) -> None:
    """From the photographs that Ultralytics ships, cut and recovered, on others that it has never seen."""
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    files = sorted((COCO_MINI.parent / "images" / "val").glob("*.jpg"))[::26]
    with pytest.warns(UserWarning, match="2 calibration images are few"):
        report = HsicLassoPruner(imgsz=320).prune(real_yolo)
    assert report.after.parameters < report.before.parameters and report.elsewhere is not None
    found, _ = measure_agreement(
        load_model(real_weights), real_yolo, files, shape=InputShape.of(real_yolo, 320), device="cpu"
    )
    assert found.agreement is not None and found.agreement > 0.7


def test_the_order_beats_random_and_magnitude_on_held_out_images(real_yolo: Any) -> None:
    """Least-squares error of the layers' outputs from the kept channels alone, on images that were not scored on."""
    if not COCO_MINI.exists():
        pytest.skip(f"no images at {COCO_MINI}")
    from depgraph_hsic_only.data.calibration import calibration_images, in_batches

    images = calibration_images(COCO_MINI, real_yolo.model, imgsz=224, limit=96)
    scored, held_out = images[::2], images[1::2]
    layers = [5, 7, 8]
    orders = {
        "hsic_lasso": score_channels(real_yolo, "hsic_lasso", batches=list(in_batches(scored, 8)), layers=layers),
        "magnitude": score_channels(real_yolo, "magnitude", layers=layers),
        "random": score_channels(real_yolo, "random", layers=layers),
    }
    graph = trace_channels(real_yolo.model, layers)
    groups = {"model.5": "model.6.first.conv", "model.7": "model.8.first.conv", "model.8.cv2": "model.9.cv1.conv"}
    readers = [m.name for g in graph.groups for m in g.members if m.role == "input"]
    fit, test = (
        {
            s.convolutions[0]: s
            for s in gather_samples(
                graph.model, list(dict.fromkeys(readers)), list(in_batches(x, 8)), positions=24, seed=1
            )
        }
        for x in (scored, held_out)
    )
    wins = []
    for group, reader in groups.items():
        for share in (0.25, 0.5, 0.75):
            error = {}
            for name, scores in orders.items():
                kept = scores[group].argsort(descending=True, stable=True)[: int(len(scores[group]) * (1 - share))]
                x, y = (t.double() for t in (fit[reader].inputs[:, kept, 0], fit[reader].outputs))
                gram = x.T @ x + 1e-3 * x.square().mean() * len(x) * torch.eye(len(kept))
                w = torch.linalg.solve(gram, x.T @ y)
                left = F.mse_loss(test[reader].inputs[:, kept, 0].double() @ w, test[reader].outputs.double())
                error[name] = float(left / test[reader].outputs.double().var())
            wins.append(error["hsic_lasso"] < min(error["magnitude"], error["random"]))
    assert sum(wins) >= 8, wins


def test_halves_that_fill_blocks_tell_how_stable_the_choice_is() -> None:
    graph, images = trace_channels(build(), [4]), random_images(16)
    few = HsicLasso(positions=8, block_size=128).measure(graph, [{"img": images}])
    assert few.halves is None
    criterion = HsicLasso(
        positions=8, block_size=64, gamma=0.0
    )  # energies, which gamma weighs, are those of all images
    measured = criterion.measure(graph, [{"img": images}])
    assert measured.halves is not None
    alone = criterion.score(graph, [{"img": images[:8]}])
    for name, scores in alone.items():  # the first half of the samples are those of the first half of the images
        torch.testing.assert_close(measured.halves[0][name], scores, rtol=1e-3, atol=1e-3)
    plan = plan_pruning(build(), 0.5, layers=[4], scores=measured.scores)
    found = selection_stability(plan, measured.halves)
    assert found is not None and 0 < found < 1
    assert selection_stability(plan, (measured.scores, measured.scores)) == 1
    assert selection_stability(plan_pruning(build(), 0, layers=[4], scores=measured.scores), measured.halves) is None


def test_the_report_and_the_figures_of_a_pruner(tmp_path: Path) -> None:
    model, pruner = build(), HsicLassoPruner(ratio=0.5, images=random_images(32), layers=[4], block_size=64)
    path = pruner.path(model, "model.4.cv2.conv")
    assert path.kkt_violation < 1e-10 and path.entry.max() > 0
    with pytest.raises(ConfigError, match=r"did you mean 'model.4.cv2.conv'"):
        pruner.path(model, "model.4.cv2")
    report = pruner.prune(model)
    assert report.recovery is not None and report.recovery.divergence[1] < report.recovery.divergence[0]
    assert report.stability is not None and f"{report.stability:.0%}" in str(report) and "least_squares" in str(report)
    kept = {cut.name: len(cut.keep) for cut in report.plan.groups}
    for figure in (plot_scores(report.scores, kept), plot_lasso_path(path, threshold=0.01)):
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 10_000
    panels = [axes for axes in plot_scores(report.scores, kept).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [
        f"{name}: {kept[name]} of {len(scores)}" for name, scores in report.scores.items()
    ]
