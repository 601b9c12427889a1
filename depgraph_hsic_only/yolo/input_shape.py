"""The images that a network takes: what sides, how many channels, how many at once."""

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.yolo.load import bare_network, own_arguments
from depgraph_hsic_only.yolo.types import Network, Yolo

SMALLEST_SIDE = 32  # pixels


@dataclass(frozen=True)
class InputShape:
    """A batch of images of one size: what an export, its proof, its int8 ranges, latency and pictures are of.

    Attributes:
        height: Pixels.
        width: Pixels.
        channels: Of each image: 3 for colour.
        batch: Number of images.
    """

    height: int
    width: int
    channels: int = 3
    batch: int = 1

    @classmethod
    def of(cls, model: Yolo | Network, imgsz: object = None, batch: int = 1) -> "InputShape":
        """What a `YOLO` or its network takes at `imgsz`: a side of a square or (height, width), pixels.

        None stands for the model's own side. Either is rounded up to the network's stride.

        Raises:
            ConfigError: It is no size of an image.
        """
        network = bare_network(model)
        height, width = _sides(imgsz)
        return cls(input_side(network, height), input_side(network, width), input_channels(network), batch)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.height, self.width

    def scaled(self, network: Network, share: float) -> "InputShape":
        """The same with sides that are a share of these, in which as much fits: rounded up to a network's stride."""
        stride = rounded_up(network, 1)
        height, width = (math.ceil(round(side * share / stride, 6)) * stride for side in self.size)
        return replace(self, height=height, width=width)

    @property
    def dimensions(self) -> tuple[int, int, int, int]:
        """Those of the tensor: batch, channels, height, width."""
        return self.batch, self.channels, self.height, self.width

    def __str__(self) -> str:
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        channels = "" if self.channels == 3 else f" with {self.channels} channel{'s' * (self.channels > 1)}"
        return f"{images} of {self.height}x{self.width} px{channels}"


def is_side(imgsz: object) -> TypeGuard[int]:
    """Whether it is a side of an image, pixels."""
    return isinstance(imgsz, int) and not isinstance(imgsz, bool) and imgsz >= SMALLEST_SIDE


def _sides(imgsz: object) -> tuple[object, object]:
    """Height and width, of a size that is given as a side or as both."""
    if isinstance(imgsz, Sequence) and not isinstance(imgsz, str) and len(imgsz) == 2:
        return imgsz[0], imgsz[1]
    return imgsz, imgsz


def input_channels(network: Network) -> int:
    """Number of channels of the images that a network takes."""
    return int(network.yaml.get("channels", 3))


def own_imgsz(model: Yolo | Network) -> int:
    """Side of the input image that a `YOLO` or its network was trained for, pixels; 640 where it says none."""
    told = own_arguments(model).get("imgsz")
    return told if is_side(told) else 640


def input_side(model: Yolo | Network, imgsz: object = None) -> int:
    """Side of a square input image, pixels: what was asked for, or the model's own where that is None.

    It is rounded up to the network's stride, as Ultralytics does, with a warning.

    Raises:
        ConfigError: It is no side of an image.
    """
    asked = own_imgsz(model) if imgsz is None else imgsz
    if not is_side(asked):
        raise ConfigError(f"imgsz: expected a side in pixels of at least {SMALLEST_SIDE}, got {asked!r}")
    side = rounded_up(bare_network(model), asked)
    if side != asked:
        say_rounded(f"imgsz={asked}", f"{side} is used", rounded_up(bare_network(model), 1))
    return side


@functools.cache  # every stage asks: once is enough
def say_rounded(given: str, used: str, stride: int) -> None:
    """Warn, once in a process, that a size is no multiple of a network's stride, and what is used in its place."""
    warnings.warn(
        f"{given} is no multiple of the network's stride of {stride} pixels: {used}", UserWarning, stacklevel=3
    )


def rounded_up(network: Network, side: int) -> int:
    """A side of an image, pixels, rounded up to a multiple of the stride of the coarsest scale of a network."""
    return multiple_of(int(network.stride.max()), side)


def multiple_of(stride: int, side: int) -> int:
    """A side of an image, pixels, rounded up to a multiple of a stride."""
    return math.ceil(side / stride) * stride
