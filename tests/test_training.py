"""Training on from a model that works: what it starts from, what holds still, which epoch comes back."""

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import build
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.dist import generate_ddp_file
from ultralytics.utils.torch_utils import strip_optimizer, unwrap_model

from depgraph_hsic_only import PruningPlan, apply_plan, load_model, plan_pruning, prune
from depgraph_hsic_only.channels.cut import kept_channels
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.data.shapes import shapes_dataset
from depgraph_hsic_only.recovery.refit import head_channels, untouched_layers
from depgraph_hsic_only.training.provenance import provenance, trained_on
from depgraph_hsic_only.training.recipe import Start, continued, taught
from depgraph_hsic_only.training.train import Teacher, make_recipe, train_model
from depgraph_hsic_only.utils.hooks import (
    MASK_MAP,
    Callbacks,
    IdentityProjectors,
    KeepBest,
    keep_statistics,
    read_epochs,
)


class Trainer:
    """What Ultralytics hands a callback, as far as these look at it."""

    def __init__(self, model: Any, folder: Path | None = None) -> None:
        self.model, self.start_epoch = model, 0
        if folder is not None:
            self.save_dir, self.last = folder, folder / "last.pt"


def taught_by(checkpoint: Path, plan: PruningPlan) -> Teacher:
    model = load_model(checkpoint)
    return Teacher(checkpoint, model, kept_channels(model.model, plan))


@pytest.mark.parametrize("layers", ["backbone", "all"])
def test_at_first_a_student_is_compared_with_what_it_was_cut_from(layers: str) -> None:
    original = build(nc=5)
    student = copy.deepcopy(original)
    plan = plan_pruning(student, 0.5, layers=layers)
    apply_plan(student, plan)
    student.args = get_cfg(overrides={"imgsz": 64})
    with torch.no_grad():
        wrapped = DistillationModel(original, student)
        kept = head_channels(original, kept_channels(original, plan))
        IdentityProjectors(kept)(Trainer(wrapped))
        for projector, channels in zip(wrapped.projector, kept, strict=True):
            features = nn.functional.silu(torch.randn(2, projector[0].in_channels, 4, 4))
            wanted = torch.zeros(2, projector[2].out_channels, 4, 4)
            wanted[:, slice(None) if channels is None else list(channels)] = features
            assert torch.allclose(projector(features), wanted, atol=1e-6)
    assert (kept == (None, None, None)) == (layers == "backbone")
    assert untouched_layers(student, original) == ([16, 18, 19, 22] if layers == "backbone" else [])


def test_a_resumed_training_keeps_its_projectors() -> None:
    original = build(nc=5)
    student = copy.deepcopy(original)
    student.args = get_cfg(overrides={"imgsz": 64})
    trainer = Trainer(DistillationModel(original, student))
    trainer.start_epoch = 1
    before = copy.deepcopy(trainer.model.projector.state_dict())
    IdentityProjectors((None, None, None))(trainer)
    assert all(torch.equal(before[name], t) for name, t in trainer.model.projector.state_dict().items())


def test_batchnorm_keeps_its_statistics_and_learns_its_scale() -> None:
    model = build(nc=5).train()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    mean = norm.running_mean.clone()
    keep_statistics(Trainer(model))
    sum(t.sum() for t in model(torch.rand(2, 3, 64, 64))["feats"]).backward()
    assert torch.equal(norm.running_mean, mean) and bool(norm.weight.grad.abs().sum() > 0)


def test_the_epoch_with_the_best_masks_is_kept(tmp_path: Path) -> None:
    """Box mAP, which would have another epoch as the best, has no say; of equal ones the first is kept."""
    trainer, kept = Trainer(None, tmp_path), tmp_path / "kept.pt"
    rows = ["epoch,metrics/mAP50-95(B),val/seg_loss," + MASK_MAP]
    for epoch, (box, mask, expected) in enumerate([(0.5, 0.2, 0), (0.4, 0.3, 1), (0.9, 0.25, 1), (0.9, 0.3, 1)]):
        rows.append(f"{epoch + 1},{box},1.5,{mask}")
        (tmp_path / "results.csv").write_text("\n".join(rows) + "\n")
        trainer.last.write_text(str(epoch))
        KeepBest(kept)(trainer)
        assert kept.read_text() == str(expected)


