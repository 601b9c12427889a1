"""What is to be cut, as a value: it can be printed, saved, compared and replayed, and nothing has been changed yet."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.channels.groups import ChannelGraph, ChannelGroup
from depgraph_hsic_only.channels.widths import Scores, Widths, check_widths
from depgraph_hsic_only.errors import PlanError
from depgraph_hsic_only.yolo.blocks import is_left_out, repeats_name

_FORMAT = 1


@dataclass(frozen=True)
class WidthChange:
    """The width of one width group before and after, and why.

    Attributes:
        name: "w3" (output of layer 3), "h4" (hidden width of layer 4), "d4" (its repeats), "npr" …: see
            `groups.WidthGroup`.
        layer: Index of the layer.
        before: Channels, or repeats, before the cut.
        after: Those after the cut.
        reason: Why this width was chosen, for people.
    """

    name: str
    layer: int
    before: int
    after: int
    reason: str

    @property
    def is_repeats(self) -> bool:
        """Whether it is the repeats of the layer."""
        return self.name == repeats_name(self.layer)


@dataclass(frozen=True)
class GroupCut:
    """The channels of one channel group that stay.

    Attributes:
        name: Name of the channel group, such as "model.2.cv1.first".
        width: Name of its width group.
        channels: Channels before the cut.
        keep: Indices of the channels that stay, ascending, in [0, channels).
    """

    name: str
    width: str
    channels: int
    keep: tuple[int, ...]


@dataclass(frozen=True)
class PruningPlan:
    """Widths and kept channels of every channel group of some layers.

    Of inner blocks that are left out, it says no more than that the repeats are fewer.

    Attributes:
        criterion: Name of the criterion that ranked the channels.
        layers: The chosen layers, ascending.
        widths: A change for each width group, in the order of the network.
        groups: A cut for each channel group, in the order of the network.
    """

    criterion: str
    layers: tuple[int, ...]
    widths: tuple[WidthChange, ...]
    groups: tuple[GroupCut, ...]

    @property
    def before(self) -> dict[str, int]:
        """Width of each width group before the cut."""
        return {width.name: width.before for width in self.widths}

    @property
    def after(self) -> dict[str, int]:
        """Width of each width group after the cut."""
        return {width.name: width.after for width in self.widths}

    @property
    def depth(self) -> bool:
        """Whether repeats are among the widths."""
        return any(width.is_repeats for width in self.widths)

    @property
    def cuts_nothing(self) -> bool:
        """Whether every width stays as it is."""
        return self.before == self.after

    def then(self, following: "PruningPlan") -> "PruningPlan":
        """This plan followed by another one made for its result, as a single plan for the model before both.

        Raises:
            PlanError: `following` was made for other widths than this plan leaves.
        """
        mine = {group.name: group for group in self.groups}
        theirs = {group.name: group.channels for group in following.groups}
        if theirs != {n: len(group.keep) for n, group in mine.items() if not is_left_out(n, following.after)}:
            raise PlanError("expected a plan made for the result of this one, got one for other channel groups")
        groups = tuple(
            GroupCut(g.name, g.width, mine[g.name].channels, tuple(mine[g.name].keep[k] for k in g.keep))
            for g in following.groups
        )
        before = following.before | self.before
        widths = [WidthChange(w.name, w.layer, before[w.name], w.after, w.reason) for w in following.widths]
        if not following.depth:  # what this plan has left out stays so
            widths = sorted([*widths, *(w for w in self.widths if w.is_repeats)], key=lambda w: w.layer)
        return PruningPlan(following.criterion, self.layers, tuple(widths), groups)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain lists, dicts, strings and numbers."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PruningPlan":
        """The inverse of `to_dict`.

        Raises:
            PlanError: `data` is not a plan.
        """
        try:
            if data["format"] != _FORMAT:
                raise PlanError(f"expected a plan of format {_FORMAT}, got {data['format']!r}; make the plan anew")
            plan = cls(
                str(data["criterion"]),
                tuple(data["layers"]),
                tuple(WidthChange(**width) for width in data["widths"]),
                tuple(GroupCut(**{**group, "keep": tuple(group["keep"])}) for group in data["groups"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(
                f"expected a pruning plan as PruningPlan.save writes it, got {error!r} on reading"
            ) from error
        plan._check()
        return plan

    def _check(self) -> None:
        """Refuse what JSON can hold and a plan can't."""
        numbers = [*self.layers, *(n for w in self.widths for n in (w.layer, w.before, w.after))]
        numbers += [group.channels for group in self.groups]
        texts = [text for w in self.widths for text in (w.name, w.reason)]
        texts += [text for group in self.groups for text in (group.name, group.width)]
        wrong = [n for n in numbers if type(n) is not int] + [t for t in texts if not isinstance(t, str)]
        if wrong:
            raise PlanError(f"expected a pruning plan as PruningPlan.save writes it, got {wrong[0]!r} in it")
        for group in self.groups:
            keep, width = list(group.keep), self.after.get(group.width)
            valid = all(type(k) is int and 0 <= k < group.channels for k in keep)
            if not valid or keep != sorted(set(keep)) or len(keep) != width or not keep:
                raise PlanError(
                    f"group {group.name}: expected {width} ascending channel indices in [0, {group.channels}), got "
                    f"{keep}"
                )

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON and return the path."""
        path = Path(path)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "PruningPlan":
        """Read a plan that `save` wrote.

        Raises:
            PlanError: The file can't be read or holds no plan.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"{path}: expected a pruning plan in JSON, got {error}") from error
        if not isinstance(data, dict):
            raise PlanError(f"{path}: expected a pruning plan in JSON, got a {type(data).__name__}")
        return cls.from_dict(data)

    def __str__(self) -> str:
        lines = [f"{w.name:>3}  {w.before:>5} -> {w.after:<5} {w.reason}" for w in self.widths]
        return "\n".join([f"Pruning plan by {self.criterion}, layers {list(self.layers)}", *lines])


