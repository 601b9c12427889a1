"""What is changed in other libraries, all of it, and undone when the last one who needs it is through.

A change of a global is seen by all threads. So none is made for one of them: what is put in place asks, whenever it is
used, what holds for the thread that uses it, and no lock is held but for the moment of putting it in place.

Ultralytics imports torchvision in every validator, predictor and NMS export for one function, `torchvision.ops.nms`.
Beside a torch build that it was not compiled for (CPU torch with a CUDA torchvision, say) the import fails with
"operator torchvision::nms does not exist". Ultralytics has the same function in Python, so that takes its place: the
one change that stays, since what was imported with it stays too.
"""

import functools
import importlib
import importlib.machinery
import importlib.metadata
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TextIO

import torch.nn.functional as F
from ultralytics.data import utils as data_utils
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER, TQDM, checks, nms, plotting
from ultralytics.utils.nms import TorchNMS

from depgraph_hsic_only.support.checks.torchvision import STAND_IN, torchvision_fault, torchvision_remedy

_SECONDS_PER_IMAGE = 2.0
_SECONDS_PER_LINE = 60.0  # between two states of a bar in a file
_SAFE_LOAD = "ULTRALYTICS_SAFE_LOAD"  # what Ultralytics reads at its import, so in the processes that it starts


class _Shared:
    """A change that is in place while anybody needs it, however their contexts nest and overlap."""

    def __init__(self, change: Callable[[], AbstractContextManager[None]]) -> None:
        self._change, self._users = change, 0
        self._made, self._lock = ExitStack(), threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._made.enter_context(self._change())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._made.close()


@_Shared
@contextmanager
def _patience() -> Iterator[None]:
    hasty = nms.non_max_suppression
    nms.non_max_suppression = functools.partial(hasty, max_time_img=_SECONDS_PER_IMAGE)
    yield
    nms.non_max_suppression = hasty


def patient_nms() -> AbstractContextManager[None]:
    """Give Ultralytics' validators time for NMS.

    After 2 s and 0.05 s an image they leave the rest of a batch without detections, with a warning in the log and a mAP
    that is too low: a busy machine is enough for that where NMS runs in Python.
    """
    ensure_nms()  # it is there for a model that was loaded without this package, too
    return _patience


