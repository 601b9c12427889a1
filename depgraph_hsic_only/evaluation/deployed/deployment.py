"""What is timed and how: one value for the stages of a run, its files, a target of latency, and a comparison."""

import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from depgraph_hsic_only.data.images import Images
from depgraph_hsic_only.errors import ConfigError, one_line
from depgraph_hsic_only.evaluation.deployed.command import told_seconds
from depgraph_hsic_only.evaluation.deployed.formats import ONNX, export_format
from depgraph_hsic_only.evaluation.int8 import LEAST_OPSET, quantize_onnx
from depgraph_hsic_only.evaluation.latency import Run, Told, backend_run, fused_run, onnx_run, openvino_run
from depgraph_hsic_only.evaluation.onnx import export_onnx
from depgraph_hsic_only.support.machine import Watch
from depgraph_hsic_only.yolo.input_shape import InputShape, input_channels
from depgraph_hsic_only.yolo.logs import silenced
from depgraph_hsic_only.yolo.types import Network

AUTO, FLOAT, INT8, COMMAND = "auto", "float", "int8", "command"
RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "torch")
PRECISIONS = {FLOAT: None, "half": 16, INT8: 8}  # as Ultralytics' `quantize`
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Timed:
    """What a latency is of, as reports say it.

    Attributes:
        runtime: One of `RUNTIMES`, or "command".
        version: Of the runtime; None of a command.
        device: "cpu", "cuda" ...; None of a command, which has its own.
        precision: Of the file: "float", "half" or "int8".
        threads: That the runtime has; None for its own choice.
        input: What is given at once.
        command: What judges the file; None for this machine's clock.
        warning: That this machine was too busy to time anything on it.
    """

    runtime: str
    version: str | None
    device: str | None
    precision: str
    threads: int | None
    input: InputShape
    command: str | None = None
    warning: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Timed":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**data, "input": InputShape(**data["input"])})

    def watched(self, machine: Watch) -> "Timed":
        """The same with what is to be said of this machine, unless a command times another one."""
        return self if self.command is not None else replace(self, warning=machine.warning(self.threads))

    def __str__(self) -> str:
        if self.command is not None:
            return f"{self.input}, {self.precision}, by `{self.command}`"
        threads = "threads of its choice" if self.threads is None else f"{self.threads} thread{'s'[: self.threads - 1]}"
        place = f" on {self.device}" if self.device else ""
        return f"{self.input}, {self.precision}, {self.runtime} {self.version}{place}, {threads}"


