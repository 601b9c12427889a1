"""Which criterion, and how far: a rule that reads nothing but the table.

1. At each target, the criterion with the highest mAP50-95 at the end, in the mean over the seeds that all criteria have
   there; of equal ones the one named first. All mAPs here are of the kind that counts most (see `tasks.Task`).
2. Its lead over the next one is significant where the 95 % interval of their difference (paired bootstrap over the
   validation images, see `bootstrap.py`) lies above 0, and it is ahead with every seed. Each interval is for one pair,
   not for all pairs together. With one seed nothing is known of what another draw of calibration images would change.
3. The size is the smallest target whose best criterion loses at most `max_map_drop` of the control's mAP50-95, as
   measured; where the loss's interval reaches past that, the text says so. Smallest by the targets' own metric where
   they have one in common, else by parameters. Where no target is within the loss, none is recommended.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from depgraph_hsic_only.comparison.options import MAX_MAP_DROP
from depgraph_hsic_only.comparison.table import Row
from depgraph_hsic_only.evaluation.bootstrap import Interval, paired_interval

_SIZES = {"params": "parameters", "gmacs": "gmacs", "latency": "latency_ms"}  # a target's metric: what sizes go by


@dataclass(frozen=True)
class Difference:
    """Of two mAP50-95, in the mean over seeds."""

    mean: float  # as measured on all validation images
    interval: Interval  # 95 %, by paired bootstrap over these

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"


@dataclass(frozen=True)
class Choice:
    """The best criterion at one target, with means over seeds."""

    target: str
    criterion: str
    kind: str  # of the predictions whose mAP50-95 it is
    map50_95: float
    size: float  # what sizes are compared by: parameters, GMACs or milliseconds
    seeds: int
    unpruned: float | None  # mAP50-95 of the control; None, as is the loss, where it is missing or 0
    loss: Difference | None  # of the control's mAP50-95
    runner_up: str | None  # the next criterion; None where only one was compared
    lead: Difference | None  # over the next one's mAP50-95
    told_apart: bool  # whether the lead is significant

    def __str__(self) -> str:
        kept = f", {self.map50_95 / self.unpruned:.2f} of the unpruned {self.unpruned:.3f}" if self.unpruned else ""
        said = f"{self.target}: {self.criterion} has the best {self.kind} mAP50-95, {self.map50_95:.3f}{kept}; "
        if self.lead is None:
            return said + "no other criterion was compared"
        if self.told_apart:
            return said + f"its lead over the next, {self.runner_up}, is significant: {self.lead}"
        return said + f"its lead over the next, {self.runner_up}, is not significant: {self.lead}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values; the mAP50-95 by its kind of prediction."""
        known = asdict(self)
        kind = known.pop("kind")
        return {kind if name == "map50_95" else name: value for name, value in known.items()}


@dataclass(frozen=True)
class Recommendation:
    """What to take: the smallest of the choices within the allowed loss of primary mAP50-95; None where none is."""

    max_map_drop: float
    choices: tuple[Choice, ...]
    chosen: Choice | None

    @property
    def lines(self) -> tuple[str, ...]:
        """The recommendation and its reasons, for people."""
        if not self.choices:
            return ("No recommendation: no target has a seed that all of its criteria have finished.",)
        notes = ["Intervals: 95 %, paired bootstrap over the validation images, for each pair on its own."]
        if min(choice.seeds for choice in self.choices) == 1:
            notes.append(
                "One seed: what another draw of calibration images would change was not measured; --seeds 3 does that."
            )
        return (self._advice(), *map(str, self.choices), *notes)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "max_map_drop": self.max_map_drop,
            "choices": [choice.to_dict() for choice in self.choices],
            "chosen": self.chosen and self.chosen.to_dict(),
            "lines": list(self.lines),
        }

    def _advice(self) -> str:
        allowed = f"at most {self.max_map_drop:g} of {self.choices[0].kind} mAP50-95"
        if self.chosen is None:
            known = [(choice.loss.mean, choice) for choice in self.choices if choice.loss is not None]
            if not known:
                return "No size is recommended: there is no unpruned control that finds anything."
            least, choice = min(known, key=lambda pair: pair[0])
            return (
                f"No size is recommended: none loses {allowed}. The least, {least:.3f}, is {choice.criterion}'s at "
                f"{choice.target}. Cut less, fine-tune (--fine-tune-epochs), or allow more (--max-map-drop)."
            )
        chosen, loss = self.chosen, self.chosen.loss
        advice = f"Take {chosen.criterion} at {chosen.target}: the smallest compared size that loses {allowed}: {loss}"
        if loss is not None and loss.interval[1] > self.max_map_drop:
            advice += "; the interval reaches past that, so it may lose more"
        if chosen.lead is not None and not chosen.told_apart:
            advice += f". {chosen.runner_up} may be as good there: the difference is not significant"
        return advice + "."