def test_the_more_was_lost_the_faster_and_the_fewer_the_images_the_smaller_the_batches() -> None:
    rates = [continued(Start(260, 16, 3, kept))["lr0"] for kept in (1.0, 0.75, 0.5, 0.0)]
    assert rates == sorted(rates) and rates[0] == 2e-5 and rates[-1] == 2e-3
    assert [continued(Start(images, 16, 3))["batch"] for images in (100, 260, 1000, 10_000)] == [4, 4, 15, 16]
    assert continued(Start(10_000, 16, 100))["lr0"] == 4e-5
    assert continued(Start(10_000, 16, 100, kept=0.0))["lr0"] == 2e-3
    short, long, broken = (
        taught(start, Path("trained.pt"), [16, 22])
        for start in (Start(260, 16, 3, 0.8), Start(10_000, 16, 10, 0.8), Start(260, 16, 3, 0.1))
    )
    assert short["freeze"] == [16, 22] and "freeze" not in long and "freeze" not in broken
    assert short["distill_model"] == "trained.pt"


def test_what_was_trained_on_this_very_data_goes_on_as_it_was_trained(checkpoint: Path, shapes: Path) -> None:
    model, data = load_model(checkpoint), find_dataset(str(shapes))
    told = {"data": str(shapes), "scale": 0.2, "mosaic": 1.0, "lr0": 0.5, "flipud": 0.5}
    assert trained_on(model, data) is None
    model.ckpt["train_args"] = told
    known = trained_on(model, data)
    assert known is not None and known["nbs"] == 64 and told.items() <= known.items()
    elsewhere = {"data": f"/elsewhere/{shapes.name}"}
    for other in (
        elsewhere,
        {"data": "coco.yaml"},
        {"data": "\0"},
        {"distill_model": "teacher.pt"},
        {"scale": "a"},
        {"lr0": [1]},
        {"batch": "b"},
    ):
        model.ckpt["train_args"] = told | other
        assert trained_on(model, data) is None
    batches = [continued(Start(images, 16, 15, trained_with=known))["batch"] for images in (100, 256, 600, 2000)]
    assert batches == [4, 4, 9, 16]  # a thousand steps
    start = Start(200, 4, 3, kept=0.9, trained_with=known, classes=5)
    recipe = make_recipe(model.model, start, Teacher(checkpoint))
    found = recipe.arguments
    assert found["scale"] == 0.2 and found["flipud"] == 0.5 and found["mosaic"] == 0.0
    assert "distill_model" not in found and "freeze" not in found
    gentle = make_recipe(model.model, replace(start, memorised=0.7), Teacher(checkpoint))
    foreign = make_recipe(model.model, replace(start, trained_with=None), Teacher(checkpoint))
    assert (
        gentle.arguments == foreign.arguments | {"scale": 0.2, "flipud": 0.5} and gentle.callbacks == foreign.callbacks
    )
    taught = make_recipe(model.model, replace(start, memorised=1.5), Teacher(checkpoint)).arguments
    own = {"distill_model": str(checkpoint), "dis": 30.0, "lr0": 2.8e-4}  # the images are known by heart
    assert taught == found | own and own["lr0"] < found["lr0"] == 6.9e-4
    hard = make_recipe(model.model, replace(start, fitted=0.5), Teacher(checkpoint)).arguments  # to fit
    assert hard == found | {"lr0": 2.8e-4}
    learnt = make_recipe(model.model, replace(start, fitted=0.2, memorised=1.2), Teacher(checkpoint)).arguments
    assert learnt == found | {"lr0": 5.6e-4}  # here, as it finds more in these images: twice its own rate
    assert continued(replace(start, kept=1.0))["lr0"] == 5.6e-4
    rates = {  # at most 3e-4; a quarter of what it was for batches a sixteenth
        (80, "AdamW", 4): 3e-4,
        (80, "AdamW", 64): 3e-4,
        (1, "auto", 64): 3e-4,
        (5, "auto", 64): 2.8e-4,
        (80, "SGD", 64): 3e-5,
    }
    for (classes, optimizer, nbs), rate in rates.items():
        with_ = {**known, "optimizer": optimizer, "lr0": 2e-3, "nbs": nbs, "batch": 4}
        assert continued(Start(200, 4, 3, fitted=0.5, trained_with=with_, classes=classes))["lr0"] == rate
    model.ckpt["train_args"] = told
    model.model.names = dict(enumerate(reversed(model.names.values())))
    assert trained_on(model, data) is None


def drawn(folder: Path, seed: int) -> Path:
    """A data set of its own; the names of its file, of its classes and of its images are those of all others."""
    return shapes_dataset(folder, train=16, val=6, imgsz=64, seed=seed)


def test_data_sets_of_the_same_name_and_classes_are_told_apart(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint)
    one, other = (find_dataset(drawn(tmp_path / name / "set", seed)) for name, seed in (("a", 1), ("b", 2)))
    assert Path(one.source or "").name == Path(other.source or "").name and one.names == other.names
    assert [image.name for image in one.images("train")] == [image.name for image in other.images("train")]
    for digest in ({}, provenance(one)):  # a checkpoint of Ultralytics alone, and one of ours
        model.ckpt = {"train_args": {"data": one.source}} | digest
        assert trained_on(model, one) is not None and trained_on(model, other) is None
    model.ckpt["train_args"]["data"] = other.source  # whatever is there by now
    assert trained_on(model, other) is None


