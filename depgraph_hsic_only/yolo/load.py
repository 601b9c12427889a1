"""Checkpoints are pickles from the internet: load them by Ultralytics' safe load, with clear errors."""

import copy
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.engine.model import Model
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.modules import SPPF
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils.callbacks.base import get_default_callbacks
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from depgraph_hsic_only.errors import CheckpointError, ConfigError, UnsupportedModelError, one_line
from depgraph_hsic_only.yolo.architecture import check_architecture, skeleton
from depgraph_hsic_only.yolo.patches import ensure_nms, safe_load
from depgraph_hsic_only.yolo.tasks import TASKS
from depgraph_hsic_only.yolo.types import Network, Yolo


def load_model(path: str | Path, *, task: str | None = None, trust: bool = False) -> Yolo:
    """Load a YOLO checkpoint, or build a model from a YOLO's YAML, as an Ultralytics `YOLO`.

    No code in the file is run, unless it is trusted: only tensors and the classes of torch and Ultralytics are
    restored. A known name such as "yolov8n-seg.pt" that is not on this machine is downloaded by Ultralytics.

    Args:
        path: A `.pt` checkpoint with an unfused YOLO model, or a `.yaml` of one.
        task: The task the model must be made for, such as "segment" (see `tasks.TASKS`); None for any.
        trust: Run whatever code is in the file, with a warning: for files that were not made by Ultralytics alone and
            that nobody else could have changed. Of such a file the network is taken and nothing else.

    Raises:
        CheckpointError: The file is missing, can't be read, is no checkpoint, or holds weights that are not finite.
        UnsupportedModelError: It holds another kind of model; the message says which.
    """
    if not isinstance(path, (str, Path)):
        raise CheckpointError(f"expected the path of a YOLO checkpoint, got {type(path).__name__}; pass its .pt file")
    path = Path(path).expanduser()
    expected = f"{path}: expected a YOLO {TASKS[task].noun + ' ' if task else ''}checkpoint"
    downloadable = str(path) in GITHUB_ASSETS_NAMES
    from_yaml = path.suffix in {".yaml", ".yml"}
    if path.is_dir():
        raise CheckpointError(f"{expected}, got a folder; pass the .pt file in it")
    if not path.exists() and not downloadable and not from_yaml:
        raise CheckpointError(f"{expected}, but there is no such file; check the path, or pass yolov8n-seg.pt")
    if path.suffix not in {".pt", ".yaml", ".yml"}:
        raise CheckpointError(f"{expected}, got a file that does not end in .pt; pass the .pt file from training")
    ensure_nms()
    if trust:
        warnings.warn(f"{path}: it is trusted, so whatever code is in it may run", UserWarning, stacklevel=2)
    try:
        if from_yaml:
            skeleton(yaml_model_load(path))  # one without end must not be begun
        with safe_load(not trust):
            yolo: Any = YOLO(str(path))
    except Exception as error:  # a damaged pickle raises anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        if downloadable and not path.exists():
            raise CheckpointError(
                f"{expected}, which is not on this machine and could not be downloaded ({reason}); pass "
                "the path of a checkpoint that you have"
            ) from error
        raise CheckpointError(f"{expected}, but it could not be loaded ({reason}); pass another file") from error
    if task is not None and yolo.task != task:
        raise UnsupportedModelError(f"{expected}, got a model for the task '{yolo.task}'; pass one made to {task}")
    if isinstance(yolo.model, DistillationModel):
        _take_student(yolo)
    _say_unactivated(yolo.model)
    try:
        check_architecture(yolo.model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path}: {error}") from error
    broken = [name for name, tensor in yolo.model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"{expected} with finite weights, got NaN or infinity in {broken[0]}; pass a checkpoint from before the "
            "training went wrong"
        )
    if trust and yolo.ckpt:
        yolo.ckpt = {"epoch": -1, "model": yolo.model, "train_args": dict(yolo.model.args)}  # the rest can't be saved
    loaded: Yolo = yolo
    return loaded


def _take_student(yolo: Any) -> None:
    """Of a training with a teacher that was cut off, the model that was taught: no teacher is in such a file."""
    student, taught = yolo.model.student_model, yolo.model
    student.args, student.task, student.names = taught.args, yolo.task, taught.names
    student.pt_path = getattr(taught, "pt_path", None)
    taught._remove_feature_hooks()  # which hold activations, and keep a network from being copied
    yolo.model = student
    yolo.ckpt = {**yolo.ckpt, "epoch": -1, "optimizer": None, "ema": None, "model": student}