def recommend(rows: Sequence[Row], max_map_drop: float = MAX_MAP_DROP) -> Recommendation:
    """Apply the rule to the rows of cut models and controls, with the largest loss that is allowed, in [0, 1]."""
    control = [row for row in rows if row.target is None]
    cut = [row for row in rows if row.target is not None]
    targets = list(dict.fromkeys(row.target for row in cut if row.target is not None))
    metrics = {budget.partition("=")[0] for target in targets for budget in target.split("+")}
    size = _SIZES.get(metrics.pop(), "parameters") if len(metrics) == 1 else "parameters"
    if any(getattr(row, size) is None for row in cut):
        size = "parameters"  # which is always known
    found = (_choose([row for row in cut if row.target == target], control, size) for target in targets)
    choices = tuple(choice for choice in found if choice is not None)
    within = [choice for choice in choices if choice.loss is not None and choice.loss.mean <= max_map_drop]
    return Recommendation(max_map_drop, choices, min(within, key=lambda c: (c.size, -c.map50_95), default=None))


def _choose(rows: Sequence[Row], control: Sequence[Row], size: str) -> Choice | None:
    """The best criterion of the rows of one target; None where there is no seed that all criteria have."""
    by_criterion: dict[str, dict[int | None, Row]] = {}
    for row in rows:
        by_criterion.setdefault(row.criterion, {})[row.seed] = row
    first, *others = by_criterion.values()
    seeds = [seed for seed in first if all(seed in found for found in others)]
    if not seeds:
        return None
    cells = {criterion: [found[seed] for seed in seeds] for criterion, found in by_criterion.items()}
    best, *rest = sorted(cells, key=lambda criterion: -_mean(cells[criterion]))  # stable: of equal ones the first
    lead, ahead = _difference(cells[best], cells[rest[0]]) if rest else None, False
    if lead is not None:
        pairs = zip(cells[best], cells[rest[0]], strict=True)
        ahead = lead.interval[0] > 0 and all(own.primary > other.primary for own, other in pairs)
    unpruned = [row for row in control if row.seed is None or row.seed in seeds]
    works = any(row.primary > 0 for row in unpruned)  # a share or a loss of nothing means nothing
    reference, loss = (_mean(unpruned), _difference(unpruned, cells[best])) if works else (None, None)
    primary, size_of_best = _mean(cells[best]), statistics.mean(getattr(row, size) for row in cells[best])
    runner_up = rest[0] if rest else None
    figures = (primary, size_of_best, len(seeds), reference, loss)
    return Choice(str(rows[0].target), best, rows[0].kinds[-1], *figures, runner_up, lead, ahead)


def _mean(rows: Sequence[Row]) -> float:
    return statistics.mean(row.primary for row in rows)


def _difference(a: Sequence[Row], b: Sequence[Row]) -> Difference:
    return Difference(_mean(a) - _mean(b), paired_interval([row.samples for row in a], [row.samples for row in b]))