def test_a_data_set_is_recognised_wherever_it_is(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    model, data = load_model(checkpoint), drawn(tmp_path / "set", 1)
    told = {"train_args": {"data": str(data)}}
    recorded = told | provenance(find_dataset(data))
    copied = tmp_path / "copy"
    shutil.copytree(data.parent, copied)
    (copied / "data.yaml").unlink()
    keys = yaml.safe_load(data.read_text()) | {"path": str(copied)}
    (copied / "named otherwise.yaml").write_text(yaml.safe_dump(keys))
    copies = [find_dataset(copied / "named otherwise.yaml"), find_dataset(keys)]
    for model.ckpt in (recorded, told):  # by content, and by the images of the file that is named
        assert all(trained_on(model, copy) is not None for copy in copies)
    monkeypatch.chdir(data.parent)
    model.ckpt = {"train_args": {"data": "data.yaml"}}  # as Ultralytics writes it down
    assert trained_on(model, find_dataset("data.yaml")) is not None
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(data.parent)
    for model.ckpt, known in ((recorded, True), (told, False)):
        assert all((trained_on(model, copy) is not None) == known for copy in copies)


def test_a_checkpoint_says_what_it_was_trained_on_until_it_is_trained_elsewhere(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    """What we write down survives Ultralytics' saving and loading, and doesn't its next training."""
    data, file = find_dataset(shapes), tmp_path / "trained.pt"
    arguments = {"epochs": 1, "batch": 8, "imgsz": 64, "workers": 0, "device": "cpu", "plots": False, "val": False}
    ours, scratch = {**arguments, "data": data.write_keys(tmp_path)}, tmp_path / "scratch"
    trained = train_model(load_model(checkpoint), tmp_path / "run", ours, Callbacks(), dataset=data, scratch=scratch)
    trained.model.save(file)
    again = YOLO(file)
    again.save(file)
    entry = provenance(data)
    assert entry.items() <= again.ckpt.items() and set(again.ckpt["train_args"]) == set(DEFAULT_CFG_DICT)
    assert trained_on(load_model(file), data) is not None
    strip_optimizer(file)
    assert entry.items() <= load_model(file).ckpt.items()
    taught = load_model(file)
    taught.ckpt["train_args"]["distill_model"] = str(file)
    for own in (True, False):  # a teacher that knows these images alone, and one that may know more
        taught.ckpt |= provenance(data, teacher_on_data=own)
        assert (trained_on(taught, data) is not None) == own

    other = find_dataset(drawn(tmp_path / "other", 1))
    later = load_model(file)
    assert trained_on(later, other) is None
    later.train(**arguments, data=other.source, project=str(tmp_path), name="later")
    last = load_model(tmp_path / "later" / "weights" / "last.pt")
    assert not entry.keys() & last.ckpt.keys()
    assert trained_on(last, other) is not None and trained_on(last, data) is None


def test_the_average_remembers_the_start(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    """Against an average of our own, in which the start has a share of 0.4 in the end."""
    model, kept = load_model(checkpoint), []
    recipe = make_recipe(model.model, Start(16, 4, 2))
    decay = 0.4 ** (1 / 8)  # four steps an epoch

    def mine(trainer: Any) -> None:
        state = {k: v.clone() for k, v in unwrap_model(trainer.model).state_dict().items() if v.dtype.is_floating_point}
        kept[:] = [state if not kept else {k: decay * kept[0][k] + (1 - decay) * v for k, v in state.items()}]
        theirs = trainer.ema.ema.state_dict()
        assert all(torch.allclose(theirs[k], v, atol=1e-5) for k, v in kept[0].items())

    callbacks = Callbacks().with_others([*recipe.callbacks, ("on_train_start", mine), ("on_train_batch_end", mine)])
    arguments = {**recipe.arguments, "lr0": 1e-2, "data": str(shapes), "epochs": 2, "imgsz": 64, "workers": 0}
    arguments |= {"device": "cpu", "plots": False, "val": False}
    last = train_model(
        model, tmp_path / "run", arguments, callbacks, dataset=find_dataset(shapes), scratch=tmp_path / "scratch"
    ).model
    saved = last.model.state_dict()
    assert all(torch.allclose(saved[k], v, atol=1e-2, rtol=1e-2) for k, v in kept[0].items())  # in half precision


class Handed(Exception):
    """Stops a training when its state has been written."""


def test_with_several_gpus_the_processes_get_the_pruned_model_and_our_hooks(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics pickles model and callbacks for them; the state is written as it writes it, and read elsewhere."""
    pruned = load_model(checkpoint)
    plan = plan_pruning(pruned, 0.5)
    apply_plan(pruned, plan)
    parameters = sum(p.numel() for p in pruned.model.parameters())
    recipe = make_recipe(pruned.model, Start(16, 4, 1, kept=0.8), taught_by(checkpoint, plan))
    files: list[str] = []

    def hand_over(trainer: Any) -> None:
        files.append(generate_ddp_file(trainer))
        raise Handed

    monkeypatch.setattr(SegmentationTrainer, "train", hand_over)  # which starts the processes, given several GPUs
    callbacks = Callbacks().with_others(recipe.callbacks)
    arguments = {**recipe.arguments, "data": str(shapes), "epochs": 1, "imgsz": 64, "workers": 0, "device": "cpu"}
    with pytest.raises(Handed):
        train_model(
            pruned,
            tmp_path / "finetune",
            arguments,
            callbacks,
            dataset=find_dataset(shapes),
            scratch=tmp_path / "scratch",
        )
    script, state = Path(files[0]), Path(files[0]).with_suffix(".pt")
    try:
        read = """
import sys
from ultralytics.utils.patches import torch_load
state = torch_load(sys.argv[1], map_location="cpu")
print(sum(p.numel() for p in state["model"].parameters()), state["args"]["distill_model"])
print(*sorted({f"{event} {getattr(f, '__name__', type(f).__name__)}" for event, fs in state["callbacks"].items()
    for f in fs if type(f).__module__.startswith("depgraph") or f.__module__.startswith("depgraph")}), sep="\\n")
"""
        environment = {**os.environ, "ULTRALYTICS_SAFE_LOAD": "1"}  # as it is set in a training
        command = [sys.executable, "-W", "ignore", "-c", read, str(state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    finally:
        script.unlink()
        state.unlink()
    assert done.returncode == 0, done.stderr
    first, *hooks = done.stdout.splitlines()
    assert first == f"{parameters} {checkpoint}"
    assert {
        "on_pretrain_routine_end IdentityProjectors",
        "on_train_batch_start keep_statistics",
        "on_model_save TakeSnapshot",
        "on_model_save KeepBest",
    } <= set(hooks)


def test_a_resumed_training_takes_up_weights_optimizer_and_random_state(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    """Stopped after its first epoch, a taught training begins the second one in full precision where it was."""
    pruned = load_model(checkpoint)
    plan = plan_pruning(pruned, 0.5)
    apply_plan(pruned, plan)
    recipe = make_recipe(pruned.model, Start(16, 4, 2, kept=0.8), taught_by(checkpoint, plan))
    arguments = {**recipe.arguments, "data": str(shapes), "epochs": 2, "imgsz": 64, "workers": 0, "device": "cpu"}
    arguments |= {"plots": False, "val": False, "mosaic": 0.0}

    seen: list[dict[str, Any]] = []

    def look(trainer: Any) -> None:
        """Take down the state at the start of the second epoch."""
        if trainer.epoch == 1:
            network, average = unwrap_model(trainer.model).student_model, trainer.ema.ema.student_model
            moments = [{k: v.clone() for k, v in state.items()} for state in trainer.optimizer.state.values()]
            weights = [copy.deepcopy(model.state_dict()) for model in (network, average)]
            projector = copy.deepcopy(unwrap_model(trainer.model).projector.state_dict())
            seen.append({"weights": [*weights, projector, *moments], "random": torch.get_rng_state().tolist()})

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise Handed

    def train(*more: Any) -> None:
        callbacks = Callbacks().with_others([*recipe.callbacks, *(("on_train_epoch_start", f) for f in more)])
        train_model(
            pruned, tmp_path / "run", arguments, callbacks, dataset=find_dataset(shapes), scratch=tmp_path / "scratch"
        )

    with pytest.raises(Handed):
        train(look, stop)
    (tmp_path / "run").rename(tmp_path / "gone")  # the snapshot has all that is needed
    train(look)
    cut, resumed = seen
    assert cut["random"] == resumed["random"] and len(cut["weights"]) == len(resumed["weights"]) > 10
    for before, after in zip(cut["weights"], resumed["weights"], strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    epochs = [row["epoch"] for row in read_epochs(tmp_path / "run")]
    assert epochs == [1, 2]


def test_where_nothing_was_cut_nothing_is_frozen(checkpoint: Path) -> None:
    model, cut = load_model(checkpoint), load_model(checkpoint)
    assert untouched_layers(model.model, cut.model) == []
    prune(cut, 0.5, layers=[8])
    assert 4 in untouched_layers(cut.model, model.model) and 8 not in untouched_layers(cut.model, model.model)
