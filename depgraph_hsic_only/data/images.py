"""Images for measuring on: read, letterboxed as Ultralytics' validation does, in RGB and [0, 1]."""

import logging
import math
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from ultralytics.data.augment import LetterBox
from ultralytics.data.base import BaseDataset
from ultralytics.data.utils import IMG_FORMATS, exif_size, get_split_fraction
from ultralytics.utils import LOGGER
from ultralytics.utils.patches import imread

from depgraph_hsic_only.errors import DataError, one_line
from depgraph_hsic_only.yolo.input_shape import multiple_of
from depgraph_hsic_only.yolo.patches import nothing_installed

Images = str | Path | Sequence[str | Path] | torch.Tensor
"""A folder, an image file, a list of image files, or a tensor (n, 3, h, w) in RGB and [0, 1]."""
Picture = NDArray[np.uint8]  # (h, w, c), of three channels blue, green and red
_BORDER = 114  # grey of letterboxes
_FORMATS, _SMALLEST = IMG_FORMATS | {"jpeg2000"}, 10  # and sides in pixels, that Ultralytics' data sets take
_END_OF_JPEG = b"\xff\xd9"


def load_images(
    images: Images, imgsz: int | tuple[int, int], *, limit: int | None = None, channels: int = 3
) -> torch.Tensor:
    """The images as one tensor (n, c, h, w), RGB, float32 in [0, 1], padded with grey as in validation.

    A tensor is taken as it is, in float32. Files that are no images are passed over with a warning, as by Ultralytics.

    Args:
        images: A folder (searched recursively, in sorted order), an image file, a list of files, or a tensor.
        imgsz: Side of a square, or height and width, pixels.
        limit: At most this many images, evenly spaced over what there is; None for all.
        channels: That each image has: of a colour image's file 1 gives its grey, and 3 leaves out what is beside the
            colours; other numbers are those of TIFF files.

    Raises:
        DataError: There are no readable images, the images have another shape or range, or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit: expected at least 1 image, got {limit}; pass None for all")
    if isinstance(images, torch.Tensor):
        return _checked(images.detach(), channels)[spread(len(images), limit)]
    files, size = list_images(images), imgsz if isinstance(imgsz, tuple) else (imgsz, imgsz)
    tensors = [t for t in (_read(files[k], size, channels) for k in spread(len(files), limit)) if t is not None]
    if not tensors:
        raise DataError(f"expected images, but none of {len(files)} files could be read (first {files[0]}); check them")
    return torch.stack(tensors)


def list_images(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Image files of a folder (see `image_files`), or the given ones; a `DataError` where there are none."""
    if isinstance(images, (str, Path)):
        return image_files(images) if Path(images).is_dir() else _files([images])
    if not isinstance(images, Sequence) or not all(isinstance(image, (str, Path)) for image in images):
        raise DataError(
            "expected a folder of images, a list of files or a tensor (n, c, h, w) in [0, 1], got "
            f"{type(images).__name__}; pass one of these"
        )
    return _files(images)


