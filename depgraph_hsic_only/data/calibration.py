"""Calibration images: what an in-memory criterion measures on when there is no workflow around it."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import ASSETS

from depgraph_hsic_only.data.dataset import training_images
from depgraph_hsic_only.data.images import Images, load_images, padded
from depgraph_hsic_only.errors import DataError, UnsupportedModelError
from depgraph_hsic_only.yolo.input_shape import input_channels, input_side, rounded_up, say_rounded
from depgraph_hsic_only.yolo.load import own_arguments
from depgraph_hsic_only.yolo.types import Network

FEW = 32  # images, below which scores and re-fits have little to do with other images


def calibration_images(images: Images | None, network: Network, *, imgsz: int | None, limit: int) -> torch.Tensor:
    """The images to measure on, (n, c, h, w), RGB, float in [0, 1]: at most `limit`, evenly spaced over what there is.

    They are those of a folder, a list of files, a tensor, or the path of a data set's YAML, whose training images are
    taken. None stands for the data set that the checkpoint was trained on, where it is on this machine, else for the
    photographs that Ultralytics ships; as `imgsz`, for the network's own. A tensor whose sides are no multiples of the
    network's stride is padded. Of images that are the same, one is taken.

    Raises:
        DataError: There are no readable images, each is of one colour, or a tensor has another shape or range.
    """
    size = input_side(network, imgsz)
    source = images
    if isinstance(source, (str, Path)) and Path(source).suffix in {".yaml", ".yml"}:
        source = training_images(source)
    elif source is None:
        source = sorted(Path(ASSETS).glob("*.jpg"))
        if own := own_arguments(network).get("data"):
            with suppress(DataError):  # not on this machine is the common case: a COCO checkpoint names coco.yaml
                source = training_images(str(own))
    found = _distinct(load_images(source, size, limit=limit, channels=input_channels(network)))
    if bool((found == found[:, :, :1, :1]).all()):
        raise DataError(f"expected images that show something, got {len(found)} of one colour each; pass others")
    found = fitting(found, network)
    if len(found) < FEW:
        warnings.warn(
            f"{len(found)} calibration images are few: scores settle from about 64; pass images=",
            UserWarning,
            stacklevel=4,
        )
    return found


def fitting(images: torch.Tensor, network: Network) -> torch.Tensor:
    """Images (n, c, h, w), float in [0, 1] or uint8, whose sides are padded to multiples of the network's stride.

    Raises:
        DataError: They have another shape, or another number of channels than the network takes.
        UnsupportedModelError: The network computes in another precision than float32.
    """
    if other := {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}:
        got = ", ".join(sorted(str(dtype) for dtype in other))
        raise UnsupportedModelError(f"expected weights in float32, got {got}; call model.float() before")
    channels = input_channels(network)
    if images.ndim != 4 or images.shape[1] != channels or min(images.shape) < 1:
        raise DataError(f"expected images (n, {channels}, h, w), got {tuple(images.shape)}; pass what the model takes")
    height, width = images.shape[2:]
    size = rounded_up(network, height), rounded_up(network, width)
    if size != (height, width):
        say_rounded(f"{height}x{width} px", f"images are padded to {size[0]}x{size[1]}", rounded_up(network, 1))
    return padded(images, size)


def fitting_batches(
    batches: Iterable[Mapping[str, Any]], network: Network, *, labelled: bool
) -> Iterator[Mapping[str, Any]]:
    """Batches whose images are `fitting`; with labels, which padding would move, a `DataError` where they are not."""
    for batch in batches:
        images = fitting(batch["img"], network)
        if labelled and images.shape != batch["img"].shape:
            sides, stride = "x".join(map(str, batch["img"].shape[2:])), rounded_up(network, 1)
            raise DataError(f"expected labelled images of multiples of {stride} pixels, got {sides}; resize them")
        yield {**batch, "img": images}


def _distinct(images: torch.Tensor) -> torch.Tensor:
    """The images without those that repeat an earlier one."""
    first: dict[bytes, int] = {}
    for k, image in enumerate(images):
        first.setdefault(hashlib.sha256(image.cpu().contiguous().numpy()).digest(), k)
    return images if len(first) == len(images) else images[list(first.values())]


def in_batches(images: torch.Tensor, size: int) -> Iterator[dict[str, torch.Tensor]]:
    """The images as batches that criteria take."""
    for batch in torch.split(images, size):
        yield {"img": batch}
