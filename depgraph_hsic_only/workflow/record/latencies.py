"""The latencies of a finished run: of its stages, its files, and what else costs as little, all measured in turns."""

import tempfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from depgraph_hsic_only.data.images import Images
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT, Deployment, Timed
from depgraph_hsic_only.evaluation.latency import Latency, Run, measure_latency, torch_run
from depgraph_hsic_only.report.stages import RUNTIMES
from depgraph_hsic_only.support.machine import watched
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.workflow.stages.exported import Exported
from depgraph_hsic_only.yolo.device import on_device, select_device
from depgraph_hsic_only.yolo.input_shape import InputShape, input_channels
from depgraph_hsic_only.yolo.types import Yolo


@dataclass(eq=False)
class Latencies:
    """Gathers what is to be timed, and times it.

    Attributes:
        given: How the unpruned model is deployed.
        deployment: How the result is.
        device: Of the run.
        images: Training images, which the ranges of the result's int8 file are those on.
        folder: For files, which last as long as they are timed.
    """

    given: Deployment
    deployment: Deployment
    device: object
    images: Images
    folder: Path
    _runs: dict[str, Run] = field(default_factory=dict)
    _files: dict[Path, str] = field(default_factory=dict)  # by exported file: the run that times it
    _stages: dict[str, str] = field(default_factory=dict)  # by stage: the one whose runs time it
    _networks: dict[Hashable, str] = field(default_factory=dict)  # by what is run of it: the first stage that has it
    _channels: int = 3  # of the images of the result

    @property
    def ways(self) -> dict[str, Deployment]:
        """How every stage is timed beside PyTorch, by its key in reports: in onnxruntime, and as the settings say."""
        device = select_device(self.device)
        plain = replace(self.deployment, runtime="onnxruntime", precision=FLOAT, command=None)
        asked = {key: of for of in (self.given, self.deployment) if (key := of.key(device)) not in RUNTIMES}
        return {"onnxruntime": plain} | asked

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all latencies of a stage in reports."""
        return (*RUNTIMES, *(key for key in self.ways if key not in RUNTIMES))

    def add_stage(self, name: str, model: Yolo, shape: InputShape, exported: Exported | None = None) -> None:
        """The model after a stage, on images of a shape but for its own channels; with the files of the result.

        One that differs from an earlier one in nothing but weights takes as long, and is not timed by itself.
        """
        layers = tuple((key, tuple(of.shape)) for key, of in model.model.state_dict().items())
        self._stages[name] = self._networks.setdefault((layers, shape), name)
        if self._stages[name] != name:
            return
        self._runs[f"{name}/torch"] = torch_run(
            model, replace(shape, channels=input_channels(model.model)), self.device
        )
        network, device = on_device(model.model, self.device), select_device(self.device)
        written: dict[tuple[str, str], Path] = {}  # by format and precision
        for key, way in self.ways.items():
            way, folder = replace(way, shape=shape), Path(tempfile.mkdtemp(dir=self.folder))
            made = exported.made(way) if exported else None
            if made is not None and way.on(device).runtime == "onnxruntime":
                self._files[made] = f"{name}/{key}"
            if made is None and (kind := way.kind(device)) is not None:
                made = written.get((kind, way.precision))
                made = made or way.write(network, folder, self.images if exported else None)
                written[kind, way.precision] = made
            self._runs[f"{name}/{key}"] = way.prepare(network, folder, made)
        if exported is None:
            return
        self._channels = exported.shape.channels
        for path in exported.timeable:
            if path not in self._files:
                self._files[path] = str(path)
                self._runs[str(path)] = exported.run(path, self.deployment.threads)

    def add(self, name: str, run: Run) -> None:
        """Anything else, under a name of its own."""
        self._runs[name] = run

    def measured(self) -> "MeasuredLatencies":
        """All in turns."""
        with watched() as machine:
            found = measure_latency(self._runs, self.deployment.threads)
        timed = self.deployment.on(select_device(self.device)).watched(machine)
        timed = replace(timed, input=replace(timed.input, channels=self._channels))
        if timed.warning is not None:
            say(timed.warning)
        files = {path: found[name] for path, name in self._files.items()}
        return MeasuredLatencies(found, files, self._stages, self.keys, timed)


@dataclass(frozen=True)
class MeasuredLatencies:
    """What was timed.

    Attributes:
        by_name: By the name under which it was added, that of a stage with a key: "pruned/onnxruntime".
        files: By exported file.
        stages: By stage: the one under whose name it was timed.
        keys: Of the latencies of each stage.
        timed: What is deployed, and how it was timed.
    """

    by_name: Mapping[str, Latency]
    files: Mapping[Path, Latency]
    stages: Mapping[str, str]
    keys: tuple[str, ...]
    timed: Timed

    def of_stage(self, name: str) -> dict[str, Latency | None]:
        """By key; None where it was not timed."""
        return {key: self.by_name.get(f"{self.stages.get(name, name)}/{key}") for key in self.keys}
