"""What a user's train arguments come to on a data set: the batch where AutoBatch is to find it, what is trained on."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.utils.autobatch import check_train_batch_size

from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.data.images import image_files
from depgraph_hsic_only.training.recipe import Start
from depgraph_hsic_only.yolo.device import select_device
from depgraph_hsic_only.yolo.types import Yolo

_PROBE, _IN_MOSAIC = 16, 4  # as in Ultralytics' `DetectionTrainer.auto_batch`: images per batch, images of a mosaic


def settle(
    settings: Mapping[str, Any], common: Mapping[str, Any], model: Yolo, dataset: Dataset
) -> tuple[dict[str, Any], list[str]]:
    """A user's train arguments for a `YOLO` with the batch that AutoBatch finds, and notes on what they mean for a run.

    Args:
        settings: The user's.
        common: Arguments that hold where the user's say nothing: imgsz, batch and device.
    """
    settled, notes, images = dict(settings), [], len(dataset.images("train"))
    if settings.get("batch", 1) < 1:
        settled["batch"] = automatic_batch({**common, **settings}, model, dataset)
        notes.append(f"AutoBatch: batch={settled['batch']} in place of batch={settings['batch']:g}")
    if (used := images_used(settings, dataset)) < images:
        notes.append(f"fraction={settings['fraction']}: trained on {used} of {images} images")
    if settings.get("classes") is not None:
        notes.append(f"classes={settings['classes']}: trained on the objects of these alone; mAPs are of all classes")
    if settings.get("time"):
        notes.append(f"time={settings['time']:g}: trained for that many hours, whatever number of epochs that is")
    return settled, notes


def start_of(
    settings: Mapping[str, Any], batch: int, dataset: Dataset, trained_with: Mapping[str, Any] | None, *, classes: int
) -> Start:
    """Where a training by a user's arguments starts, of a model with so many `classes` that was `trained_with` others.

    The batch is the run's, for arguments that say nothing of it.

    How many epochs a limited time is enough for is not known before: what is right for a single one does no harm.
    """
    return Start(
        images_used(settings, dataset),
        settings.get("batch", batch),
        1 if settings.get("time") else int(settings["epochs"]),
        trained_with=trained_with,
        classes=classes,
        own_batch="batch" in settings,
    )


def images_used(settings: Mapping[str, Any], dataset: Dataset) -> int:
    """How many of the training images Ultralytics takes, by the argument `fraction`."""
    return len(image_files(dataset.keys["train"], settings.get("fraction", 1.0)))


def automatic_batch(settings: Mapping[str, Any], model: Yolo, dataset: Dataset) -> int:
    """The images per batch for a `YOLO` and train arguments that leave it to Ultralytics' AutoBatch.

    It is what Ultralytics itself would find when the training begins, so that all else can go by it: measured on one
    GPU, and on a CPU its default, with a warning.

    Args:
        settings: Among them imgsz, device, and a batch of -1 or a share of the GPU's memory in (0, 1).
    """
    args = get_cfg(overrides={**settings, "task": dataset.task, "cache": False})
    device, network = select_device(args.device), copy.deepcopy(model.model)
    stride = max(int(network.stride.max()), 32)
    keys = dict(dataset.keys)
    images = build_yolo_dataset(args, keys["train"], _PROBE, keys, mode="train", stride=stride)
    found: int = check_train_batch_size(
        network.to(device).requires_grad_(True),
        imgsz=math.ceil(args.imgsz * (1 + args.multi_scale) / stride) * stride,
        amp=torch.bfloat16 if args.amp == "bf16" else args.amp not in (False, "fp32") and device.type != "cpu",
        batch=args.batch,
        max_num_obj=_IN_MOSAIC * max(len(label["cls"]) for label in images.labels),
        dataset_size=len(images),
    )
    return found
