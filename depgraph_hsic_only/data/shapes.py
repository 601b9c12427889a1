"""A small synthetic data set for each task, and the training that learns it in minutes on two CPU cores.

Nothing is downloaded: every picture is drawn from a random seed of its own, so the same arguments give the same bytes.
Colour alone does not tell the classes apart (their hues overlap, and some objects have any hue), and objects partly
hide each other's outlines.
"""

import colorsys
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from depgraph_hsic_only.data.shape_labels import LABELLINGS, SUPERSAMPLE, Labelling, Mask, Object, Points
from depgraph_hsic_only.errors import ConfigError, DataError
from depgraph_hsic_only.support.nearest import nearest

Image = NDArray[np.float64]  # (H, W, 3) BGR, or (H, W); [0, 1]

VERSION: Final = 1  # of the drawings: raise it when they change, so that no cached folder is mistaken for the new ones
BACKGROUND_SHARE: Final = 0.06  # of the pictures that show no object
MAX_OBJECTS: Final = 5
RADIUS: Final = (0.11, 0.26)  # of an object's circumscribed circle, in picture widths
MIN_VISIBLE: Final = 0.45  # of an object's area; a lesser remainder could not be told apart

# What differs from Ultralytics' defaults, for `YOLO("yolov8n-seg.yaml").train(data=shapes_dataset(), **SHAPES_RECIPE)`;
# for poses see `shapes_recipe`.
# Seeds 0, 1 and 2 end at a mask mAP50 of 0.934, 0.932 and 0.951, after seven minutes of CPU time. On a CPU, Ultralytics
# leaves one core unused; `torch.set_num_threads` in an `on_train_start` callback takes it, if nothing else runs there.
SHAPES_RECIPE: Final[dict[str, int | float | str | bool]] = {
    "imgsz": 160,
    "epochs": 22,  # 16 may end at a mask mAP50 of 0.83
    "batch": 4,  # from random weights the number of steps counts, and on a CPU small batches cost no more a picture
    "nbs": 4,  # a step for each batch; the default gathers 64 pictures for one
    "optimizer": "AdamW",
    "lr0": 0.002,  # the default 0.01 is SGD's
    "cos_lr": True,  # stays high for longer than the linear fall, then ends as low
    "warmup_epochs": 1.0,  # the default 3 are for trainings of a hundred epochs
    "warmup_bias_lr": 0.0,  # the default 0.1 is SGD's; AdamW would throw the biases far off
    "mosaic": 0.0,  # shrunk and cut objects of another statistic than those to be found; a long training gains by them
    "scale": 0.2,  # the sizes vary enough in themselves
    "flipud": 0.5,  # shapes have no up and down
    "hsv_h": 0.0,  # hue is a hint at the class
    "hsv_s": 0.3,  # a strong colour tells objects from the pale background
    "hsv_v": 0.3,
    "cls": 1.0,  # the class is learnt last
    "val": False,  # except after the last epoch
    "plots": False,  # would fetch a font
}


def shapes_recipe(task: str = "segment") -> dict[str, int | float | str | bool]:
    """`SHAPES_RECIPE` for a task: keypoints are the top, right, bottom and left end, so poses are not turned over."""
    return {key: value for key, value in SHAPES_RECIPE.items() if task != "pose" or key != "flipud"}


