"""Quantisation-aware training by Ultralytics: of a network that rounds to int8 as the deployed file will.

Its checkpoints are no stock ones: nvidia-modelopt is needed to load them. So what is kept of such a training is the
ONNX file that it is exported to.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO
from ultralytics.utils.checks import check_requirements
from ultralytics.utils.torch_utils import MODELOPT_REQUIREMENTS, prepare_qat

from depgraph_hsic_only.data.dataset import Dataset
from depgraph_hsic_only.errors import ConfigError, one_line
from depgraph_hsic_only.training.callbacks import Callbacks
from depgraph_hsic_only.training.train import train_model
from depgraph_hsic_only.yolo.input_shape import input_channels
from depgraph_hsic_only.yolo.patches import quantizers_in_log, safe_load
from depgraph_hsic_only.yolo.types import Network, Yolo

_SIDE = 64


def quantized_trial(model: Yolo) -> Network:
    """A copy of a `YOLO`'s network that rounds to int8, with the ranges of noise: to know at the start that it can.

    Raises:
        ConfigError: nvidia-modelopt is missing, too old, or doesn't work here.
    """
    network = copy.deepcopy(model.model).cpu().float()
    noise = torch.rand(1, input_channels(network), _SIDE, _SIDE)
    try:
        if not check_requirements(MODELOPT_REQUIREMENTS, install=False):
            raise ImportError("it is not installed, or not in a version that Ultralytics takes")
        prepared: Network = prepare_qat(network, [noise], lambda images: images)
    except Exception as error:  # it goes by the versions of torch and of other packages, and raises what these raise
        packages = " ".join(f"'{name}'" for name in MODELOPT_REQUIREMENTS)
        raise ConfigError(
            f"fine_tune.quantize: expected the package nvidia-modelopt, which can't be used ({one_line(error)}); "
            f"pip install {packages}, or set export.quantize=8 instead, which needs no training"
        ) from error
    return prepared


def train_quantized(
    model: Yolo, folder: Path, arguments: Mapping[str, Any], callbacks: Callbacks, *, dataset: Dataset, scratch: Path
) -> Yolo:
    """Train a copy of a `YOLO` that rounds to int8: its best epoch, which can be exported to ONNX.

    Arguments and what is raised are those of `train_model`.
    """
    given = {**arguments, "quantize": 8}
    with quantizers_in_log():
        return train_model(model, folder, given, callbacks, dataset=dataset, scratch=scratch, load=_as_it_is).model


def _as_it_is(checkpoint: Path) -> Yolo:
    """A `YOLO` that rounds: no stock one, so that nothing of it is checked but that no code runs."""
    with safe_load():
        trained: Yolo = YOLO(str(checkpoint))
    return trained
