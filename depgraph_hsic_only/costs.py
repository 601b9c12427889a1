"""What a network costs: parameters and multiply-adds, counted on the real model."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_COUNT_SIZE = 64  # pixels; multiply-adds of a fully convolutional network grow with the area, exactly


@dataclass(frozen=True)
class Cost:
    """Size and computation of a network.

    Attributes:
        parameters: Number of parameters.
        gmacs: Multiply-adds of all convolutions for one image of `imgsz`, in units of 10^9.
        imgsz: Side of the square image, pixels.
    """

    parameters: int
    gmacs: float
    imgsz: int


def measure_cost(network: Any, imgsz: int = 640) -> Cost:
    """Count parameters and multiply-adds of a YOLOv8 network, which is left as it is.

    Args:
        network: A SegmentationModel or DetectionModel.
        imgsz: Side of the square input image, pixels; rounded up to the network's stride as Ultralytics does.
    """
    stride = int(network.stride.max())
    side = -(-imgsz // stride) * stride
    tensors = [*network.parameters(), *network.buffers()]
    shapes = {id(t): t.detach().to("meta").requires_grad_(t.requires_grad) for t in tensors}
    meta = copy.deepcopy(network, memo=shapes).eval()  # the modules, without a copy of their numbers
    meta.model[-1].training = True  # raw outputs: no anchors, whose making reads values
    first = next(meta.parameters())
    image = torch.empty(1, network.yaml.get("channels", 3), _COUNT_SIZE, _COUNT_SIZE, dtype=first.dtype, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(image)
    macs = counter.get_total_flops() // 2 * (side / _COUNT_SIZE) ** 2
    return Cost(sum(p.numel() for p in network.parameters()), macs / 1e9, side)
