"""Where things run, from which random state, and where Ultralytics keeps its settings."""

import copy
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import SETTINGS_FILE, torch_utils

from depgraph_hsic_only.errors import ConfigError, one_line
from depgraph_hsic_only.yolo.logs import silenced
from depgraph_hsic_only.yolo.types import Network


def select_device(device: Any) -> torch.device:
    """The device that Ultralytics takes `device` for: "cpu", 0, [0, 1], "mps", or None for its own choice."""
    found: torch.device = torch_utils.select_device(device, verbose=False)
    return found


def float64_device(device: Any) -> torch.device:
    """The same, or the CPU where that device computes nothing in float64, as Apple's GPUs don't."""
    found = select_device(device)
    return torch.device("cpu") if found.type == "mps" else found


def set_seed(seed: int) -> None:
    """Seed every random state as Ultralytics does."""
    torch_utils.init_seeds(seed)


def on_device(network: Network, device: Any) -> Network:
    """A copy of a network on a device of this machine; a `ConfigError` where it has none of that name."""
    check_device(device)
    return copy.deepcopy(network).to(select_device(device))


def check_device(device: Any) -> None:
    """Refuse a device that this machine doesn't have, by a `ConfigError`."""
    try:
        with silenced():  # it says what this machine has before it refuses
            select_device(device)
    except Exception as error:  # ValueError, AssertionError or RuntimeError, by kind of device
        raise ConfigError(
            f"device: expected one that this machine has, got {device!r} ({one_line(error)}); pass cpu"
        ) from error


def settings_folder() -> Path:
    """Where Ultralytics keeps its settings: one among the temporary files where its own can't be written."""
    return Path(SETTINGS_FILE).parent
