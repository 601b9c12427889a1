"""The registry of criteria. A criterion of one's own is one function: channel group in, tensor (C,) out.

The built-in ones are known by name, and imported when they are first used: a list of names costs no import of torch.
"""

from __future__ import annotations

import abc
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.support.nearest import nearest

if TYPE_CHECKING:
    import torch

    from depgraph_hsic_only.channels.groups import ChannelGraph, ChannelGroup

Batches = Iterable[Mapping[str, Any]]
"""Labelled batches as Ultralytics' data loaders give them; "img" is (B, 3, H, W), uint8 or float in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of each channel by channel group, and how far they can be trusted.

    The `halves` are those from each half of the images alone; None for a criterion that reads no images, or too few.
    """

    scores: dict[str, torch.Tensor]
    halves: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] | None = None


class Criterion(abc.ABC):
    """Scores every channel of a graph. Subclass it where a criterion needs images or all groups at once.

    Attributes:
        needs_batches: Whether `score` needs batches.
        needs_labels: Whether they must be labelled, if it does.
    """

    needs_batches: bool = False
    needs_labels: bool = True

    @abc.abstractmethod
    def score(self, graph: ChannelGraph, batches: Batches | None) -> dict[str, torch.Tensor]:
        """Importance of each channel, by channel group: name to (C,), finite, higher is more important.

        Args:
            graph: The channel groups, with the model to measure on; it may be changed, since it is a copy.
            batches: Labelled batches, or None where the caller has none.
        """

    def measure(self, graph: ChannelGraph, batches: Batches | None) -> Measured:
        """As `score`, with the scores by each half of the images where the criterion can tell."""
        return Measured(self.score(graph, batches))

    def check_images(self, trace: Callable[[], ChannelGraph], images: int, imgsz: int) -> None:  # noqa: B027
        """Refuse, before any is read, fewer images than it can rank channels by.

        Args:
            trace: Finds the graph that would be scored, which takes a second.
            images: How many there are.
            imgsz: Their side, pixels.

        Raises:
            DataError: There are too few.
        """


@final
class PerGroup(Criterion):
    """A criterion that scores each group on its own, by a function of the group."""

    def __init__(self, function: Callable[[ChannelGroup], torch.Tensor]) -> None:
        self._function = function

    def score(self, graph: ChannelGraph, batches: Batches | None) -> dict[str, torch.Tensor]:
        """Apply the function to each group."""
        return {group.name: self._function(group) for group in graph.groups}


Registered = TypeVar("Registered", bound=Callable[..., Any])
_registry: dict[str, Callable[..., Any]] = {}
_ROOM = __name__.rpartition(".")[0]
_BUILT_IN = {  # by name: the module that registers it when it is imported
    **dict.fromkeys(("magnitude", "l1", "bn_scale", "random"), f"{_ROOM}.weights"),
    "taylor": f"{_ROOM}.gradient",
    "hsic_lasso": f"{_ROOM}.hsic_lasso",
    "reconstruction": f"{_ROOM}.reconstruction",
}


def register_criterion(name: str) -> Callable[[Registered], Registered]:
    """Register a criterion under a name, for `criterion=` and the command line.

    Decorates a function `(group: ChannelGroup, *, option=default, ...) -> tensor (C,)`, or a `Criterion` subclass whose
    keyword-only arguments are its options. A group's modules are on the device of the run, its indices on the CPU; the
    scores may be on either.

    Raises:
        ConfigError: The name is taken.
    """

    def register(criterion: Registered) -> Registered:
        reserved = name in _BUILT_IN and getattr(criterion, "__module__", None) != _BUILT_IN[name]
        if reserved or name in _registry:
            raise ConfigError(f"criterion {name!r}: expected a new name, but it is taken; choose another")
        _registry[name] = criterion
        return criterion

    return register


def list_criteria() -> tuple[str, ...]:
    """Names of all criteria, built in and registered, sorted."""
    return tuple(sorted({*_BUILT_IN, *_registry}))


def registered_criterion(name: str) -> Callable[..., Any]:
    """What was registered under a name of `list_criteria`: another process can register it again."""
    if name not in _registry:
        importlib.import_module(_BUILT_IN[name])
    return _registry[name]


def create_criterion(name: str, **options: Any) -> Criterion:
    """The criterion of that name with its options set.

    Raises:
        ConfigError: No such criterion, or it has no such option.
    """
    names = list_criteria()
    if name not in names:
        raise ConfigError(f"criterion: expected one of {', '.join(names)}, got {name!r}{nearest(str(name), names)}")
    registered = registered_criterion(name)
    known = option_names(name)
    for option in options:
        if option not in known:
            raise ConfigError(f"criterion {name}: unknown option {option!r}; it has {', '.join(known) or 'none'}")
    if isinstance(registered, type):
        return cast(Criterion, registered(**options))
    return PerGroup(lambda group: registered(group, **options))


def option_names(name: str) -> tuple[str, ...]:
    """Names of the options of a registered criterion."""
    parameters = inspect.signature(registered_criterion(name)).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
