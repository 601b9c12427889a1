"""YOLOv8's own scales: the ones that a network may have been cut from.

A cut makes widths smaller and leaves rows, sources and repeats as they are. So a network can come from a stock model
that has its rows and is nowhere narrower. That tells m, whose repeats no other scale has, and s and x where a width is
left that n and l have not. A narrower network fits two: s that is cut to half everywhere is n. What then tells them is
the name of the YAML that Ultralytics built the network from and took the scale from; the network's own YAML keeps it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Segment
from ultralytics.utils import ROOT, YAML

from depgraph_hsic_only.yolo.architecture import layer_widths, repeats, skeleton
from depgraph_hsic_only.yolo.cost import Cost, measure_cost, on_meta

SCALES = ("n", "s", "m", "l", "x")


@dataclass(frozen=True)
class StockModel:
    """A model as Ultralytics ships it, for the number of classes of another network.

    Attributes:
        name: As Ultralytics calls it, such as "yolov8n-seg".
        scale: "n", "s", "m", "l" or "x".
        widths: Its widths by width group.
        cost: Its parameters and multiply-adds.
    """

    name: str
    scale: str
    widths: Mapping[str, int]
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain dicts, strings and numbers."""
        return {"name": self.name, "scale": self.scale, **asdict(self.cost), "widths": dict(self.widths)}


def stock_models(network: Any, imgsz: int) -> tuple[StockModel, ...]:
    """The stock models of a network's task that have its rows and are nowhere narrower, smallest first.

    Args:
        network: A YOLOv8 SegmentationModel or DetectionModel of any widths.
        imgsz: Side of the square image that their multiply-adds are of, pixels.
    """
    widths = layer_widths(network)
    suffix = "-seg" if isinstance(network.model[-1], Segment) else ""
    yaml = YAML.load(ROOT / "cfg" / "models" / "v8" / f"yolov8{suffix}.yaml")  # never one of that name lying about
    found = []
    for scale in SCALES:
        stock = _stock_network(network, yaml | {"scale": scale})
        full = layer_widths(stock)
        if _rows(stock) == _rows(network) and all(width <= full[group] for group, width in widths.items()):
            found.append(StockModel(f"yolov8{scale}{suffix}", scale, full, measure_cost(stock, imgsz)))
    return tuple(found)


def recorded(network: Any, models: Sequence[StockModel]) -> tuple[StockModel, ...]:
    """The one of the models that Ultralytics built the network from, as its YAML says; none where it doesn't say."""
    name = Path(network.yaml.get("yaml_file", "")).stem
    return tuple(model for model in models if model.name == name)


def _rows(network: Any) -> list[tuple[type, Any, int]]:
    return [(type(layer), layer.f, repeats(layer)) for layer in network.model]


def _stock_network(network: Any, yaml: dict[str, Any]) -> Any:
    """The network of a stock YAML for the classes and image channels of `network`, shapes without numbers.

    Where `network` was transferred from a model of more classes, its class branch has the hidden width of that one
    (see `architecture.stock_yaml`), and so has the result.
    """
    classes, hidden = network.model[-1].nc, layer_widths(network)["class"]
    stock = on_meta(network)
    stock.yaml = yaml | {"nc": max(classes, hidden), "channels": network.yaml.get("channels", 3)}
    stock.model, stock.save = skeleton(stock.yaml)
    head = stock.model[-1]
    head.nc, head.no = classes, head.no - head.nc + classes
    for branch in head.cv3:
        branch[-1] = nn.Conv2d(branch[-1].in_channels, classes, 1, device=torch.device("meta"))
    return stock