def _say_unactivated(network: Any) -> None:
    """Write into a network's YAML that its SPPF has no activation, as Ultralytics 8.4.0 to 8.4.140 built it.

    Later versions take a row of no more than two arguments for one with, and would train that.
    """
    for i, layer in enumerate(getattr(network, "model", ())):
        if type(layer) is SPPF and isinstance(layer.cv1.act, nn.Identity):
            with suppress(Exception):  # a YAML that is none of this model is refused later
                row = [*network.yaml["backbone"], *network.yaml["head"]][i]
                row[3] += (5, 3, False)[len(row[3]) - 1 :]


def network_of(model: Yolo | Network) -> Network:
    """The network of a `YOLO`, or `model` itself where it is one, checked (see `architecture.check_architecture`).

    Raises:
        ConfigError: The call is within `torch.inference_mode()`, whose tensors can be neither traced nor trained.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError("expected a call outside torch.inference_mode(), which is on; use torch.no_grad() there")
    ensure_nms()  # so that a pruned YOLO predicts wherever it could be pruned
    network = bare_network(model)
    check_architecture(network)
    return network


def bare_network(model: Yolo | Network) -> Network:
    """The network of a `YOLO`, or `model` itself where it is none, without a check."""
    return cast(Network, cast(Any, model).model if isinstance(model, Model) else model)


def as_loaded(yolo: Yolo) -> Yolo:
    """A copy of a `YOLO` as loading the file that it saves gives, without the file: with half precision's weights."""
    live: Any = yolo
    left_out = (live.predictor, live.trainer, live.ckpt, live.metrics)  # what a file doesn't hold, or holds twice
    copied = copy.deepcopy(live, {id(part): "" for part in left_out if part is not None})
    copied.predictor = copied.trainer = copied.ckpt = copied.metrics = None
    copied.model = copied.model.half().float().eval()
    copied.callbacks = get_default_callbacks()
    told = ("model", "imgsz", "data", "task", "single_cls")  # of the arguments, what Ultralytics keeps in a load
    copied.overrides = {key: copied.overrides[key] for key in told if key in copied.overrides}
    loaded: Yolo = copied
    return loaded


def install(model: Yolo | Network, pruned: Network) -> None:
    """Give a live model the layers that its network was cut to: the object in hand is as good as a file then."""
    network = bare_network(model)
    network.model, network.yaml = pruned.model, pruned.yaml
    network.__dict__.pop("criterion", None)  # a cached loss belongs to the old head
    forget_predictor(model)
    if isinstance(model, Model):
        # train() continues from the live network only where ckpt is truthy; the epoch and optimizer of an interrupted
        # training, and the file that resume would read, belong to the old one.
        model.ckpt = {**(model.ckpt or {}), "epoch": -1, "optimizer": None, "ema": None, "model": network}
        model.ckpt_path = None


def forget_predictor(model: Yolo | Network) -> None:
    """Drop the fused copy of the network that a `YOLO` predicts with: its weights have changed."""
    if isinstance(model, Model):
        model.predictor = None


def set_imgsz(model: Yolo, side: int) -> None:
    """Let a `YOLO` be one for images of a side, pixels, at which it predicts, validates, trains and exports."""
    live: Any = model
    network = bare_network(model)
    network.args = {**own_arguments(network), "imgsz": side}
    live.overrides = {**live.overrides, "imgsz": side}
    if live.ckpt:
        live.ckpt = {**live.ckpt, "train_args": {**live.ckpt.get("train_args", {}), "imgsz": side}}


def own_arguments(model: Yolo | Network) -> dict[str, Any]:
    """The arguments that a `YOLO` or its network was trained with, as far as it says."""
    args = getattr(bare_network(model), "args", None) or {}
    return dict(args if isinstance(args, dict) else vars(args))


def with_loss_arguments(network: Network) -> Network:
    """The network, whose training loss, whatever its task, reads its weights as attributes of `args`."""
    known = own_arguments(network)
    keys = ("box", "cls", "dfl", "overlap_mask", "pose", "kobj", "rle", "angle")
    network.args = get_cfg(overrides={key: known[key] for key in keys if key in known})
    return network
