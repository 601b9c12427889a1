"""The workflow: load → train → prune → fine-tune → export, with every stage measured."""

import abc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast, final

from depgraph_hsic_only.data.dataset import Dataset, find_dataset
from depgraph_hsic_only.errors import ConfigError, UltralyticsError
from depgraph_hsic_only.evaluation.validation import Metrics, Validation
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.report.stages import ACTIVITIES, EXPORTED, FINE_TUNED, PRUNED, STAGES, TRAINED, Stage
from depgraph_hsic_only.support.fingerprint import fingerprint
from depgraph_hsic_only.support.progress import begin_stage, say
from depgraph_hsic_only.support.refusals import refusal
from depgraph_hsic_only.support.yaml import read_yaml
from depgraph_hsic_only.training.callbacks import Callbacks
from depgraph_hsic_only.workflow.config import DEFAULT_CFG, Config, load_config
from depgraph_hsic_only.workflow.evaluations import Evaluations
from depgraph_hsic_only.workflow.fit import fitting_task, frame_notes, single_cls, take_classes
from depgraph_hsic_only.workflow.record.recorder import Recorder
from depgraph_hsic_only.workflow.run_folder import Checkpoints, RunFolder
from depgraph_hsic_only.workflow.stages.exported import Exported
from depgraph_hsic_only.workflow.state import ARGS, STATE, RunState, read_state, resource_errors_explained
from depgraph_hsic_only.yolo.device import check_device, set_seed
from depgraph_hsic_only.yolo.input_shape import input_side
from depgraph_hsic_only.yolo.load import load_model
from depgraph_hsic_only.yolo.logs import run_display
from depgraph_hsic_only.yolo.tasks import Task
from depgraph_hsic_only.yolo.types import Yolo


