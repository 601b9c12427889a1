"""What figures depend on beside the settings: the machine, the versions of the libraries, the state of this package."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """The machine and the versions that figures depend on, as plain values; asks git for the commit."""
    import onnx  # either takes a while to import
    import onnxruntime

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "ultralytics": version("ultralytics"),
        "torch-pruning": version("torch-pruning"),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of this package's checkout, with "-dirty" where it was changed; None where it is installed."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        described = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
