"""What a model is: task, scale, classes, cost, widths, and whether it was pruned, read from the network itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text
from ultralytics.engine.model import Model
from ultralytics.nn.modules import Segment

from depgraph_hsic_only.channels.cut import network_of
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.report.tables import Sheet, to_text
from depgraph_hsic_only.yolo.architecture import is_written_out, layer_widths
from depgraph_hsic_only.yolo.cost import Cost, measure_cost
from depgraph_hsic_only.yolo.load import own_imgsz
from depgraph_hsic_only.yolo.scales import StockModel, recorded, stock_models

_NAMES_SHOWN = 6


@dataclass(frozen=True, repr=False)
class ModelInfo:
    """What a YOLOv8 network is, counted on the network.

    Attributes:
        task: "segment" or "detect".
        classes: Names of the classes, in the order of their numbers.
        cost: Parameters and multiply-adds, in all and by part.
        widths: Number of channels by width group (see `graph.WidthGroup`).
        pruned: Whether channels were cut; None where the network doesn't tell.
        origins: The stock models that it is, or may have been cut from, smallest first; empty where none fits.
    """

    task: str
    classes: tuple[str, ...]
    cost: Cost
    widths: Mapping[str, int]
    pruned: bool | None
    origins: tuple[StockModel, ...]

    @property
    def scale(self) -> str | None:
        """ "n", "s", "m", "l" or "x"; None where no scale fits or more than one does."""
        return self.origins[0].scale if len(self.origins) == 1 else None

    @property
    def verdict(self) -> str:
        """Whether it was pruned and from what, for people."""
        names = [origin.name for origin in self.origins]
        if self.pruned is False:
            return "no" if names else "no; its widths are those of its own YAML and of no YOLOv8 scale"
        if self.pruned is None and not names:
            return "can't be told: its widths are written out one by one, as a cut leaves them, but fit no YOLOv8 scale"
        left = [self.cost.parameters / origin.cost.parameters for origin in self.origins]
        if self.pruned is None:
            return (
                f"can't be told: its widths are those of {names[0]}, but written out one by one, as a cut leaves them; "
                f"it is {names[0]}, or what was left of {names[1]} ({left[1]:.1%} of its parameters)"
            )
        if len(names) == 1:
            gmacs = self.cost.gmacs / self.origins[0].cost.gmacs
            return f"yes, from {names[0]}: {left[0]:.1%} of its parameters, {gmacs:.1%} of its multiply-adds"
        shares = [f"{name} ({share:.1%} of its parameters)" for name, share in zip(names, left, strict=True)]
        return f"yes, from {' or '.join(shares)}: its widths don't tell which"

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain lists, dicts, strings and numbers."""
        return {
            "task": self.task,
            "scale": self.scale,
            "classes": list(self.classes),
            **asdict(self.cost),
            "widths": dict(self.widths),
            "pruned": self.pruned,
            "origins": [origin.to_dict() for origin in self.origins],
        }

    def __rich__(self) -> Group:
        return Group(self._facts(), self._parts(), self._widths())

    def __str__(self) -> str:
        return to_text(self, width=120)

    __repr__ = __str__

    def _facts(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, value in {
            "task": {"segment": "segmentation", "detect": "detection"}[self.task],
            "scale": " or ".join(origin.scale for origin in self.origins) or "none of YOLOv8's",
            "classes": _shortened(self.classes),
            "imgsz": f"{self.cost.imgsz} px",
            "parameters": f"{self.cost.parameters:,}",
            "GMACs": f"{self.cost.gmacs:.3f}",
            "pruned": self.verdict,
        }.items():
            table.add_row(Text(name, "bold"), Text(value))
        return table

    def _parts(self) -> Sheet:
        costs, above = (self.cost, *(origin.cost for origin in self._others)), "\n" if self._others else ""
        headings = ["", f"{above}parameters", f"{above}GMACs"]
        headings += [heading for origin in self._others for heading in (f"{origin.name}\nparameters", "\nGMACs")]
        rows = tuple(
            (parts[0].name, *(text for part in parts for text in (f"{part.parameters:,}", f"{part.gmacs:.3f}")))
            for parts in zip(*(cost.parts for cost in costs), strict=True)
        )
        title = f"Cost by part, GMACs at {self.cost.imgsz} px"
        return Sheet(title, tuple(headings), rows, "l" + "r" * 2 * len(costs))

    def _widths(self) -> Sheet:
        headings = ["layer", "width", "channels", *(text for origin in self._others for text in (origin.name, "left"))]
        rows = []
        for name, width in self.widths.items():
            full = [origin.widths[name] for origin in self._others]
            figures = [text for f in full for text in (f"{f:,}", f"{width / f:.1%}")]
            rows.append((name[1:] if name[1:].isdecimal() else "head", name, f"{width:,}", *figures))
        return Sheet("Widths", tuple(headings), tuple(rows), "r" * len(headings))

    @property
    def _others(self) -> Sequence[StockModel]:
        """The origins that differ: what stands beside the model's own figures."""
        return [origin for origin in self.origins if origin.widths != self.widths]


def describe(model: Any, imgsz: int | None = None) -> ModelInfo:
    """Say what a YOLOv8 model is; the model is left as it is.

    A network was pruned where its YAML has every width written out, as a cut leaves it, and is narrower than the YOLOv8
    scale that it came from (see `stock.py`). Where more than one scale fits, all of them are named.

    Args:
        model: A `YOLO`, or its SegmentationModel or DetectionModel, of any scale, class count and widths.
        imgsz: Side of the square image that multiply-adds are of, pixels; None for the model's own, 640 where it has
            none. Rounded up to the network's stride.

    Raises:
        UnsupportedModelError: The model is no unmodified YOLOv8 network.
        ConfigError: `imgsz` is no side of an image.
    """
    if imgsz is not None and imgsz < 32:
        raise ConfigError(f"imgsz: expected a side in pixels of at least 32, got {imgsz}")
    network = network_of(model)
    side = imgsz or (own_imgsz(model) if isinstance(model, Model) else 640)
    widths = layer_widths(network)
    fitting = stock_models(network, side)
    same = tuple(stock for stock in fitting if stock.widths == widths)
    origins = recorded(network, fitting) or fitting
    pruned: bool | None = True
    if not is_written_out(network.yaml):
        pruned, origins = False, same
    elif len(origins) == 1:
        pruned = origins != same
    elif same or not fitting:
        pruned = None
    return ModelInfo(
        task="segment" if isinstance(network.model[-1], Segment) else "detect",
        classes=tuple(str(name) for name in network.names.values()),
        cost=measure_cost(network, side),
        widths=widths,
        pruned=pruned,
        origins=origins,
    )


def _shortened(names: Sequence[str]) -> str:
    """How many there are, and the first of them."""
    more = len(names) - _NAMES_SHOWN
    return f"{len(names)}: {', '.join(names[:_NAMES_SHOWN])}" + (f" … and {more} more" if more > 0 else "")
