"""More calibration images from few: mosaics, zooms and other light, for what needs no labels.

Ultralytics' own mosaic works on labelled data sets on the disk; here there are only pixels, in memory. As in training,
four images meet at a random point (Bochkovskiy et al. 2020, arXiv:2004.10934), each scaled, cropped and mirrored at
random, so that objects appear at other sizes, places and neighbourhoods.
"""

import itertools
import math

import torch
import torch.nn.functional as F

from depgraph_hsic_only.recovery.layerwise import as_input

_SCALES = 0.5, 1.0  # of an image's side
_ZOOM = 1.6  # largest factor by which an image grows or shrinks
_ZOOMED = 0.7  # share of the images that are
_BRIGHTNESS, _COLOUR = 0.3, 0.15  # largest change of all colours together, and of each
_BORDER = 114 / 255  # grey of letterboxes


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


def varied(images: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Images as a training sees them: half of them mosaics, the others mirrored and zoomed at random, in other light.

    They are (count, c, h, w), float32 in [0, 1], from (n, c, h, w), float in [0, 1] or uint8; the generator is on the
    CPU.
    """
    mosaics = make_mosaics(images, count // 2, int(torch.randint(2**31, (), generator=generator)))
    chosen = images[torch.randint(len(images), (count - len(mosaics),), generator=generator)]
    whole = [_zoomed(image, generator) for image in as_input(chosen, images.device)]
    made = torch.cat([as_input(mosaics, images.device), torch.stack(whole)])
    light = 1 + _BRIGHTNESS * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    colour = 1 + _COLOUR * (2 * torch.rand(count, images.shape[1], 1, 1, generator=generator) - 1)
    return (made * (light * colour).to(made.device)).clamp(0, 1)


def _zoomed(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """An image (c, h, w), perhaps mirrored, perhaps larger or smaller, and then moved within its frame."""
    image = image if _uniform(0, 1, generator) < 0.5 else image.flip(2)
    if _uniform(0, 1, generator) >= _ZOOMED:
        return image
    shrunk = math.exp(_uniform(-math.log(_ZOOM), math.log(_ZOOM), generator))  # of the frame in the image
    room = abs(1 - shrunk)
    moved = [_uniform(-room, room, generator) for _ in range(2)]
    affine = torch.tensor([[shrunk, 0.0, moved[0]], [0.0, shrunk, moved[1]]], device=image.device)
    grid = F.affine_grid(affine[None], [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None] - _BORDER, grid, align_corners=False)[0] + _BORDER


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
