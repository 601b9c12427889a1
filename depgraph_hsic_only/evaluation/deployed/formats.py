"""The formats that Ultralytics exports to, beside ONNX: written by its exporter, and compared with the model."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ultralytics.engine.exporter import FP32_UNSUPPORTED_FORMATS, Exporter, export_formats
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.base import BaseBackend

from depgraph_hsic_only.data.images import Images, load_images
from depgraph_hsic_only.errors import ConfigError, ExportError, one_line
from depgraph_hsic_only.evaluation.parity import OnnxParity, compare_outputs
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.yolo.blocks import is_end_to_end
from depgraph_hsic_only.yolo.input_shape import InputShape
from depgraph_hsic_only.yolo.load import bare_network
from depgraph_hsic_only.yolo.patches import nothing_installed
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network, Yolo

ONNX = "onnx"
_TABLE = export_formats()
FORMATS = dict(zip(_TABLE["Argument"][1:], _TABLE["Arguments"][1:], strict=True))
"""By name of a format, Ultralytics' arguments that it takes."""
INT8_ONLY = frozenset(FP32_UNSUPPORTED_FORMATS)
"""Those that have no file in floating point."""
_ALIASES = {"tensorrt": "engine", "trt": "engine", "tflite": "litert"}  # as Ultralytics reads them


def named_formats(value: object) -> tuple[str, ...]:
    """The formats of a list, or of text with commas, by Ultralytics' names, each once.

    Raises:
        ConfigError: There is no such format.
    """
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not words:
        raise ConfigError(f"expected a list of formats such as [onnx, openvino], got {value!r}")
    names = [str(word).strip().lower() for word in words]
    for name in names:
        if _ALIASES.get(name, name) not in FORMATS:
            raise ConfigError(f"expected formats of {', '.join(FORMATS)}, got {name!r}{nearest(name, FORMATS)}")
    return tuple(dict.fromkeys(_ALIASES.get(name, name) for name in names))


def export_format(model: Yolo | Network, name: str, stem: Path, *, imgsz: Any, **arguments: Any) -> Path:
    """Export a model through Ultralytics' exporter; the model is left as it is.

    Args:
        model: A `YOLO`, or its network.
        name: Of the format.
        stem: Path of the file without what the format adds to it: of "best", "best.torchscript" or the folder
            "best_openvino_model". What is there is replaced.
        imgsz: Height and width of the input image, pixels.
        arguments: Ultralytics' export arguments; those that the format doesn't take are left out. What is calibrated
            takes `data`, a data set's YAML, of which training images are read, and `fraction`, the share of these.

    Raises:
        ExportError: The export failed, or an argument of what the file takes or holds (batch, dynamic, quantize, nms)
            is not the format's.
    """
    network: Any = copy.copy(bare_network(model))
    network.task = task_of(network).name  # which only a YOLO sets
    defaults = {"batch": 1, "dynamic": False, "quantize": None}
    for key, default in defaults.items():
        if arguments.get(key, default) not in (default, None) and key not in FORMATS[name]:
            raise ExportError(f"{name}: Ultralytics has no {key} for it, got {key}={arguments[key]}; leave {name} out")
    given = {key: value for key, value in arguments.items() if key in (*FORMATS[name], "device", "nms")}
    given |= {"split": "train"} if "data" in given else {}
    stem.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stem.parent, prefix=".export-") as folder:
        network.pt_path = str(Path(folder) / f"{stem.name}.pt")  # where the exporter puts its file
        try:
            with nothing_installed():
                made = Path(
                    Exporter(overrides={"format": name, "imgsz": list(imgsz), "batch": 1, **given})(model=network)
                )
            if not made.exists():
                raise FileNotFoundError(made)
        except (Exception, SystemExit) as error:  # whatever the converter raises
            reason = f"{type(error).__name__}: {one_line(error)}"
            hint = f": it needs the package {error.name}" if isinstance(error, ImportError) and error.name else ""
            raise ExportError(f"{stem.name}: the export to {name} failed ({reason}){hint}") from error
        detections = BaseBackend.read_metadata(made).get("end2end", True)  # of some formats Ultralytics leaves them out
        if arguments.get("nms") is False and is_end_to_end(network.model[-1]) and str(detections) == "False":
            raise ExportError(
                f"{name}: Ultralytics exports to it with NMS to come only, got nms=False; leave {name} out"
            )
        path = stem.parent / made.name
        if path.is_dir():
            shutil.rmtree(path)
        made.replace(path)
    return path


@dataclass(frozen=True)
class OtherFile:
    """A file, or a folder, in another format than ONNX.

    Attributes:
        path: Where it is.
        format: Ultralytics' name of the format.
        parity: The comparison with PyTorch; None where it was not compared.
        why: Why it was not; "" where it was.
    """

    path: Path
    format: str
    parity: OnnxParity | None
    why: str = ""

    @property
    def says(self) -> str:
        """What a reader must know of it."""
        return f"unverified: {self.why}" if self.parity is None else str(self.parity)

    @property
    def size(self) -> int:
        """Bytes."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())


def verified(path: Path, name: str, model: Yolo, images: Images, shape: InputShape, **limits: float) -> OtherFile:
    """Compare a file with the model that it was exported from, where its runtime can be loaded here.

    Args:
        path: What `export_format` wrote.
        name: Of the format.
        model: The model; left as it is.
        images: Real images (see `images.Images`).
        shape: What the file takes.
        limits: Largest differences that pass: see `parity.verify_onnx`.

    Raises:
        DataError: The images can't be used.
    """
    batch = load_images(images, shape.size, channels=shape.channels)
    try:
        with nothing_installed():
            run, end2end = _outputs_of(path, name, shape)
        return OtherFile(path, name, compare_outputs(path, run, model, batch, end2end=end2end, **limits))
    except ExportError as error:
        return OtherFile(path, name, None, one_line(error))
    except (Exception, SystemExit) as error:  # whatever its runtime raises
        return OtherFile(path, name, None, f"it can't be run here ({type(error).__name__}: {one_line(error, 150)})")


Outputs = Callable[[torch.Tensor], list[torch.Tensor]]
"""From an image (1, c, h, w) to what is put out for it: predictions, and prototypes where there are any."""


def _outputs_of(path: Path, name: str, shape: InputShape) -> tuple[Outputs, bool]:
    """What runs a file, and whether it puts out detections."""
    backend = AutoBackend(str(path), device=torch.device("cpu"), verbose=False)
    run: Callable[[torch.Tensor], Any] = backend
    if name == "openvino":
        run = _exact_openvino(path)

    def outputs(image: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            found = run(image.expand(shape.batch, -1, -1, -1))
        several = found if isinstance(found, (list, tuple)) else [found]
        return [torch.as_tensor(output)[0].float().clone() for output in several]

    metadata: Mapping[str, Any] = backend.metadata
    return outputs, bool(metadata.get("end2end", False))


def _exact_openvino(path: Path) -> Callable[[torch.Tensor], list[Any]]:
    """A file in OpenVINO in float32, which it gives up for speed where the processor has bfloat16."""
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(next(path.glob("*.xml")), "CPU", exact)
    return lambda images: list(network(images.numpy()).values())