@dataclass(frozen=True)
class Deployment:
    """A file of a network as it will run, and the clock that times it.

    Attributes:
        shape: What the file takes at once.
        runtime: One of `RUNTIMES`; "auto" for onnxruntime where the network is on the CPU, else PyTorch.
        precision: Of the file: "float" as the arguments of the export say, "half" or "int8".
        threads: Of the runtime on the CPU; None for its own choice.
        command: A command line that judges the file instead of a runtime here (see `command.told_seconds`).
        timeout: Seconds that it may take.
        format: Of the file that the command is given, by Ultralytics' name.
        arguments: Ultralytics' export arguments of the file, but for size and batch.
    """

    shape: InputShape
    runtime: str = AUTO
    precision: str = FLOAT
    threads: int | None = None
    command: str | None = None
    timeout: float = _TIMEOUT
    format: str = ONNX
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def on(self, device: torch.device) -> Timed:
        """What is timed of a network on a device.

        Raises:
            ConfigError: The runtime can't be loaded here, or can't run such a file there.
        """
        exported = "half" if self.arguments.get("quantize") == 16 else FLOAT
        precision = exported if self.precision == FLOAT else self.precision
        if self.precision == INT8 and (opset := self.arguments.get("opset") or LEAST_OPSET) < LEAST_OPSET:
            raise ConfigError(f"export.opset: expected {LEAST_OPSET} or later for int8, got {opset}; leave it out")
        if self.command is not None:
            if self.format != ONNX and self.precision == INT8:
                raise ConfigError(
                    f"latency.precision: expected float or half of a file in {self.format}, got int8; begin "
                    "export.formats with onnx"
                )
            return Timed(COMMAND, None, None, precision, None, self.shape, self.command)
        name = self.runtime
        if name == AUTO:
            name = "onnxruntime" if device.type == "cpu" else "torch"
        try:
            version: str | None = str(importlib.import_module(name).__version__).partition("-")[0]  # no commit
        except ImportError as error:
            raise ConfigError(
                f"latency.runtime: expected one that can be loaded here, got {name} ({one_line(error)}); pip install "
                f"{name}, or pass another"
            ) from error
        if (fault := _not_run(name, self.precision, device)) is not None:
            raise ConfigError(f"latency: {fault}")
        place = device.type if name in ("torch", "tensorrt") else "cpu"
        return Timed(name, version, place, precision, self.threads, self.shape)

    def key(self, device: torch.device) -> str:
        """Its name in reports: that of the runtime, with the precision where the export has another; errors as `on`."""
        runtime = self.on(device).runtime
        return runtime if self.precision == FLOAT else f"{runtime} {self.precision}"

    def kind(self, device: torch.device) -> str | None:
        """The format of the file that is timed of a network on a device, by Ultralytics' name; None in PyTorch.

        Raises:
            ConfigError: As `on`.
        """
        runtime = self.on(device).runtime
        return {"torch": None, "tensorrt": "engine", COMMAND: self.format}.get(runtime, ONNX)

    def write(self, network: Network, folder: Path, images: Images | None = None) -> Path:
        """Write the file that is timed of a network into a folder; the network is left as it is.

        Args:
            network: It is exported for images of its own number of channels.
            folder: What is in it may be replaced.
            images: That the ranges of a file in int8 are those on; None for noise, which is as fast.

        Raises:
            ConfigError: As `on`.
            ExportError: The file can't be made.
        """
        shape = replace(self.shape, channels=input_channels(network))
        given = {**self.arguments, "batch": shape.batch}
        if (quantize := PRECISIONS[self.precision]) is not None:
            given["quantize"] = quantize
        kind = self.kind(next(network.parameters()).device) or ONNX
        with silenced():
            if kind != ONNX:
                return export_format(network, kind, folder / "model", imgsz=shape.size, **given)
            if quantize != 8:
                return export_onnx(network, folder / "model.onnx", imgsz=shape.size, **given)
            plain = export_onnx(network, folder / "float.onnx", imgsz=shape.size, **{**given, "quantize": None})
            noise = torch.rand(replace(shape, batch=1).dimensions)
            return quantize_onnx(plain, folder / "model.onnx", noise if images is None else images, limit=None)

    def prepare(self, network: Network, folder: Path, made: Path | None = None) -> Run:
        """What is timed of a network, on the device that it is on; the network is left as it is.

        Args:
            network: It is timed on images of its own number of channels.
            folder: Where its file is written, which must last as long as it is timed.
            made: The file, where `write` has made it before.

        Raises:
            ConfigError, ExportError: As `write`.
        """
        device = next(network.parameters()).device
        runtime, shape = self.on(device).runtime, replace(self.shape, channels=input_channels(network))
        if runtime == "torch":
            return fused_run(network, shape, device, half=self.precision == "half")
        path = made or self.write(network, folder)
        if self.command is not None:
            command, timeout = self.command, self.timeout
            return Told(lambda: told_seconds(command, path, timeout))
        with silenced():
            if runtime == "tensorrt":
                return backend_run(path, shape, device)
            return openvino_run(path, shape, self.threads) if runtime == "openvino" else onnx_run(path, self.threads)

    def try_out(self, network: Network, made: Path | None = None) -> None:
        """Time a network once, for nothing but to know at the start that it can be done; as `prepare`."""
        with tempfile.TemporaryDirectory() as folder:
            run = self.prepare(network, Path(folder), made)
            run.seconds() if isinstance(run, Told) else run()


def _not_run(runtime: str, precision: str, device: torch.device) -> str | None:
    """Why a runtime doesn't run files of a precision on a device; None where it does."""
    if runtime == "tensorrt" and device.type != "cuda":
        return f"expected an NVIDIA GPU for runtime=tensorrt, got {device.type}; pass device=0 or another runtime"
    if precision == INT8 and runtime in ("torch", "tensorrt"):
        return (
            f"expected precision=float or half with runtime={runtime}, got int8, whose files here are for onnxruntime "
            "and openvino; pass one of these"
        )
    if precision == "half" and runtime == "torch" and device.type == "cpu":
        return "expected a GPU for runtime=torch precision=half, got cpu; pass precision=float or another runtime"
    return None