@_Shared
@contextmanager
def _quartered() -> Iterator[None]:
    from ultralytics.models.yolo.segment.val import SegmentationValidator  # it imports torchvision

    begin, end = SegmentationValidator.preprocess, SegmentationValidator.postprocess

    def preprocess(self: Any, batch: dict[str, Any]) -> Any:
        batch = begin(self, batch)
        self.quarter = tuple(side // 4 for side in batch["img"].shape[2:])
        return batch

    def postprocess(self: Any, predicted: Any) -> Any:
        nested = isinstance(predicted[0], tuple)
        boxes, prototypes = predicted[0] if nested else predicted[:2]
        if tuple(prototypes.shape[2:]) != self.quarter:
            prototypes = F.interpolate(prototypes, self.quarter, mode="area")
            predicted = ((boxes, prototypes), *predicted[1:]) if nested else (boxes, prototypes, *predicted[2:])
        return end(self, predicted)

    SegmentationValidator.preprocess, SegmentationValidator.postprocess = preprocess, postprocess
    yield
    SegmentationValidator.preprocess, SegmentationValidator.postprocess = begin, end


def any_prototypes() -> AbstractContextManager[None]:
    """Let Ultralytics' validator compare masks whatever the stride of the prototypes, as of a head with a P2 scale.

    It compares them at a quarter of the image's size, and takes prototypes to have that size: of others the mean over
    each of a quarter's pixels is taken, which is a mask's own mean before its threshold.
    """
    return _quartered


@_Shared
@contextmanager
def _as_installed() -> Iterator[None]:
    before, checks.AUTOINSTALL = checks.AUTOINSTALL, False
    yield
    checks.AUTOINSTALL = before


def nothing_installed() -> AbstractContextManager[None]:
    """Keep Ultralytics from installing packages that an export or a runtime lacks: that they are missing is said."""
    return _as_installed


_safe: ContextVar[bool | None] = ContextVar("safe", default=None)  # None outside of any `safe_load`


class _SafeHere:
    """Stands for Ultralytics' flag, of which only the truth is asked: what holds in the thread that asks."""

    def __init__(self, elsewhere: bool) -> None:
        self._elsewhere = elsewhere  # outside of any `safe_load`

    def __bool__(self) -> bool:
        safe = _safe.get()
        return self._elsewhere if safe is None else safe


@_Shared
@contextmanager
def _safe_by_thread() -> Iterator[None]:
    flag, variable = tasks.SAFE_LOAD, os.environ.get(_SAFE_LOAD)
    tasks.SAFE_LOAD, os.environ[_SAFE_LOAD] = _SafeHere(bool(flag)), "1"
    yield
    tasks.SAFE_LOAD = flag
    if variable is None:
        del os.environ[_SAFE_LOAD]
    else:
        os.environ[_SAFE_LOAD] = variable


@contextmanager
def safe_load(on: bool = True) -> Iterator[None]:
    """Make Ultralytics load tensors and known classes only: in this thread, and in processes started meanwhile.

    The same mode keeps it from evaluating what a model's YAML calls its activation, in a checkpoint too. `YOLO(path)`,
    its trainers and `parse_model` have no argument for that, and read a global.

    Not `on` is the opposite: whatever a file holds is run. It holds for this thread alone: other threads load as they
    would without it, and processes load safely in any case.
    """
    token = _safe.set(on)
    try:
        with _safe_by_thread:
            yield
    finally:
        _safe.reset(token)


_files: list[TextIO] = []  # of `bars_in_file`, the innermost last


@_Shared
@contextmanager
def _bars_by_line() -> Iterator[None]:
    begin = TQDM.__init__

    @functools.wraps(begin)
    def begin_in_file(bar: Any, *args: Any, **settings: Any) -> None:
        begin(bar, *args, **{**settings, "file": _files[-1], "disable": True})
        bar.disable, bar.noninteractive = settings.get("disable") or False, True
        bar.mininterval = _SECONDS_PER_LINE

    TQDM.__init__ = begin_in_file
    yield
    TQDM.__init__ = begin


@contextmanager
def bars_in_file(file: TextIO) -> Iterator[None]:
    """Ultralytics' progress bars go into a file, a line now and then; of nested files, into the innermost."""
    _files.append(file)
    try:
        with _bars_by_line:
            yield
    finally:
        _files.remove(file)


_fonts: list[str] = []  # of `figure_font`, the innermost last


@_Shared
@contextmanager
def _quantizers_in_log() -> Iterator[None]:
    conversion: Any = importlib.import_module("modelopt.torch.quantization.conversion")
    conversion.print = LOGGER.info  # before the built-in function
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not identify the device for TensorQuantizer")  # Ultralytics sets it
        yield
    del conversion.print


def quantizers_in_log() -> AbstractContextManager[None]:
    """What nvidia-modelopt, which has to be there, prints of each network that it prepares goes to Ultralytics' log."""
    return _quantizers_in_log


@_Shared
@contextmanager
def _font_at_hand() -> Iterator[None]:
    def check_font(font: str = "Arial.ttf") -> Any:
        return _fonts[-1] if font == "Arial.Unicode.ttf" and _fonts else checks.check_font(font)

    data_utils.check_font = plotting.check_font = check_font
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from|Tight layout not applied", UserWarning)
    rule = warnings.filters[0]
    yield
    data_utils.check_font = plotting.check_font = checks.check_font
    with suppress(ValueError):  # somebody has set the filters anew
        warnings.filters.remove(rule)  # type: ignore[attr-defined]


@contextmanager
def figure_font(file: str) -> Iterator[None]:
    """Ultralytics draws class names that are not ASCII with a font of this machine; of nested ones, the innermost.

    It would download one of 23 MB, and without a network have none. Where a font lacks a character,
    matplotlib draws a box and warns, once a character and figure, as it does of names too long for a figure; those
    warnings are left out.
    """
    _fonts.append(file)
    try:
        with _font_at_hand:
            yield
    finally:
        _fonts.remove(file)


def ensure_nms() -> bool:
    """Make `torchvision.ops.nms` importable; where torchvision loads, nothing is changed.

    Returns:
        Whether the stand-in is in place.
    """
    fault = torchvision_fault()
    if fault is None or hasattr(sys.modules.get("torchvision"), STAND_IN):
        return fault is not None
    ops = ModuleType("torchvision.ops")
    ops.nms = TorchNMS.nms  # type: ignore[attr-defined]
    stand_in = ModuleType("torchvision")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("torchvision", loader=None, is_package=True)
    stand_in.__path__ = []
    installed = (found.version for found in importlib.metadata.distributions(name="torchvision"))
    stand_in.__version__ = next(installed, "0")  # type: ignore[attr-defined]
    stand_in.ops = ops  # type: ignore[attr-defined]
    setattr(stand_in, STAND_IN, fault)
    sys.modules |= {"torchvision": stand_in, "torchvision.ops": ops}
    warnings.warn(
        f"torchvision can't be loaded ({fault}), so NMS runs in Python, slower; {torchvision_remedy()}",
        RuntimeWarning,
        stacklevel=2,
    )
    return True
