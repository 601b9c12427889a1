"""A comparison from beginning to end; interrupted, the same call goes on where it was."""

import itertools
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from depgraph_hsic_only.axes.candidates import WIDTH
from depgraph_hsic_only.channels.budgets import Budget, read_budgets
from depgraph_hsic_only.comparison.backends import Backend, in_turn, open_backend
from depgraph_hsic_only.comparison.options import CRITERIA, MAX_MAP_DROP
from depgraph_hsic_only.comparison.parts import Part, Scan, Scores, WidthChoice
from depgraph_hsic_only.comparison.recommendation import FIELDS, recommend
from depgraph_hsic_only.comparison.result import Comparison
from depgraph_hsic_only.comparison.results import Control, Cut, InFile, Made, Result
from depgraph_hsic_only.comparison.study import REFERENCE, Study, make_study
from depgraph_hsic_only.comparison.table import Row
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.deployed.deployment import Deployment, Timed
from depgraph_hsic_only.evaluation.deployed.formats import ONNX
from depgraph_hsic_only.evaluation.latency import measure_latency, onnx_run
from depgraph_hsic_only.report.stages import TRAINED
from depgraph_hsic_only.support.machine import watched
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.workflow.config import DEFAULTS as SETTINGS
from depgraph_hsic_only.workflow.default import DefaultYoloPruner
from depgraph_hsic_only.workflow.fit import take_classes
from depgraph_hsic_only.workflow.run_folder import RunFolder
from depgraph_hsic_only.yolo.device import on_device, select_device
from depgraph_hsic_only.yolo.logs import run_display
from depgraph_hsic_only.yolo.types import Network

_STUDY = "study.json"


