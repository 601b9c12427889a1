"""Which criterion, how far, and on what: a rule that reads nothing but the table.

1. At each target, size of images and precision, the criterion with the highest mAP50-95 at the end, in the mean over
   the seeds that all criteria have there; of equal ones the one named first. All mAPs here are of the kind that counts
   most (see `tasks.Task`).
2. Its lead over the next one is significant where the 95 % interval of their difference (paired bootstrap over the
   validation images, see `bootstrap.py`) lies above 0, and it is ahead with every seed. Each interval is for one pair,
   not for all pairs together. With one seed nothing is known of what another draw of calibration images would change.
3. The size is the smallest target whose best criterion loses at most `max_map_drop` of the control's mAP50-95, as
   measured; where the loss's interval reaches past that, the text says so. Smallest by the targets' own metric where
   they have one in common that tells all models apart, else by parameters; by latency, where sizes of images or
   precisions vary. The unpruned model at other sizes and precisions is among them. Where nothing is within the loss,
   none is recommended.
4. Within a budget it is the model with the highest mAP50-95 of all, and what is lost without the axes is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depgraph_hsic_only.channels.budgets import Budget
from depgraph_hsic_only.comparison.choices import Choice, Difference, choices_in
from depgraph_hsic_only.comparison.options import MAX_MAP_DROP
from depgraph_hsic_only.comparison.table import Row, controls
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT

FIELDS = {"params": "parameters", "gmacs": "gmacs", "latency": "latency_ms"}  # of a row, by the metric of a budget
_CHEAPEST = {"parameters": "with the fewest parameters", "gmacs": "with the fewest multiply-adds"}
_CHEAPEST |= {"latency_ms": "with the lowest latency"}
_AXES = {"width": "width", "imgsz": "image size", "precision": "precision"}


@dataclass(frozen=True)
class Within:
    """What to take within a budget.

    Attributes:
        budget: As it was given.
        chosen: The model with the highest mAP50-95 of those within it; None where none is.
        alone: The same of the models that spend less by one thing alone, by that thing, where there are any: "width",
            "imgsz", "precision".
    """

    budget: str
    chosen: Choice | None
    alone: Mapping[str, Choice | None]

    @property
    def lines(self) -> tuple[str, ...]:
        """It and its reasons, for people."""
        if self.chosen is None:
            return (f"Within {self.budget}: no compared model is known to be.",)
        best = self.chosen
        plain = ", which no cut one within it beats" if best.target is None else ""
        first = (
            f"Within {self.budget}: take {best.named}{plain}, {best.kind} mAP50-95 {best.map50_95:.3f}; {best.costs}."
        )
        return (first, *(self._without(axis, choice, best) for axis, choice in self.alone.items()))

    @staticmethod
    def _without(axis: str, choice: Choice | None, best: Choice) -> str:
        if choice is None:
            return f"By {_AXES[axis]} alone: no compared model is within it."
        if choice is best:
            return f"By {_AXES[axis]} alone: the same."
        less = Difference.of(best.rows, choice.rows) if len(best.rows) == len(choice.rows) else None
        lost = less or f"{best.map50_95 - choice.map50_95:.3f}"
        return f"By {_AXES[axis]} alone: {choice.named}, {choice.map50_95:.3f}, less by {lost}; {choice.costs}."

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        alone = {axis: choice and choice.to_dict() for axis, choice in self.alone.items()}
        return {"budget": self.budget, "chosen": self.chosen and self.chosen.to_dict(), "alone": alone}


@dataclass(frozen=True)
class Recommendation:
    """What to take.

    Attributes:
        max_map_drop: The largest loss of primary mAP50-95 that is allowed.
        choices: Of the cut models.
        chosen: The smallest of all within the loss; None where none is.
        size: Field of a row that is smallest.
        others: Those of the unpruned model at other sizes of images and precisions.
        within: What to take within a budget, where there is one.
        beaten: Where the unpruned model on smaller images is better than cut ones, in words.
    """

    max_map_drop: float
    choices: tuple[Choice, ...]
    chosen: Choice | None
    size: str = "parameters"
    others: tuple[Choice, ...] = ()
    within: Within | None = None
    beaten: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The recommendation and its reasons, for people."""
        first = self.within.lines if self.within else ()
        if not (self.choices or self.others):
            return (*first, "No recommendation: no target has a seed that all of its criteria have finished.")
        notes = ["Intervals: 95 %, paired bootstrap over the validation images, for each pair on its own."]
        if min((choice.seeds for choice in self.choices), default=2) == 1:
            notes.append(
                "One seed: what another draw of calibration images would change was not measured; --seeds 3 does that."
            )
        return (*first, self._advice(), *self.beaten, *map(str, self.choices), *notes)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "max_map_drop": self.max_map_drop,
            "choices": [choice.to_dict() for choice in self.choices],
            "chosen": self.chosen and self.chosen.to_dict(),
            "within": self.within and self.within.to_dict(),
            "lines": list(self.lines),
        }

    def _advice(self) -> str:
        compared = (*self.choices, *self.others)
        allowed = f"at most {self.max_map_drop:g} of {compared[0].kind} mAP50-95"
        if self.chosen is None:
            known = [(choice.loss.mean, choice) for choice in compared if choice.loss is not None]
            if not known:
                return "No size is recommended: there is no unpruned control that finds anything."
            least, choice = min(known, key=lambda pair: pair[0])
            whose = f"{choice.criterion}'s at {choice.where}" if choice.target else f"that of {choice.named}"
            return (
                f"No size is recommended: none loses {allowed}. The least, {least:.3f}, is {whose}. Cut less, "
                "fine-tune (--fine-tune-epochs), or allow more (--max-map-drop)."
            )
        chosen, loss = self.chosen, self.chosen.loss
        what = f"the compared model {_CHEAPEST[self.size]}" if self.others else "the smallest compared size"
        advice = f"Take {chosen.named}: {what} that loses {allowed}: {loss}"
        if loss is not None and loss.interval[1] > self.max_map_drop:
            advice += "; the interval reaches past that, so it may lose more"
        if chosen.lead is not None and not chosen.told_apart:
            advice += f". {chosen.runner_up} may be as good there: the difference is not significant"
        return advice + "."