def _turn(angle: float) -> Points:
    """Turns the points it multiplies from the right; `(2, 2)`."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _repeat(corners: list[tuple[float, float]], times: int) -> Points:
    """The outline through some corners and their images after each of `times` equal turns; `(K, 2)`."""
    return np.concatenate([corners @ _turn(angle) for angle in 2 * np.pi * np.arange(times) / times])


OUTLINES: Final[dict[str, Points]] = {  # by class name, inside the unit circle
    "circle": _repeat([(0.9, 0)], 64),
    "square": _repeat([(1, 0)], 4),
    "triangle": _repeat([(1, 0)], 3),
    "star": _repeat([(1, 0), (0.3641, 0.2645)], 5),
    "cross": _repeat([(0.9539, -0.3), (0.9539, 0.3), (0.3, 0.3)], 4),
}


def shapes_dataset(
    root: Path | None = None,
    *,
    train: int = 256,
    val: int = 64,
    imgsz: int = 160,
    seed: int = 0,
    task: str = "segment",
) -> Path:
    """Path of the `data.yaml` of a data set in Ultralytics' format for a task, which is drawn on the first call.

    `root` is the data set's own folder; by default one in the user's cache, named for the arguments. `train` and `val`
    count pictures (at least 1 each) of `imgsz` x `imgsz` pixels (at least 32). A folder that was moved or copied is
    used as it is, with the path in its `data.yaml` put right. Safe to call from several processes at once.

    The pictures of the tasks "segment", "detect" and "pose" are the same: their objects are labelled with the polygon
    of what is visible of them, its box, or that and its top, right, bottom and left end. For "obb" the objects are half
    as wide, so that they have a direction, whole in the picture, and labelled with the box along their own axes.

    Raises `ConfigError` for other arguments, `DataError` where `root` holds another data set, and `OSError` where it
    cannot be written.
    """
    if min(train, val) < 1 or imgsz < 32 or seed < 0:
        raise ConfigError(
            f"expected train >= 1, val >= 1, imgsz >= 32 and seed >= 0, got {train=}, {val=}, {imgsz=}, {seed=}"
        )
    if task not in LABELLINGS:
        raise ConfigError(f"task: expected one of {', '.join(LABELLINGS)}, got {task!r}{nearest(task, LABELLINGS)}")
    first = task == "segment"  # whose folders are named, and known, as they were when it was the only task
    drawn = [VERSION, train, val, imgsz, seed, *([] if first else [task])]
    key = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:12]
    name = f"shapes-{key}" if first else f"shapes-{task}-{key}"
    root = (_cache_folder() / name if root is None else root).expanduser().absolute()
    data = root / "data.yaml"
    described = {
        "path": str(root),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(OUTLINES)),
        **LABELLINGS[task].keys,
        "shapes": key,  # ours, ignored by Ultralytics: tells with which arguments the folder was drawn
    }
    content = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
    if not data.is_file():
        root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            root.rmdir()  # an empty folder would be in the way on some systems; any other stays
        write = partial(
            _draw, described=content, counts=(train, val), imgsz=imgsz, seed=seed, labelling=LABELLINGS[task]
        )
        try:
            _publish(root, write)
        except OSError:
            if not data.is_file():  # else another process was faster
                raise
    found = yaml.safe_load(data.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("shapes") != key:
        raise DataError(f"{root} holds something else than the shapes asked for: choose a new or empty folder")
    if found != described:
        _publish(data, lambda file: file.write_text(content, encoding="utf-8"))
    return data


def _cache_folder() -> Path:
    """The package's folder in the user's cache. A relative XDG_CACHE_HOME is invalid and ignored, as XDG demands."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "depgraph_hsic_only"