def image_files(paths: str | Path | Sequence[str | Path], fraction: Any = 1.0) -> list[Path]:
    """The images that Ultralytics finds, in its order: in folders, links in them followed, and in text files' lines.

    Hidden files, such as macOS's `._1.jpg`, are none. Text files give a path a line; those that begin with "./" start
    from the text file's folder. No image is checked.

    Args:
        paths: A folder, a text file, or a list of them.
        fraction: Ultralytics' train argument: share or number of the training images.

    Raises:
        DataError: A path is missing or is no folder or text file, or there are no images.
    """
    given = [str(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    listing = SimpleNamespace(prefix="", fraction=get_split_fraction(fraction, "train"))
    try:
        with _quiet():
            return [Path(file) for file in BaseDataset.get_img_files(listing, given)]
    except FileNotFoundError as error:
        raise DataError(
            f"{', '.join(given)}: expected a folder of images, or a text file with a path in each line, got no images "
            f"({one_line(error.__cause__ or error, 120)}); pass such a folder or file"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Ultralytics says nothing in this thread of how fast it has read some images, and its choice of them is undone."""
    here, state = threading.get_ident(), random.getstate()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    LOGGER.addFilter(elsewhere)
    try:
        yield
    finally:
        LOGGER.removeFilter(elsewhere)
        random.setstate(state)


def _files(paths: Sequence[str | Path]) -> list[Path]:
    files = [Path(path) for path in paths]
    missing = [path for path in files if not path.is_file()]
    if missing or not files:
        got = f"{missing[0]}, which is no file" if missing else "none in the given list"
        raise DataError(f"expected image files, got {got}; pass a folder of images, a list of files or a tensor")
    return files


def read_image(path: Path, channels: int = 3) -> Picture | None:
    """An image file with so many channels, as Ultralytics reads it; None where it can't be read.

    Raises:
        DataError: It has another number of channels.
    """
    flags = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    image: Any = imread(str(path), flags)
    if image is not None and image.shape[2] != channels:
        raise DataError(
            f"{path}: expected an image with {channels} channels, as the data set or the model says, got "
            f"{image.shape[2]}; save it as a TIFF with {channels} pages or bands"
        )
    return cast("Picture | None", image)


def smallest_frame(files: Sequence[Path], side: int, stride: int) -> tuple[int, int]:
    """Height and width, multiples of a stride, that hold every image as large as a square of a `side` in pixels does.

    A letterbox in them is the one in the square but for what is grey in all of them. Only the sizes of the images are
    read. Files that are none don't count; where all are, it is the square.
    """
    scaled = []
    with nothing_installed(), _quiet():  # of a damaged file Ultralytics thinks that a decoder is missing
        for file in files:
            with suppress(Exception), Image.open(file) as image:  # which raises anything
                size = exif_size(image)
                scaled.append([math.ceil(side * length / max(size)) for length in size])
    width, height = (multiple_of(stride, max(lengths)) for lengths in zip(*(scaled or [[side, side]]), strict=True))
    return height, width


def padded(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Images (n, c, h, w), float in [0, 1] or uint8, in the middle of a frame of a letterbox's grey.

    The height and width of the frame are at least theirs.
    """
    height, width = (new - old for new, old in zip(size, images.shape[2:], strict=True))
    around = (width // 2, width - width // 2, height // 2, height - height // 2)
    grey = _BORDER if images.dtype == torch.uint8 else _BORDER / 255
    return F.pad(images, around, value=grey) if height or width else images


def is_taken(path: Path) -> bool:
    """Whether Ultralytics takes a file into a data set: an image of a format and size that it knows, not damaged.

    By its own rules, but for rewriting a JPEG in which something follows the end: most of a file isn't read.
    """
    try:
        with nothing_installed(), _quiet(), Image.open(path) as image:
            image.verify()
            kind, size = (image.format or "").lower(), exif_size(image)
        if kind in ("jpg", "jpeg"):
            with path.open("rb") as file:
                file.seek(-len(_END_OF_JPEG), os.SEEK_END)
                ended = file.read() == _END_OF_JPEG
            if not ended:
                with Image.open(path) as image:
                    image.load()  # which raises where something is missing
    except Exception:  # a damaged file raises anything
        return False
    return kind in _FORMATS and min(size) >= _SMALLEST


def is_readable(path: Path) -> bool:
    """Whether a file is an image that Ultralytics takes into a data set, and can decode."""
    return is_taken(path) and imread(str(path)) is not None


def spread(n: int, limit: int | None) -> list[int]:
    """Indices of at most `limit` of `n` things, evenly spaced; None for all."""
    count = n if limit is None else min(n, limit)
    return [k * n // count for k in range(count)] if count else []


def _checked(images: torch.Tensor, channels: int) -> torch.Tensor:
    expected = f"expected images (n, {channels}, h, w), float in [0, 1]"
    if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point() or not images.numel():
        raise DataError(f"{expected}, got {tuple(images.shape)} {images.dtype}; stack and scale them")
    if not bool(torch.isfinite(images).all()) or float(images.min()) < 0 or float(images.max()) > 1:
        raise DataError(f"{expected}, got values from {float(images.min())} to {float(images.max())}; divide by 255")
    return images.float()


def _read(path: Path, size: tuple[int, int], channels: int) -> torch.Tensor | None:
    image = read_image(path, channels)
    if image is None:
        LOGGER.warning(f"{path}: not a readable image, passed over")
        return None
    boxed: Any = np.atleast_3d(LetterBox(size)(image=image))  # HWC, uint8; OpenCV drops a single channel
    ordered = boxed[..., ::-1] if channels == 3 else boxed  # BGR to RGB
    return torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1))).float() / 255
