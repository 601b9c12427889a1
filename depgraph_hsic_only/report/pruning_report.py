"""What a cut did, as a value that shows itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.recovery.recover import Recovery
from depgraph_hsic_only.report.tables import Sheet, Shown
from depgraph_hsic_only.yolo.architecture import Layer, layer_repeats, layer_widths
from depgraph_hsic_only.yolo.cost import Cost, PartCost
from depgraph_hsic_only.yolo.types import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARRIED = 1.0  # divergence elsewhere up to which nearly all objects are found again: 4 is about half of them
STABLE = 0.8  # agreement of two halves of the images above which more of them change little


@dataclass(frozen=True, repr=False)
class PruningReport(Shown):
    """What was cut from a model, counted on the model itself.

    Attributes:
        plan: What was cut, with the widths before and after.
        before: Cost of the model before the cut.
        after: Cost of the model after the cut.
        layers: All layers of the network.
        widths_before: All its widths, by width group, before the cut, and those repeats that the cut has changed.
        widths_after: The same after the cut; 0 of what was in nothing but blocks that are left out.
        scores: Importance of each channel by channel group; empty where a plan was applied that had been made before.
        stability: How well the scores of two halves of the calibration images agree, in [0, 1] (see
            `channels.plan.selection_stability`); None where it was not measured.
        recovery: What brought the cut model back; None where nothing did.
        elsewhere: How far the predictions have moved on images that the recovery has not seen, which those that it has
            seen don't tell where they are few (see `recovery.divergence`); None where it was not measured.
    """

    plan: PruningPlan
    before: Cost
    after: Cost
    layers: tuple[Layer, ...]
    widths_before: Mapping[str, int]
    widths_after: Mapping[str, int]
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    stability: float | None = None
    recovery: Recovery | None = None
    elsewhere: float | None = None

    def summary(self) -> str:
        """What was saved, and what it has cost where that is known, in one line."""
        parameters = change_text(self.before.parameters, self.after.parameters, "parameters")
        gmacs = change_text(self.before.gmacs, self.after.gmacs, "multiply-adds")
        moved = "" if self.elsewhere is None else f"; {elsewhere_text(self.elsewhere)}"
        return f"{parameters}, {gmacs} (widths by {self.plan.criterion}){moved}"

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        return {
            "criterion": self.plan.criterion,
            "layers": list(self.plan.layers),
            "imgsz": self.before.imgsz,
            "parameters": {"before": self.before.parameters, "after": self.after.parameters},
            "gmacs": {"before": self.before.gmacs, "after": self.after.gmacs},
            "parts": {"before": [asdict(p) for p in self.before.parts], "after": [asdict(p) for p in self.after.parts]},
            "widths": {"before": self.plan.before, "after": self.plan.after},
            "scores": {name: list(scores) for name, scores in self.scores.items()},
            "stability": self.stability,
            "recovery": self.recovery.to_dict() if self.recovery else None,
            "elsewhere": self.elsewhere,
        }

    def plot(self) -> "Figure":
        """The network with what is left of every width; `utils.plots.plot_scores(report.scores)` draws the scores."""
        from depgraph_hsic_only.report.figures.network import plot_network  # matplotlib takes a while to import

        return plot_network(self.widths_before, self.widths_after, self.layers)

    def __rich__(self) -> Group:
        lines = [] if self.stability is None else [f"Calibration: {stability_text(self.stability)}"]
        repeats = repeats_text(self.widths_before, self.widths_after)
        lines += [f"Repeats of {repeats}"] if repeats else []
        lines += [f"Recovery: {self.recovery}"] if self.recovery else []
        lines += [] if self.elsewhere is None else [f"Elsewhere: {elsewhere_text(self.elsewhere)}"]
        costs = (cost_table(self.before, self.after), part_table(self.before.parts, self.after.parts))
        return Group(*costs, width_table(self.plan), *map(Text, lines))


def cost_table(before: Cost, after: Cost) -> Sheet:
    """Parameters and multiply-adds before and after, in full."""
    rows = (
        ("parameters", *_change(before.parameters, after.parameters, ",")),
        (f"GMACs at {before.imgsz} px", *_change(before.gmacs, after.gmacs, ".3f")),
    )
    return Sheet("Cost", ("", "before", "after", "left"), rows, "lrrr")


def part_table(before: Sequence[PartCost], after: Sequence[PartCost]) -> Sheet:
    """Parameters and multiply-adds by part of the network, before and after."""
    rows = tuple(
        (b.name, *_change(b.parameters, a.parameters, ","), *_change(b.gmacs, a.gmacs, ".3f"))
        for b, a in zip(before, after, strict=True)
    )
    headings = ("", "parameters\nbefore", "\nafter", "\nleft", "GMACs\nbefore", "\nafter", "\nleft")
    return Sheet("Cost by part", headings, rows, "lrrrrrr")


def _change(before: float, after: float, form: str) -> tuple[str, str, str]:
    return format(before, form), format(after, form), f"{after / before:.1%}"


def width_table(plan: PruningPlan) -> Sheet:
    """Each width before and after, and why."""
    rows = tuple((str(w.layer), w.name, f"{w.before:,}", f"{w.after:,}", w.reason) for w in plan.widths)
    return Sheet(f"Widths by {plan.criterion}", ("layer", "width", "before", "after", "why"), rows, "rrrrt")


def compared_widths(before: Network, after: Network) -> tuple[dict[str, int], dict[str, int]]:
    """All widths of a network before and after a cut, by name, and those repeats that the cut has changed.

    A width that was in nothing but blocks that are left out is 0 after it.
    """
    full, left = layer_widths(before) | layer_repeats(before), layer_widths(after) | layer_repeats(after)
    same = {name for name, repeats in layer_repeats(before).items() if left[name] == repeats}
    shown = [name for name in full if name not in same]
    return {name: full[name] for name in shown}, {name: left.get(name, 0) for name in shown}


def repeats_text(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Those repeats among some widths that have changed, such as "layer 4: 2 -> 1, layer 6: 2 -> 0"."""
    names = (name for name in before if name.startswith("d") and after[name] != before[name])
    return ", ".join(f"layer {name[1:]}: {before[name]} -> {after[name]}" for name in names)


def change_text(before: float, after: float, what: str) -> str:
    """How much less or more of something there is, such as "43 % fewer parameters"."""
    change = round(100 * (1 - after / before))
    if change == 0:
        return f"as many {what}" if after == before else f"almost as many {what}"
    return f"{abs(change)} % {'fewer' if change > 0 else 'more'} {what}"


def elsewhere_text(elsewhere: float) -> str:
    """What the divergence on images that the recovery has not seen means, and what to do about it, for people."""
    if elsewhere > CARRIED:
        what = f"more than {CARRIED:g}: many objects are lost there; cut less, or pass more images="
    else:
        what = f"at most {CARRIED:g}: hardly any object is lost; more images= carry a larger cut"
    return f"on images that the re-fit has not seen the predictions move by {elsewhere:.2g} ({what})"


def stability_text(stability: float) -> str:
    """What the agreement of two halves of the calibration images means, for people."""
    more = "; more images would settle the rest" if stability < STABLE else ""
    return f"two halves of the images agree on {stability:.0%} of the channels that stay{more}"
