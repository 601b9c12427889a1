"""The table of blocks: a new block is one entry, and a network that holds it is cut as any other."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv

from depgraph_hsic_only import UnsupportedModelError, prune
from depgraph_hsic_only.yolo.architecture import layer_widths
from depgraph_hsic_only.yolo.blocks import BLOCKS, Block, Width
from depgraph_hsic_only.yolo.cost import measure_cost


class Pair(nn.Module):
    """Two convolutions, one after the other, with a hidden width of their own."""

    def __init__(self, c1: int, c2: int, hidden: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, hidden, 1), Conv(hidden, c2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.cv2(self.cv1(x))
        return out


def pair_widths(layer: Any, index: int, read: Sequence[str]) -> tuple[Width, ...]:
    hidden, output = (conv.conv.out_channels for conv in (layer.cv1, layer.cv2))
    return Width(f"h{index}", hidden, 4, ("cv1.conv",)), Width(f"w{index}", output, 8, ("cv2.conv",), None, 8)


def pair_row(layer: Any, args: list[Any]) -> list[Any]:
    return [layer.cv2.conv.out_channels, layer.cv1.conv.out_channels]


def test_a_block_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "Focus", Pair)  # a name that Ultralytics' parser gives a block's channels
    backbone = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Focus", [32, 24]], [-1, 1, "Conv", [32, 3, 2]]]
    yaml = {"nc": 2, "backbone": backbone, "head": [[[2], 1, "Segment", ["nc", 32, 32]]]}
    torch.manual_seed(0)
    network = tasks.SegmentationModel(copy.deepcopy(yaml), verbose=False).eval()
    with pytest.raises(UnsupportedModelError, match=r"layer 1 is .*Pair \(not one of Conv, C2f, C2, C3k2.*SPPF\)"):
        prune(network, 0.5)
    monkeypatch.setitem(BLOCKS, Pair, Block(Pair, pair_widths, pair_row, output="cv2.conv"))
    before = layer_widths(network)
    report = prune(network, 0.5, layers="all", criterion="random")
    assert report.plan.before == before and {w: n for w, n in report.plan.after.items() if w in ("h1", "w1")} == {
        "h1": 12,
        "w1": 16,
    }
    assert layer_widths(network) == report.plan.after and network.yaml["backbone"][1] == [-1, 1, "Focus", [16, 12]]
    rebuilt = tasks.SegmentationModel(copy.deepcopy(network.yaml), verbose=False).eval()
    rebuilt.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(rebuilt(image)[0], network(image)[0], strict=True))
    parts = {part.name: part.parameters for part in measure_cost(network).parts}
    assert parts["backbone"] == sum(p.numel() for layer in network.model[:3] for p in layer.parameters())
