"""Ultralytics' own models, by their widths."""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from ultralytics.utils import ROOT, YAML

from depgraph_hsic_only.yolo.architecture import layer_repeats, layer_widths, skeleton
from depgraph_hsic_only.yolo.blocks import block_of, is_end_to_end, widths_of
from depgraph_hsic_only.yolo.blocks.heads import ONE_TO_ONE
from depgraph_hsic_only.yolo.cost import Cost, measure_cost, on_meta
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network

SCALES = ("n", "s", "m", "l", "x")
_FAMILIES = {"v8": "yolov8", "11": "yolo11", "12": "yolo12", "26": "yolo26"}  # by the folder of their YAML files
_VARIANTS = ("", "-p2", "-p6")


@dataclass(frozen=True)
class StockModel:
    """A model as Ultralytics ships it, for the number of classes of another network."""

    name: str  # as Ultralytics calls it, such as "yolov8n-seg"
    scale: str  # one of `SCALES`
    widths: Mapping[str, int]  # by name
    cost: Cost
    repeats: Mapping[str, int]  # by name, of the layers that some can be left out of

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain dicts, strings and numbers."""
        sizes = {"widths": dict(self.widths), "repeats": dict(self.repeats)}
        return {"name": self.name, "scale": self.scale, **asdict(self.cost), **sizes}


def stock_model(
    network: Network, widths: Mapping[str, int], repeats: Mapping[str, int], imgsz: int
) -> StockModel | None:
    """The stock model of a network's task that has its rows and these widths and repeats; None where there is none.

    They are all by name, those of the network or those that it had before it was cut; the model's multiply-adds
    are of a square image of `imgsz` pixels.
    """
    suffix, kinds = task_of(network).suffix, [row[2] for row in _rows_of(network.yaml)]
    for folder, family in _FAMILIES.items():
        for variant in _VARIANTS:
            yaml = _own_yaml(folder, f"{family}{suffix}{variant}")
            if yaml is None or [row[2] for row in _rows_of(yaml)] != kinds:
                continue
            for scale in SCALES:
                stock = _stock_network(network, yaml | {"scale": scale}, widths["class"])
                same = layer_widths(stock) == dict(widths) and layer_repeats(stock) == dict(repeats)
                if same and _rows(stock) == _rows(network):
                    name = f"{family}{scale}{suffix}{variant}"
                    return StockModel(name, scale, dict(widths), measure_cost(stock, imgsz), dict(repeats))
    return None


def with_classes_of(model: Network, origin: Mapping[str, Any]) -> dict[str, int]:
    """The widths of what `model` was cut from (see `architecture.origin_of`), for the class count of `model`.

    Of another count, the branch for the classes is as wide as Ultralytics builds it for that of `model`, unless the
    branch of `model` was taken over from one of more.
    """
    widths: dict[str, int] = dict(origin["widths"])
    if origin["classes"] == model.model[-1].nc:
        return widths
    now = {width.name: width for _, width in widths_of(model)}
    tie = now["class"].tie
    built = tie is not None and tie.rule(*tie.now) == now["class"].channels
    return {**widths, "class": tie.rule(*(widths[name] for name in tie.to))} if tie and built else widths


@functools.cache
def _own_yaml(folder: str, name: str) -> dict[str, Any] | None:
    """One of Ultralytics' own model YAML files, never one of that name lying about; None where there is none."""
    path = ROOT / "cfg" / "models" / folder / f"{name}.yaml"
    return dict(YAML.load(path)) if path.is_file() else None


def _rows_of(yaml: Mapping[str, Any]) -> list[Any]:
    return [*yaml["backbone"], *yaml["head"]]


def _rows(network: Network) -> list[tuple[type, Any, int]]:
    """The rows of a network, without the repeats of layers that some can be left out of."""
    blocks = [(block_of(layer), layer) for layer in network.model]
    return [(type(layer), layer.f, 1 if block.depth else block.repeats(layer)) for block, layer in blocks]


def _stock_network(network: Network, yaml: dict[str, Any], hidden: int) -> Network:
    """The network of a stock YAML for the classes and image channels of `network`, shapes without numbers.

    Where `network` was transferred from a model of more classes, its class branch has the hidden width of that one
    (see `architecture.stock_yaml`), and so has the result.
    """
    classes = network.model[-1].nc
    stock: Any = on_meta(network)
    own = {key: network.yaml[key] for key in ("channels", "kpt_shape") if key in network.yaml}
    stock.yaml = yaml | own | {"nc": max(classes, hidden)}
    stock.model, stock.save = skeleton(stock.yaml)
    head = stock.model[-1]
    head.nc, head.no = classes, head.no - head.nc + classes
    branches = [*head.cv3, *(getattr(head, f"{ONE_TO_ONE}cv3") if is_end_to_end(head) else ())]
    for branch in branches:
        branch[-1] = nn.Conv2d(branch[-1].in_channels, classes, 1, device=torch.device("meta"))
    found: Network = stock
    return found