def make_plan(
    graph: ChannelGraph, scores: Scores, widths: Widths, *, criterion: str, reasons: Mapping[str, str]
) -> PruningPlan:
    """Keep the highest-scoring channels of every group; of equal scores the lower index stays.

    A group that is not cut needs no scores, and of bins the first ones stay.
    Of the widths, outputs are multiples of 8, and ties are kept (see `follow_ties`); the `criterion` is what made the
    scores, and the `reasons` tell why each free width was chosen. Widths of nothing but inner blocks that are left out
    are not needed.

    Raises:
        PlanError: A width or a score is missing, out of range or not finite.
    """
    there, graph = graph.full, graph.without_left_out(widths)
    widths = {name: width for name, width in widths.items() if name not in there or name in graph.full}
    check_widths(graph, widths)
    return PruningPlan(
        criterion,
        graph.layers,
        tuple(
            WidthChange(w.name, w.layer, w.channels, widths[w.name], w.tie.text if w.tie else reasons[w.name])
            for w in graph.widths
        ),
        tuple(
            GroupCut(g.name, g.width, g.channels, _highest(g, scores, widths[g.width], criterion)) for g in graph.groups
        ),
    )


def selection_stability(plan: PruningPlan, halves: tuple[Scores, Scores] | None) -> float | None:
    """How well two halves of the calibration images agree on the channels that stay, in [0, 1].

    The Jaccard index of the channels that each half alone would keep, over all channel groups that are cut. None where
    there are no such scores, or nothing is cut.
    """
    if halves is None:
        return None
    shared = either = 0
    for group in plan.groups:
        if len(group.keep) < group.channels and all(group.name in half for half in halves):
            a, b = (set(_top(half[group.name], len(group.keep))) for half in halves)
            shared, either = shared + len(a & b), either + len(a | b)
    return shared / either if either else None


def _highest(group: ChannelGroup, scores: Scores, width: int, criterion: str) -> tuple[int, ...]:
    score = scores.get(group.name)
    if group.bins or (score is None and width == group.channels):
        return tuple(range(width))
    if score is None or tuple(score.shape) != (group.channels,) or not bool(torch.isfinite(score).all()):
        got = "nothing" if score is None else f"shape {tuple(score.shape)}, finite: {bool(torch.isfinite(score).all())}"
        raise PlanError(
            f"criterion {criterion}: expected {group.channels} finite scores for {group.name}, got {got}; "
            "a criterion returns one number per channel of its group"
        )
    return _top(score, width)


def _top(score: torch.Tensor, width: int) -> tuple[int, ...]:
    """Indices of the `width` highest scores, ascending; of equal scores the lower index."""
    order = torch.argsort(score.double().cpu(), descending=True, stable=True)
    return tuple(sorted(order[:width].tolist()))