def compare(
    pretrained: str | Path | None = None,
    data: Any = None,
    *,
    criteria: str | Iterable[str] = CRITERIA,
    targets: object = None,
    ratios: object = None,
    seeds: int = 1,
    imgsz: object = None,
    precision: object = None,
    axes: object = WIDTH,
    budget: object = None,
    max_map_drop: float = MAX_MAP_DROP,
    backend: str = "serial",
    address: str | None = None,
    task_cpus: float = 1,
    task_gpus: float | None = None,
    cfg: str | Path | None = None,
    **settings: Any,
) -> Comparison:
    """Cut the same trained model by several criteria to several sizes, measure all of them, and say what to take.

    At one target and seed all criteria cut the same widths, see the same calibration images, and are recovered,
    fine-tuned and validated alike: only the channels differ. A ratio's widths are uniform; a target's are chosen by the
    damage of each width with the channels of `reconstruction`, measured once for each seed. A seed draws calibration
    images, sampled positions, mosaics and random scores, and is that of the fine-tuning. The control is the unpruned
    model, with fine-tuning (`fine_tune.epochs`) trained on by the same rules (see `recipe.py`), for each seed.

    With several sizes of images the same widths and channels, planned at the first, are recovered, fine-tuned,
    validated and timed at each, and so is the unpruned model. With several precisions each of these models is written
    to a file of each, and it is the files that are validated, all on square images, and timed.

    Every finished part is a file in the comparison's folder, `project`/`name`: called again, it goes on where it was,
    and criteria, targets, ratios, seeds, further sizes and precisions can be added. What failed is tried again.

    Args:
        pretrained: Path or known name of the checkpoint; None for what the configuration says.
        data: The data set; None for what the configuration says.
        criteria: Names of criteria, as a list or as text with commas.
        targets: Such as "params=0.9,0.8,gmacs=3G", or {"params": [0.9, 0.8]}: shares of the unpruned model, or amounts
            (see `channels.budgets`); a + joins what has to hold at once, as in "latency=12ms+params=2M". With several
            sizes or precisions there need be neither targets nor ratios.
        ratios: Such as "0.25,0.5", or [0.25, 0.5]: shares of the channels to cut from each width.
        seeds: How many, from the configuration's `seed` on.
        imgsz: Side of the images, pixels, as 640, "640,512" or a list; None for what the configuration says. Of several
            the first is that of the control, the scores, the widths and all shares.
        precision: Of the files, such as "float,int8" or a list (see `deployment.PRECISIONS`); float is always compared.
        axes: What targets are met by: "width", "depth" (repeats of blocks) or both, as "width,depth" or a list.
        budget: What a model may cost, such as "latency=0.5" or "gmacs=0.5,params=2M": the most accurate one is
            recommended. Shares are of the control.
        max_map_drop: Largest loss of the mAP50-95 that counts most, that of masks, poses or boxes by the model's task,
            that a recommended size may have, in [0, 1].
        backend: "serial", or "ray" (see `backends.open_backend` for this and the next three).
        address: Of a Ray cluster.
        task_cpus: Cores of a part on Ray.
        task_gpus: GPUs of a part on Ray.
        cfg: A YAML file of settings, under `settings`; what the arguments above say is not read from it, and no epochs.
        settings: Any other setting of `default.yaml`, nested or dotted: `**{"fine_tune.epochs": 5}`. Without epochs
            there is no fine-tuning, and no training before.

    Returns:
        What was found. Parts that failed are named in its `failures`; the others are there all the same.

    Raises:
        PruningError: A setting, the checkpoint or the data set can't be used, or the folder holds a comparison of other
            settings.
    """
    if isinstance(max_map_drop, bool) or not isinstance(max_map_drop, (int, float)) or not 0 <= max_map_drop <= 1:
        raise ConfigError(f"max_map_drop: expected a number in [0, 1], got {max_map_drop!r}")
    given = {key: value for key, value in {"pretrained": pretrained, "data": data}.items() if value is not None}
    budgets = _budgets(budget)
    over = {"imgsz": imgsz, "precision": precision, "axes": axes}
    study = make_study(criteria, targets, ratios, seeds, cfg, {**settings, **given}, **over)
    study, pruner, model, identity, notes = _checked(study)
    timed = study.config.deployment(model).on(select_device(study.config.device))
    validation = pruner.validation_of(model)
    resources = {"task_cpus": task_cpus, "task_gpus": task_gpus, "device": study.config.device}
    with open_backend(backend, address=address, **resources) as do:  # nothing has been written yet
        folder = RunFolder.create(study.folder.parent, study.folder.name, exist_ok=True)
        with folder.locked(), run_display(0, folder.path / "run.log", verbose=study.config.verbose):
            try:
                folder.write_json(_STUDY, identity)
                for note in notes:
                    say(note)
                if not study.trained.is_file():
                    folder.save_model(TRAINED.weights, pruner.train(model))  # as it is, where there are no epochs
                    if study.config.train["epochs"]:
                        pruner.folder.clear_scratch()
                failures = _done(study, do)
                rows = _rows(study, timed)
            except KeyboardInterrupt:
                say(f"interrupted; the same command goes on where {folder.path} is")
                raise
    args = {**study.config.to_dict(), "criteria": list(study.criteria), "seeds": list(study.seeds)}
    args |= {"amounts": [str(amount) for amount in study.amounts], "max_map_drop": max_map_drop}
    args |= {"sides": list(study.sides), "precisions": list(study.precisions), "axes": list(study.axes)}
    args |= {"timed": str(timed)}
    advice = recommend(rows, max_map_drop, study.sides[0], budgets)
    found = Comparison(study.folder, args, rows, advice, validation, failures)
    folder.write_json("comparison.json", found.to_dict())
    if rows:
        folder.write_csv("comparison.csv", [row.csv_row() for row in rows])
        found.plot().savefig(folder.plots / "pareto.png", dpi=150)
    return found


def _budgets(budget: object) -> tuple[Budget, ...]:
    """What a model may cost, of what is measured of each."""
    found = () if budget is None else read_budgets(budget, "budget")
    if other := [one.metric for one in found if one.metric not in FIELDS]:
        raise ConfigError(f"budget: expected some of {', '.join(FIELDS)}, got {other[0]}, which is not compared")
    return found


def _checked(study: Study) -> tuple[Study, DefaultYoloPruner, Any, dict[str, Any], list[str]]:
    """The study for its model, the pruner that trains before everything, the loaded `YOLO`, its identity, and notes.

    Where not all is good, or where the folder holds a comparison of other settings, a `PruningError` says so.
    """
    config = study.config
    whole = {**config.to_dict(), "project": str(study.folder), "name": "training", "exist_ok": True}
    pruner = DefaultYoloPruner(cfg=None, **whole)
    model = pruner.load()
    notes = take_classes(model, pruner.dataset, config)
    study, network = study.settled(model), on_device(model.model, config.device)
    if config.latency != SETTINGS["latency"]:
        config.deployment(model).try_out(network)
    for precision in study.precisions if len(study.precisions) > 1 else ():
        _check_file(study.config_of(model, study.sides[0], precision).deployment(model), network)
    if not model.ckpt and not config.train["epochs"]:
        raise ConfigError(
            f"train.epochs: expected at least 1 for a model that is built from its YAML ({config.pretrained}), got 0"
        )
    for amount in study.amounts:
        study.planner(REFERENCE, study.seeds[0], model, amount).check(network)
    images = min(config.calibration["images"], len(pruner.dataset.images("train")))
    for criterion in study.criteria if study.amounts else ():
        planner = study.planner(criterion, study.seeds[0], model, study.amounts[0])
        planner.check_images(network, images)
    identity, path = study.identity(model, pruner.dataset), study.folder / _STUDY
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else identity
    other = [key for key in {**before, **identity} if before.get(key) != identity.get(key)]
    if other:
        shown = {key: [_short(found.get(key)) for found in (before, identity)] for key in other}
        differences = "; ".join(f"{key}: {there} there, {now} now" for key, (there, now) in shown.items())
        raise ConfigError(
            f"{study.folder}: expected the comparison of the same settings that it holds, but {differences}; pass "
            "another --name, or the settings that it was made with"
        )
    return study, pruner, model, identity, notes