class YoloPruner(abc.ABC):
    """The workflow for YOLO models of any task: subclass it and fill in the five stages, or subclass
    `DefaultYoloPruner` and replace some.

    A stage takes a model and returns the one that the next stage takes: an Ultralytics `YOLO`. What stages need is in
    `config`, `dataset` and `folder`; `evaluate` measures a model on the validation split.

    Args:
        pretrained_path: Path or known name of the checkpoint; None for what the configuration says.
        cfg: A YAML file of settings, looked up in the working directory, then in this package, or what it would hold.
        overrides: Settings that go over the file's, nested (`prune={"ratio": 0.3}`) or with dots
            (`**{"prune.ratio": 0.3}`).

    Raises:
        ConfigError: There are faults in the configuration; all are named at once.
    """

    checkpoints: Checkpoints
    """The models after the stages that are done, once the run folder is open."""

    config: Config
    """What the run goes by: what was `given`, until the pruning has chosen another image size or precision."""

    only: ClassVar[str | None] = None
    """The one task whose models are taken, such as "segment"; None for any (see `tasks.TASKS`)."""

    @final
    def __init__(
        self,
        pretrained_path: str | Path | None = None,
        cfg: str | Path | Mapping[str, Any] | None = DEFAULT_CFG,
        **overrides: Any,
    ) -> None:
        given = {} if pretrained_path is None else {"pretrained": str(pretrained_path)}
        self.given = load_config(cfg, {**overrides, **given})
        self.config = self.given
        self.callbacks = Callbacks()
        self._folder: RunFolder | None = None  # until it is made or taken
        self._notes: list[str] = []
        self._details: dict[str, Any] = {}
        self._evaluations = Evaluations()
        self._resolved: dict[str, Any] = {}
        self._task: Task | None = None  # until a model is loaded

    @abc.abstractmethod
    def load(self) -> Yolo:
        """Load the model to start from."""

    @abc.abstractmethod
    def train(self, model: Yolo) -> Yolo:
        """Train it on the data set, or return it as it is."""

    @abc.abstractmethod
    def prune(self, model: Yolo) -> Yolo:
        """Cut it."""

    @abc.abstractmethod
    def fine_tune(self, model: Yolo) -> Yolo:
        """Train the cut model, or return it as it is."""

    @abc.abstractmethod
    def export(self, model: Yolo) -> Exported:
        """Export the result into `folder.weights` and prove that the file does the same."""

    @final
    def run(self, resume: str | Path | None = None) -> RunReport:
        """Run and measure all stages; everything is in the run folder, complete after every stage.

        Args:
            resume: Folder of a run that was cut off, to go on where it was: from the stage before, in a training from
                the last epoch. Settings, checkpoint and data set must be those it was started with; only where it runs
                and what fits there (`device`, `workers`, `batch`) may differ. None for a new run.

        Raises:
            PruningError: A setting, the checkpoint or the data set can't be used (then nothing has been written), the
                exported file differs from the model, or `resume` is of another run, or of one that is running.
            UltralyticsError: Ultralytics refuses an argument or the data; the message says in which stage.
            StorageError, OutOfMemoryError: The disk or the memory is too small; what was done before is kept, and
                `resume` goes on from it.
        """
        self.config, self._notes, self._details = self.given, [], {}
        before = None
        if resume is not None:
            before = read_state(resume)
            before.check_same(self.config.to_dict(), {}, self.open_folder(resume).path)
        model = self.load()
        self.take_task(model)
        given = model, self.dataset, self.config
        notes = [*take_classes(*given), *frame_notes(*given)]
        check_device(self.config.device)
        if self.config.train_rivals and not hasattr(self, "train_on"):
            raise ConfigError(f"train_rivals: expected false, since {type(self).__name__} has no train_on, got true")
        sources = {"checkpoint": fingerprint(model.model), "data": self.dataset.digest()}
        state, batch = RunState(self.config.to_dict(), sources), self.config.batch
        if before is not None:
            before.check_same(self.config.to_dict(), sources, self.folder.path)
            state, batch = replace(state, done=before.done), before.settings["batch"]
        folder = self.open_folder()
        from depgraph_hsic_only.report.figures.fonts import fonts_for  # matplotlib loads slowly

        with (
            resource_errors_explained(folder),
            folder.locked(),
            run_display(len(ACTIVITIES), folder.path / "run.log", verbose=self.config.verbose) as display,
            fonts_for(self.dataset.names),
        ):
            try:
                if resume is None:
                    folder.begin_anew()
                    folder.write_yaml(ARGS, self.config.to_dict())
                folder.write_json(STATE, asdict(state))
                if batch != self.config.batch:
                    self.note(f"batches of {self.config.batch} images from here on instead of {batch}")
                return self._run(model, state, notes)
            except KeyboardInterrupt:
                say(f"interrupted; to go on: --resume {folder.path}")
                raise
            except Exception as error:
                if (refused := refusal(error)) is None:
                    raise
                raise UltralyticsError(
                    f"{display.activity or 'validation'}: Ultralytics says {refused}; change the setting or the data "
                    f"that this is about and start anew; the traceback is in {folder.path / 'run.log'}"
                ) from error

    def _run(self, model: Yolo, state: RunState, notes: list[str]) -> RunReport:
        if EXPORTED in state.done:
            say("this run is complete")
            return RunReport.load(self.folder.path)
        if state.done:
            before = read_yaml(self.folder.path / ARGS)
            self._resolved = {s.block: before[s.block] for s in STAGES if s.block and s.name in state.done}
        validation = self.validation_of(model)
        given = self.config, state, validation, self.evaluate, getattr(self, "train_on", None)
        recorder = Recorder(self.folder, self.checkpoints, self.dataset, *given)
        say(f"results are written to {self.folder.path}")
        recorder.begin(model, notes)
        for stage, run in ((TRAINED, self.train), (PRUNED, self.prune), (FINE_TUNED, self.fine_tune)):
            model = self._stage(stage, run, model, recorder)
        return recorder.finish(model, lambda result: (self.export(result), tuple(self._notes)))

    def _stage(self, stage: Stage, run: Callable[[Yolo], Yolo], model: Yolo, recorder: Recorder) -> Yolo:
        """Run a stage, and record what it has led to.

        Each begins with the same random state and with the model in the file before it, as in a run that goes on.
        """
        begin_stage(stage.activity)
        if stage.name in recorder.state.done:
            say("done before")
            self.take_up(stage)
            self._go_by_config(recorder, model)
            return self.checkpoints.copy(stage)
        set_seed(self.config.seed)
        before, start = fingerprint(model.model), time.perf_counter()
        result = run(model)
        seconds, changed = time.perf_counter() - start, fingerprint(result.model) != before
        self._go_by_config(recorder, result)
        recorder.record(stage, result, self._notes, self._details, seconds, changed)
        self._notes, self._details = [], {}
        return self.checkpoints.copy(stage)

    def _go_by_config(self, recorder: Recorder, model: Yolo) -> None:
        if self.config is not recorder.config:
            recorder.go_by(self.config, self.validation_of(model))

    def take_up(self, stage: Stage) -> None:  # noqa: B027
        """Set again what a stage has chosen for those after it, in a run that goes on after it."""

    @final
    def add_callback(self, event: str, function: Callable[[Any], object]) -> None:
        """Call a function at every event of a kind, Ultralytics' or this package's: see `utils.hooks.Callbacks.add`."""
        self.callbacks.add(event, function)

    @final
    def note(self, text: str) -> None:
        """Say something that a reader of the report must know about the stage at hand."""
        say(text)
        self._notes.append(text)

    @final
    def detail(self, **figures: Any) -> None:
        """Put figures of the stage at hand into its row of `report.json`, under `details`, as plain values."""
        self._details.update(figures)

    @final
    def resolve(self, block: str, settings: Mapping[str, Any]) -> None:
        """Write a block of settings as it was used into `args.yaml`, for a run that repeats this one."""
        self._resolved[block] = dict(settings)
        self.folder.write_yaml(ARGS, {**self.given.to_dict(), **self._resolved})

    @final
    def open_folder(self, path: str | Path | None = None) -> RunFolder:
        """The run folder, made where there is none yet, and its checkpoints; every stage that writes begins with it.

        Args:
            path: One that is there, to go on in; None for the one that is open, or else that the configuration names.

        Raises:
            ConfigError: It can't be made.
        """
        if path is None and self._folder is not None:
            return self._folder
        config = self.config
        if path is None:
            folder = RunFolder.create(config.project, config.name, exist_ok=config.exist_ok)
        else:
            folder = RunFolder(Path(path).resolve())
        self._folder, self.checkpoints = folder, Checkpoints(folder)
        return folder

    @property
    def folder(self) -> RunFolder:
        """The run folder: the one that is open, or that `open_folder` would make now; asking makes none."""
        config = self.config
        return self._folder or RunFolder.planned(config.project, config.name, exist_ok=config.exist_ok)

    @final
    def take_task(self, model: Yolo) -> None:
        """Let the run be one for the task of a model: `run` does it with the one that was loaded.

        Raises:
            UnsupportedModelError: Nothing here takes models of its task, or this class does not (see `only`).
        """
        task = fitting_task(model, self.only, type(self).__name__)
        if task is not self._task:
            self._task = task
            self.__dict__.pop("dataset", None)  # whose labels were checked for another

    @cached_property
    def dataset(self) -> Dataset:
        """The data set for the task of the loaded model, or of that to load, found and checked when needed."""
        if self._task is None:
            self.take_task(load_model(self.config.pretrained, trust=self.config.trust))
        return find_dataset(self.config.data, cast(Task, self._task).name)

    @final
    def imgsz_of(self, model: Yolo) -> int:
        """Side of the input image of the run, pixels: the configuration's, or the checkpoint's own."""
        return input_side(model, self.config.imgsz)

    @final
    def validation_of(self, model: Yolo) -> Validation:
        """What a model is measured with in this run."""
        own: Any = {"single_cls": single_cls(model, self.config), "nms": self.config.export.get("nms")}
        return Validation(self.imgsz_of(model), self.config.batch, **own)

    @final
    def evaluate(self, model: Yolo, draws: int | None = None, images: Sequence[Path] = ()) -> Metrics:
        """mAP of a model on the validation split, as a fresh `YOLO(weights).val()` measures it from its file.

        The same weights are measured once in a run.

        Args:
            model: A `YOLO`.
            draws: On how many samples of the images too (see `bootstrap.py`); None for as many as a deviation needs.
            images: Images with labels, of the data set, to measure it on instead; none for the validation split.
        """
        given = self.config, self.dataset, self.open_folder()
        return self._evaluations.of(model, self.validation_of(model), *given, draws, images)


class Yolov8SegPruner(YoloPruner):
    """`YoloPruner` for segmentation models alone."""

    only = "segment"
