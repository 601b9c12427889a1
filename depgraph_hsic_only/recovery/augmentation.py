"""More calibration images from few: mosaics, for what needs no labels.

Ultralytics' own mosaic works on labelled data sets on the disk; here there are only pixels, in memory. As in training,
four images meet at a random point (Bochkovskiy et al. 2020, arXiv:2004.10934), each scaled, cropped and mirrored at
random, so that objects appear at other sizes, places and neighbourhoods.
"""

import itertools

import torch
import torch.nn.functional as F

_SCALES = 0.5, 1.0  # of an image's side


def make_mosaics(images: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Mosaics (count, c, h, w) of four images each from (n, c, h, w), float in [0, 1] or uint8: of the same type."""
    generator = torch.Generator().manual_seed(seed)
    n, _, h, w = images.shape
    made = images.new_empty(count, *images.shape[1:])
    for mosaic in made:
        y, x = (int(side * _uniform(0.25, 0.75, generator)) for side in (h, w))
        for rows, columns in itertools.product((slice(0, y), slice(y, h)), (slice(0, x), slice(x, w))):
            image = images[int(torch.randint(n, (), generator=generator))]
            mosaic[:, rows, columns] = _crop(image, rows.stop - rows.start, columns.stop - columns.start, generator)
    return made


def _crop(image: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """A random part (c, height, width) of an image (c, h, w), scaled and perhaps mirrored."""
    _, h, w = image.shape
    scale = max(_uniform(*_SCALES, generator), height / h, width / w)
    size = max(height, round(scale * h)), max(width, round(scale * w))
    scaled = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    top, left = (
        int(torch.randint(side - part + 1, (), generator=generator))
        for side, part in zip(size, (height, width), strict=True)
    )
    part = scaled[:, top : top + height, left : left + width]
    part = part if _uniform(0, 1, generator) < 0.5 else part.flip(2)
    return part.round().to(image.dtype) if image.dtype == torch.uint8 else part.to(image.dtype)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
