"""What a network predicts before anything is decoded, with gradients through all that it trains."""

from collections.abc import Mapping
from typing import Any

import torch
from ultralytics.nn.modules import Pose

from depgraph_hsic_only.yolo.blocks import is_end_to_end, prototypes, sources
from depgraph_hsic_only.yolo.types import Network

Predictions = tuple[Mapping[str, Any], ...]
"""Raw outputs of each set of a head's branches: one, or of an end-to-end head one-to-many and one-to-one.

They are "boxes" (B, 4 r, A), logits of the distributions of the four distances or, with r = 1, these themselves in
units of the stride, "scores" (B, classes, A) logits, and by task "mask_coefficient" (B, k, A) and "proto" (B, k, h, w),
"kpts" (B, keypoints, 2 or 3, A): places in units of the stride, up to a constant, and logits of being visible,
"angle" (B, 1, A) in radians.
"""


def layer_input(network: Network, index: int, outputs: Mapping[int, torch.Tensor]) -> Any:
    """What a layer reads, a tensor or a list of such, of the outputs by layer; those of -1 are the images."""
    layer = network.model[index]
    read = [outputs[j] for j in sources(layer, index)]
    return read if isinstance(layer.f, list) else read[0]


def last_readers(network: Network) -> dict[int, int]:
    """By layer, -1 for the image, the last one that reads what it puts out."""
    return {j: i for i, layer in enumerate(network.model) for j in sources(layer, i)}


def raw_predictions(network: Network, images: torch.Tensor) -> Predictions:
    """What a network predicts of images (B, c, h, w), float in [0, 1], on its device."""
    last, outputs = last_readers(network), {-1: images}
    for i, layer in enumerate(network.model[:-1]):
        outputs[i] = layer(layer_input(network, i, outputs))
        outputs = {j: t for j, t in outputs.items() if last.get(j, -1) > i}
    return head_predictions(network.model[-1], layer_input(network, len(network.model) - 1, outputs))


def head_predictions(head: Any, inputs: list[torch.Tensor]) -> Predictions:
    """What a head predicts of its inputs, each (B, c, h, w).

    Ultralytics' own forward pass cuts gradients off in front of the one-to-one branches, or decodes.
    """
    branches = [head.one2many, *([head.one2one] if is_end_to_end(head) else [])]
    found = [dict(head.forward_head(inputs, **branch)) for branch in branches]
    for each in found:
        if "kpts" in each:
            each["kpts"] = _located(head, each["kpts"])
    shared = {}
    if hasattr(head, "proto"):
        made = prototypes(head, inputs)
        shared = dict(zip(("proto", "semseg"), made, strict=True)) if isinstance(made, tuple) else {"proto": made}
    return tuple({k: t for k, t in each.items() if k != "feats"} | shared for each in found)


def _located(head: Any, keypoints: torch.Tensor) -> torch.Tensor:
    """Keypoints (B, keypoints · values, A) as above: YOLOv8's head, unlike YOLO26's, doubles what it puts out."""
    points = keypoints.view(len(keypoints), *head.kpt_shape, -1)
    unit = points.new_tensor([2.0, 2.0, 1.0]) if type(head) is Pose else points.new_ones(3)
    return points * unit[: points.shape[2], None]
