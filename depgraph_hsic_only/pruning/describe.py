"""What a model is: task, scale, classes, cost, widths, and whether it was pruned, read from the network itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from depgraph_hsic_only.report.pruning_report import repeats_text
from depgraph_hsic_only.report.tables import Sheet, to_text
from depgraph_hsic_only.support.visible import visible
from depgraph_hsic_only.yolo.architecture import is_written_out, layer_repeats, layer_widths, origin_of
from depgraph_hsic_only.yolo.cost import Cost, measure_cost
from depgraph_hsic_only.yolo.input_shape import input_side
from depgraph_hsic_only.yolo.load import network_of
from depgraph_hsic_only.yolo.scales import StockModel, stock_model, with_classes_of
from depgraph_hsic_only.yolo.tasks import TASKS, task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

_NAMES_SHOWN = 6


@dataclass(frozen=True, repr=False)
class ModelInfo:
    """What a YOLO network is, counted on the network.

    Attributes:
        task: "segment", "detect", "pose" or "obb".
        classes: Names of the classes, in the order of their numbers.
        cost: Parameters and multiply-adds, in all and by part.
        widths: Number of channels by width (see `yolo.blocks.Width`).
        pruned: Whether channels were cut, or repeats left out; None where the model's YAML doesn't tell.
        pruned_from: What it was cut from, as its YAML says: "from" (a name, or None), "classes" and "parameters"
            (numbers), "widths", and "repeats" where some were left out; None where it doesn't say.
        origins: The stock model that it is, or was cut from, for its own number of classes; empty where it is none of
            them.
        repeats: Number of repeats by layer, such as "d6", of the layers that some can be left out of.
    """

    task: str
    classes: tuple[str, ...]
    cost: Cost
    widths: Mapping[str, int]
    pruned: bool | None
    pruned_from: Mapping[str, Any] | None
    origins: tuple[StockModel, ...]
    repeats: Mapping[str, int]

    @property
    def scale(self) -> str | None:
        """ "n", "s", "m", "l" or "x"; None where it is none of them."""
        return self.origins[0].scale if self.origins else None

    @property
    def verdict(self) -> str:
        """Whether it was pruned and from what, for people."""
        if self.pruned is None:
            return (
                "can't be told: its widths are written out one by one, and nothing says what they were; cut by an "
                "earlier version or by hand"
            )
        if not self.pruned or self.pruned_from is None:
            return "no" if self.origins else "no; its widths are those of its own YAML and of no stock scale"
        cost = self.cost
        if self.origins:
            name, full = self.origins[0].name, self.origins[0].cost
            macs = f", {cost.gmacs / full.gmacs:.1%} of its multiply-adds"
            return f"yes, from {name}: {cost.parameters / full.parameters:.1%} of its parameters{macs}"
        name, classes = self.pruned_from["from"] or "a model of no stock scale", self.pruned_from["classes"]
        if classes != len(self.classes):
            return f"yes, from {name}, which had {classes} classes"
        return f"yes, from {name}: {cost.parameters / self.pruned_from['parameters']:.1%} of its parameters"

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        return {
            "task": self.task,
            "scale": self.scale,
            "classes": list(self.classes),
            **asdict(self.cost),
            "widths": dict(self.widths),
            "repeats": dict(self.repeats),
            "pruned": self.pruned,
            "pruned_from": None if self.pruned_from is None else dict(self.pruned_from),
            "origins": [origin.to_dict() for origin in self.origins],
        }

    def __str__(self) -> str:
        return to_text(self, width=120)

    __repr__ = __str__

    def __rich__(self) -> Group:
        more = len(self.classes) - _NAMES_SHOWN
        names = ", ".join(self.classes[:_NAMES_SHOWN]) + (f" … and {more} more" if more > 0 else "")
        facts = Table.grid(padding=(0, 2))
        left = repeats_text((self.pruned_from or {}).get("repeats", self.repeats), self.repeats)
        for name, value in {
            "task": TASKS[self.task].noun,
            "scale": " or ".join(origin.scale for origin in self.origins) or "none of the stock ones",
            "classes": f"{len(self.classes)}: {names}",
            "imgsz": f"{self.cost.imgsz} px",
            "parameters": f"{self.cost.parameters:,}",
            "GMACs": f"{self.cost.gmacs:.3f}",
            "pruned": self.verdict,
            **({"repeats": left} if left else {}),
        }.items():
            facts.add_row(Text(name, "bold"), Text(visible(value)))
        # Beside the model's own figures stand those of the origins that differ.
        now = self.widths, self.repeats
        others = [origin for origin in self.origins if (origin.widths, origin.repeats) != now]
        return Group(facts, self._parts(others), self._widths(others))

    def _parts(self, others: Sequence[StockModel]) -> Sheet:
        costs, above = (self.cost, *(origin.cost for origin in others)), "\n" if others else ""
        headings = ["", f"{above}parameters", f"{above}GMACs"]
        headings += [heading for origin in others for heading in (f"{origin.name}\nparameters", "\nGMACs")]
        rows = tuple(
            (parts[0].name, *(text for part in parts for text in (f"{part.parameters:,}", f"{part.gmacs:.3f}")))
            for parts in zip(*(cost.parts for cost in costs), strict=True)
        )
        title = f"Cost by part, GMACs at {self.cost.imgsz} px"
        return Sheet(title, tuple(headings), rows, "l" + "r" * 2 * len(costs))

    def _widths(self, others: Sequence[StockModel]) -> Sheet:
        headings = ["layer", "width", "channels", *(text for origin in others for text in (origin.name, "left"))]
        rows = []
        for name, width in self.widths.items():
            full = [origin.widths[name] for origin in others]
            figures = [text for f in full for text in (f"{f:,}", f"{width / f:.1%}")]
            rows.append((name[1:] if name[1:].isdecimal() else "head", name, f"{width:,}", *figures))
        return Sheet("Widths", tuple(headings), tuple(rows), "r" * len(headings))


def describe(model: Yolo | Network, imgsz: int | None = None) -> ModelInfo:
    """Say what a YOLO model is; the model is left as it is.

    What a model was cut from stands in its YAML, where `cut` writes it.

    Args:
        model: A `YOLO`, or its network, of any scale, class count and widths.
        imgsz: Side of the square image that multiply-adds are of, pixels; None for the model's own, 640 where it has
            none. Rounded up to the network's stride.

    Raises:
        UnsupportedModelError: The model is no unmodified YOLO network.
        ConfigError: `imgsz` is no side of an image.
    """
    network = network_of(model)
    side, known = input_side(model, imgsz), origin_of(network)
    widths, repeats = layer_widths(network), layer_repeats(network)
    before = widths, repeats
    if known is not None:
        before = with_classes_of(network, known), known.get("repeats", repeats)
    stock = stock_model(network, *before, imgsz=side)
    pruned = None if known is None and is_written_out(network.yaml) else before != (widths, repeats)
    classes, origins = tuple(map(str, network.names.values())), () if stock is None else (stock,)
    cost = measure_cost(network, side)
    return ModelInfo(task_of(network).name, classes, cost, widths, pruned, known, origins, repeats)