def _publish(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or folder beside `target` and rename that, so that nobody sees it half written."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch, target.name)  # not scratch itself, which only its owner may read
        write(made)
        made.replace(target)


def _draw(folder: Path, described: str, counts: tuple[int, int], imgsz: int, seed: int, labelling: Labelling) -> None:
    """Write the pictures (PNG, as they are exact), their labels and `data.yaml` into `folder`."""
    for number, (split, count) in enumerate(zip(("train", "val"), counts, strict=True)):
        images, labels = (folder / kind / split for kind in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            picture, label = _picture(np.random.default_rng([seed, number, index]), imgsz, labelling)
            (images / f"{index:05d}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            (labels / f"{index:05d}.txt").write_text(label, encoding="utf-8")
    (folder / "data.yaml").write_text(described, encoding="utf-8")


def _picture(rng: np.random.Generator, imgsz: int, labelling: Labelling) -> tuple[NDArray[np.uint8], str]:
    """A picture, `(imgsz, imgsz, 3)` BGR, and its labels: a line for each object, its class and numbers."""
    count = 0 if rng.random() < BACKGROUND_SHARE else int(rng.integers(1, MAX_OBJECTS + 1))
    objects = _place(rng, count, SUPERSAMPLE * imgsz, labelling)
    picture = _background(rng, imgsz)
    for thing in objects:
        picture = _paint(rng, picture, thing)
    picture += rng.normal(0, 0.02, picture.shape)  # as a sensor's
    numbers = ((thing.label, labelling.numbers(thing)) for thing in objects)
    lines = (f"{label} {' '.join(f'{value:.5f}' for value in found)}\n" for label, found in numbers)
    return np.rint(255 * picture.clip(0, 1)).astype(np.uint8), "".join(lines)


def _place(rng: np.random.Generator, count: int, side: int, labelling: Labelling) -> list[Object]:
    """At most `count` objects, the lowest first, on `side` x `side` pixels.

    A polygon has neither holes nor second parts. So a place where an object would make some in those below, or would
    hide too much of them, is not taken: every label is the exact visible region of its object.
    """
    objects: list[Object] = []
    for _ in range(8 * count):  # tries; a crowded picture ends with fewer objects
        new = _random_object(rng, side, labelling)
        changed = [*(o._replace(visible=o.visible & ~new.whole) for o in objects), new]
        if all(_is_plain(o.visible) and cv2.countNonZero(o.visible) >= MIN_VISIBLE * o.area for o in changed):
            objects = changed
        if len(objects) == count:
            break
    return objects


def _random_object(rng: np.random.Generator, side: int, labelling: Labelling) -> Object:
    label = int(rng.integers(len(OUTLINES)))
    radius, angle = rng.uniform(*RADIUS), rng.uniform(0, 2 * np.pi)
    centre = rng.uniform(labelling.inside * radius, 1 - labelling.inside * radius, size=2)
    own = list(OUTLINES.values())[label] * (1, labelling.squash)
    (left, top), (right, bottom) = own.min(0), own.max(0)
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    outline, box = (side * (centre + radius * points @ _turn(angle)) for points in (own, corners))
    whole = np.zeros((side, side), np.uint8)
    cv2.fillPoly(whole, [np.rint(outline).astype(np.int32)], 1)
    return Object(label, cv2.contourArea(outline.astype(np.float32)), box, whole, whole)


def _is_plain(mask: Mask) -> bool:
    """Whether `mask` is a single part without holes."""
    return len(cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]) == 1


def _background(rng: np.random.Generator, imgsz: int) -> Image:
    """A pale gradient with stripes and blotches; `(imgsz, imgsz, 3)`."""
    start, end = (_colour(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.15, 0.9)) for _ in range(2))
    ramp = _ramp(rng, imgsz)[..., None]
    blotches = cv2.resize(rng.normal(0, 0.06, (8, 8)), (imgsz, imgsz), interpolation=cv2.INTER_CUBIC)
    stripes = rng.uniform(0, 0.05) * np.sin(2 * np.pi * rng.uniform(3, 12) * _ramp(rng, imgsz))
    background: Image = start + ramp * (end - start) + (blotches + stripes)[..., None]
    return background


def _paint(rng: np.random.Generator, picture: Image, thing: Object) -> Image:
    """`picture` with `thing` on top, shaded, and its soft shadow under it."""
    imgsz = len(picture)
    cover = cv2.resize(255 * thing.whole, (imgsz, imgsz), interpolation=cv2.INTER_AREA)[..., None] / 255
    blur = cv2.GaussianBlur(cover, (0, 0), imgsz / 50)
    shadow = cv2.warpAffine(blur, np.array([[1, 0, imgsz / 60], [0, 1, imgsz / 60]]), (imgsz, imgsz))[..., None]
    # A fifth of the hues are nearer to a neighbour class's (|N(0, 0.4)| > 1/2), and one object in eight has any hue.
    hue = rng.random() if rng.random() < 1 / 8 else (thing.label + rng.normal(0, 0.4)) / len(OUTLINES)
    colour = _colour(hue, rng.uniform(0.6, 1), rng.uniform(0.6, 1))
    shaded = colour * (0.7 + 0.4 * _ramp(rng, imgsz))[..., None]
    painted: Image = cover * shaded + (1 - cover) * (1 - 0.5 * shadow) * picture
    return painted


def _ramp(rng: np.random.Generator, imgsz: int) -> Image:
    """Rises from 0 to 1 across the picture, in a random direction; `(imgsz, imgsz)`."""
    angle = rng.uniform(0, 2 * np.pi)
    across = np.linspace(-1, 1, imgsz)
    rise = np.add.outer(np.sin(angle) * across, np.cos(angle) * across)
    ramp: Image = (rise - rise.min()) / np.ptp(rise)
    return ramp


def _colour(hue: float, saturation: float, value: float) -> Image:
    """BGR in [0, 1], `(3,)`; a hue is taken modulo 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)[::-1])