def _check_file(deployment: Deployment, network: Network) -> None:
    """Refuse a precision in which a network can't be written, timed or validated here."""
    kind = deployment.kind(next(network.parameters()).device)
    if kind not in (None, ONNX):
        raise ConfigError(
            f"precision: expected float, since the mAP of a file in {kind} is not measured here, got "
            f"{deployment.precision}; leave it out, or time ONNX files"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = deployment.write(network, Path(folder))
        onnx_run(file)()  # as it is validated
        deployment.try_out(network, file)


def _short(value: object) -> str:
    """A value for people; of a digest its beginning."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:12]}…'"


def _done(study: Study, do: Backend) -> dict[str, str]:
    """Do all parts that are not done, each kind after those that it needs."""
    by_target = any(amount.is_target for amount in study.amounts)
    scored = dict.fromkeys([*([REFERENCE] if by_target else []), *study.criteria]) if study.amounts else ()
    stages: list[Sequence[Part]] = [
        [Scores(study, seed, criterion) for seed in study.seeds for criterion in scored],
        [Scan(study, seed) for seed in study.seeds] if by_target else [],
        [WidthChoice(study, seed, amount) for seed in study.seeds for amount in study.amounts],
        _made(study),
        [part for part in _results(study) if isinstance(part, InFile)],
    ]
    failures: dict[str, str] = {}
    for parts in stages:
        left = [part for part in parts if not part.file.is_file()]
        failures |= in_turn([part for part in left if part.local]) | do([part for part in left if not part.local])
    return failures


def _made(study: Study) -> list[Made]:
    """The parts that are checkpoints, the control first."""
    controls = itertools.product(study.sides, study.seeds if study.epochs else study.seeds[:1])
    cells = itertools.product(study.amounts, study.criteria, study.sides, study.seeds)
    return [
        *(Control(study, seed, imgsz) for imgsz, seed in controls),
        *(Cut(study, seed, imgsz, criterion, amount) for amount, criterion, imgsz, seed in cells),
    ]


def _results(study: Study) -> list[Result]:
    """The parts that are rows: each checkpoint, or of several precisions its files, which are measured alike."""
    made = _made(study)
    if len(study.precisions) == 1:
        return list(made)
    return [InFile(study, one.seed, one.imgsz, one, name) for one in made for name in study.precisions]


def _rows(study: Study, timed: Timed) -> tuple[Row, ...]:
    """The rows of all parts that are done, with their latencies."""
    done = [(part, part.computation) for part in _results(study) if part.file.is_file()]
    latencies = _latencies(study, {key: part for part, key in reversed(done)}, timed)
    return tuple(replace(part.row(), latency_ms=latencies[key]) for part, key in done)


def _latencies(study: Study, parts: Mapping[str, Result], timed: Timed) -> dict[str, float]:
    """Median latency by computation, as the settings say, all in turns; once for the same set of them.

    Models of the same widths, side and precision are the same computation with other numbers: one stands for all.
    """
    path = study.folder / "latency.json"
    if path.is_file():
        found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        if set(found) == set(parts):
            return found
    say(f"latency of {len(parts)} models that differ in it")
    with tempfile.TemporaryDirectory() as scratch:
        runs = {key: part.prepare(Path(scratch) / key) for key, part in parts.items()}
        with watched() as machine:
            threads = study.config.latency["threads"]
            medians = {key: latency.median for key, latency in measure_latency(runs, threads).items()}
    if (warning := timed.watched(machine).warning) is not None:
        say(warning)
    RunFolder(study.folder).write_json(path.name, medians)
    return medians