def recommend(
    rows: Sequence[Row],
    max_map_drop: float = MAX_MAP_DROP,
    imgsz: int | None = None,
    budgets: Sequence[Budget] = (),
) -> Recommendation:
    """Apply the rule to the rows of cut models and unpruned ones.

    Args:
        rows: The table.
        max_map_drop: The largest loss that is allowed, in [0, 1].
        imgsz: Side of the images of the control, in float.
        budgets: What a model may cost, all of them; shares are of the control.
    """
    control = controls(rows, imgsz)
    size = _size([row for row in rows if row not in control], imgsz)
    found = choices_in(rows, control, size)
    cut = tuple(choice for choice in found if choice.target is not None)
    unpruned = [choice for choice in found if choice.target is None]
    others = tuple(choice for choice in unpruned if choice.setting != (None, imgsz, FLOAT))
    good = [c for c in (*cut, *others) if c.loss is not None and c.loss.mean <= max_map_drop]
    chosen = min(good, key=lambda choice: (choice.size, -choice.map50_95), default=None)
    beaten = tuple(line for c in others if imgsz and c.imgsz and c.imgsz < imgsz for line in _beaten(c, cut, size))
    within = _within(budgets, found, imgsz) if budgets else None
    return Recommendation(max_map_drop, cut, chosen, size, others, within, beaten)


def _size(rows: Sequence[Row], imgsz: int | None) -> str:
    """What the rows of all models but the control are compared by: see rule 3."""
    targets = {row.target for row in rows if row.target is not None}
    metrics = {budget.partition("=")[0] for target in targets for budget in target.split("+")}
    size = FIELDS.get(metrics.pop(), "parameters") if len(metrics) == 1 else "parameters"
    resized, reduced = any(row.imgsz != imgsz for row in rows), any(row.precision != FLOAT for row in rows)
    if reduced or (resized and size == "parameters"):
        size = "latency_ms"
    if all(getattr(row, size) is not None for row in rows):
        return size
    return "gmacs" if resized else "parameters"  # which are always known


def _beaten(unpruned: Choice, cut: Sequence[Choice], size: str) -> list[str]:
    """What is to be said where no cut model of its cost is as accurate, and one that costs more is no better."""
    cheaper = [choice for choice in cut if choice.size <= unpruned.size]
    worse = [c for c in cut if c.size >= unpruned.size and c.map50_95 <= unpruned.map50_95]
    if not worse or any(choice.map50_95 >= unpruned.map50_95 for choice in cheaper):
        return []
    best = max(worse, key=lambda choice: choice.map50_95)
    unit = {"latency_ms": "ms", "gmacs": "GMACs"}[size]
    return [
        f"T{unpruned.named[1:]} beats all cut models at its cost: {unpruned.kind} mAP50-95 {unpruned.map50_95:.3f} at "
        f"{unpruned.size:.3g} {unit}, where {best.named} has {best.map50_95:.3f} at {best.size:.3g} {unit}."
    ]


def _within(budgets: Sequence[Budget], choices: Sequence[Choice], imgsz: int | None) -> Within:
    """The best choice within budgets, of all and by each thing alone."""
    control = next((choice for choice in choices if choice.setting == (None, imgsz, FLOAT)), None)

    def meets(choice: Choice) -> bool:
        for budget in budgets:
            cost: float | None = getattr(choice, FIELDS[budget.metric])
            full: float | None = None if control is None else getattr(control, FIELDS[budget.metric])
            if cost is None or (full is None and not budget.absolute) or cost > budget.limit(full or 0.0):
                return False
        return True

    def best(among: Sequence[Choice]) -> Choice | None:
        return max(filter(meets, among), key=lambda choice: choice.map50_95, default=None)

    alone = {
        "width": [c for c in choices if c.setting[1:] == (imgsz, FLOAT) and c.target is not None],
        "imgsz": [c for c in choices if c.target is None and c.precision == FLOAT and c.imgsz != imgsz],
        "precision": [c for c in choices if c.setting[:2] == (None, imgsz) and c.precision != FLOAT],
    }
    several = len({choice.setting[1:] for choice in choices}) > 1
    told_alone = {axis: best(found) for axis, found in alone.items() if found and several}
    return Within(" and ".join(map(str, budgets)), best(choices), told_alone)
