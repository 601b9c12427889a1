"""YOLO networks as Ultralytics writes them down: which ones can be cut, and the YAML of a cut one.

Ultralytics rebuilds a model from its YAML dict whenever it trains, resumes or tunes. `stock_yaml` writes that dict with
the widths that the modules have, so that what is rebuilt is the pruned network.
"""

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import parse_model

from depgraph_hsic_only.errors import UnsupportedModelError, one_line
from depgraph_hsic_only.yolo.blocks import BLOCKS, block_of, repeats_name, repeats_of, sources, widths_of
from depgraph_hsic_only.yolo.patches import safe_load
from depgraph_hsic_only.yolo.tasks import task_of
from depgraph_hsic_only.yolo.types import Network

_SCALING = ("scales", "scale", "width_multiple", "depth_multiple")  # YAML keys that would scale explicit widths again
FAMILIES = "YOLOv8, YOLO11, YOLO12 and YOLO26"
_MOST_REPEATS, _MOST_PARAMETERS = 100, 10**9  # the largest has 6 and 98 million


def check_architecture(model: Any) -> None:
    """Refuse anything but an unmodified, unfused model of `FAMILIES`, of any scale, task, class count and widths.

    Raises:
        UnsupportedModelError: It is something else; the message says what was found.
    """
    expected = "expected a YOLO model"
    task_of(model)
    layers, backbone = list(model.model), len(backbone_layers(model))
    for i, layer in enumerate(layers):
        allowed = [type_ for type_, block in BLOCKS.items() if i >= backbone or block.in_backbone]
        if type(layer) not in allowed:
            raise UnsupportedModelError(
                f"{expected}, but layer {i} is {type(layer).__module__}.{type(layer).__name__} (not one of "
                f"{', '.join(t.__name__ for t in allowed)}); {FAMILIES} can be pruned"
            )
    heads = [i for i, layer in enumerate(layers) if block_of(layer).is_head]
    if heads != [len(layers) - 1] or len(layers) <= backbone:
        raise UnsupportedModelError(
            f"{expected} with one head at its end, but it has {len(layers)} layers, heads at {heads}"
        )
    foreign = {
        f"{type(m).__module__}.{type(m).__name__}"
        for m in model.modules()
        if not type(m).__module__.startswith(("torch.", "ultralytics.")) and type(m) not in BLOCKS
    }
    if foreign:
        raise UnsupportedModelError(
            f"{expected}, but it holds foreign modules ({', '.join(sorted(foreign))}): another tool has changed it; "
            "pass the checkpoint from before"
        )
    if any(isinstance(m, Conv) and not hasattr(m, "bn") for m in model.modules()):
        raise UnsupportedModelError(
            f"{expected} with its BatchNorm layers, but it was fused for inference; pass the checkpoint from training"
        )
    grouped = [
        name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups not in (1, m.in_channels)
    ]
    if grouped:
        raise UnsupportedModelError(
            f"{expected}, but {grouped[0]} is a convolution in groups, which no stock model has; pass one without"
        )
    _check_matches_yaml(model, expected)
    _check_attributes(model, expected)
    _check_widths(model, expected)


def _check_attributes(model: Network, expected: str) -> None:
    """Refuse a model that doesn't say what its layers have: Ultralytics would predict wrongly, or not at all."""
    head, layers = model.model[-1], list_layers(model)
    strides = [layers[i].stride for i in sources(head, len(layers) - 1)]
    for where, found in (("stride", getattr(model, "stride", None)), ("head's stride", head.stride)):
        if not isinstance(found, torch.Tensor) or found.tolist() != strides:
            raise UnsupportedModelError(
                f"{expected} with the stride {strides} of its layers, got {one_line(repr(found))} as its {where}; pass "
                "a checkpoint that Ultralytics has written"
            )
    names = getattr(model, "names", None)
    if not isinstance(names, Mapping) or set(names) != set(range(head.nc)):
        raise UnsupportedModelError(
            f"{expected} with a name for each of its {head.nc} classes by number, got {one_line(repr(names))}; pass a "
            "checkpoint that Ultralytics has written"
        )


def _check_widths(model: Network, expected: str) -> None:
    """Refuse a model one of whose layers reads several at once where it has to read one width."""
    names = {width.name for _, width in widths_of(model)}
    for i, width in widths_of(model):
        if width.tie is not None and not names.issuperset(width.tie.to):
            raise UnsupportedModelError(
                f"{expected}, but layer {i} ({type(model.model[i]).__name__}) reads several layers at once, which none "
                "of a stock model does; put a Conv between"
            )


def _check_matches_yaml(model: Network, expected: str) -> None:
    """Refuse a model whose weights are not those of its YAML: Ultralytics' train() would rebuild another network."""
    has = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    try:
        built, _ = skeleton(model.yaml)
    except Exception as error:  # Ultralytics raises anything for what it can't build
        raise UnsupportedModelError(
            f"{expected}, but its own YAML can't be built ({one_line(error)}); pass another checkpoint"
        ) from error
    wants = {name: tuple(t.shape) for name, t in built.state_dict(prefix="model.").items()}
    last = f"model.{len(model.model) - 1}."
    classes = (f"{last}cv3.", f"{last}one2one_cv3.")  # as wide as in the model that they were transferred from
    wrong = sorted(n for n in has.keys() | wants.keys() if has.get(n) != wants.get(n) and not n.startswith(classes))
    if wrong:
        name = wrong[0]
        raise UnsupportedModelError(
            f"{expected}, but its weights differ from its own YAML ({len(wrong)} tensors, first {name}: "
            f"{has.get(name)} where the YAML builds {wants.get(name)}): another tool has changed it, and "
            "Ultralytics would train a different network; pass the checkpoint from before"
        )
    if {n for n in has if n.startswith(classes)} != {n for n in wants if n.startswith(classes)}:
        raise UnsupportedModelError(
            f"{expected} with the class branch that its YAML builds, but its head has another one, such as the light "
            "one of YOLO11 that Ultralytics 8.3.0 built into YOLOv8 too: the Ultralytics installed here would train "
            "it without its class branch; train anew from yolov8n-seg.pt, say, with this version"
        )
    own, stock = _module_types(cast(nn.Module, model.model)), _module_types(built)
    if changed := sorted(name for name in own.keys() | stock.keys() if own.get(name) != stock.get(name)):
        name = changed[0]
        raise UnsupportedModelError(
            f"{expected}, but its modules differ from its own YAML (model.{name}: {own.get(name)} where the YAML "
            f"builds {stock.get(name)}): another tool or version of Ultralytics has made it so, and the one "
            "installed here would train a different network; pass the checkpoint from before"
        )


def _module_types(layers: nn.Module) -> dict[str, str]:
    found = layers.named_modules(remove_duplicate=False)  # an activation may be one module at many places
    return {name: type(module).__qualname__ for name, module in found}


def skeleton(yaml: dict[str, Any]) -> tuple[nn.Sequential, list[int]]:
    """The layers that Ultralytics builds from a YAML dict, shapes without memory or random numbers.

    With them come the indices of those that later ones read, as Ultralytics' models keep them.

    Raises:
        UnsupportedModelError: It would be far larger than any YOLO, and not end within time or memory.
        Exception: Whatever Ultralytics raises for what it can't build.
    """
    if (most := max(_repeats(yaml), default=0)) > _MOST_REPEATS:
        raise UnsupportedModelError(f"expected at most {_MOST_REPEATS} repeats of a layer, got {most:g}")
    with safe_load(), torch.device("meta"):  # an activation in the YAML would be evaluated
        layers, read = parse_model(copy.deepcopy(yaml), ch=yaml.get("channels", 3), verbose=False)
    if (count := sum(parameter.numel() for parameter in layers.parameters())) > _MOST_PARAMETERS:
        raise UnsupportedModelError(f"expected at most {_MOST_PARAMETERS:g} parameters, got {count:g}")
    return cast(nn.Sequential, layers), cast(list[int], read)


def _repeats(yaml: Mapping[str, Any]) -> list[float]:
    """How often Ultralytics repeats each layer; what it can't read is left for it to refuse."""
    found = []
    with contextlib.suppress(Exception):
        depth, scales = yaml.get("depth_multiple", 1.0), yaml.get("scales")
        if scales:
            depth = scales[yaml.get("scale") or next(iter(scales))][0]
        for row in [*yaml["backbone"], *yaml["head"]]:
            found.append(float(row[1] * depth if row[1] > 1 else row[1]))
    return found


def stock_yaml(model: Network) -> dict[str, Any]:
    """The YAML dict from which Ultralytics builds a network with exactly the widths of `model`.

    The model, of stock modules, has the rows of its `yaml`, which keep their sources and kernel sizes; widths, hidden
    widths and repeats are explicit, and no scale is left. The head keeps the string `nc`, so that Ultralytics can still
    transfer the model to another class count.
    """
    yaml = {key: value for key, value in copy.deepcopy(model.yaml).items() if key not in _SCALING}
    rows = yaml["backbone"] + yaml["head"]
    explicit = [
        [row[0], block_of(layer).repeats(layer), row[2], block_of(layer).row(layer, row[3])]
        for row, layer in zip(rows, model.model, strict=True)
    ]
    split, bins = len(yaml["backbone"]), model.model[-1].reg_max
    own = {"reg_max": bins} if bins != yaml.get("reg_max", 16) else {}
    return yaml | own | {"backbone": explicit[:split], "head": explicit[split:]}


def is_written_out(yaml: Mapping[str, Any]) -> bool:
    """Whether a YAML dict has the form of `stock_yaml`: no scale, and a share of its own for every hidden width."""
    shares = {type_.__name__: block.share for type_, block in BLOCKS.items() if block.share is not None}
    rows = [(row[3], shares[row[2]]) for row in [*yaml["backbone"], *yaml["head"]] if row[2] in shares]
    explicit = all(len(args) > place and args[place] not in (0.25, 0.5) for args, place in rows)
    return explicit and not any(yaml.get(key) for key in _SCALING if key != "scale")


def record_origin(yaml: Mapping[str, Any], original: Network) -> dict[str, Any]:
    """The YAML dict of a cut network with what it was cut from under "pruned", which Ultralytics ignores.

    Where `original` was cut itself, what that was cut from counts; where this can't be told, the result doesn't say.
    """
    file, known = original.yaml.get("yaml_file"), origin_of(original)
    if known is None and is_written_out(original.yaml):
        return {key: value for key, value in yaml.items() if key != "pruned"}
    parameters = sum(parameter.numel() for parameter in original.parameters())
    found = {"from": Path(file).stem if file else None, "classes": original.model[-1].nc, "parameters": parameters}
    origin, repeats = known or found | {"widths": layer_widths(original)}, layer_repeats(original)
    rows = [*yaml["backbone"], *yaml["head"]]
    if {repeats_name(i): row[1] for i, row in enumerate(rows) if repeats_name(i) in repeats} != repeats:
        origin = {**origin, "repeats": origin.get("repeats", repeats)}
    return {**yaml, "pruned": origin}


def origin_of(model: Network) -> dict[str, Any] | None:
    """What a network's YAML says that it was cut from; None where it doesn't say.

    That is "from" (a name, or None), and its "classes" and "parameters" (numbers) and "widths" (by name); and its
    "repeats" (by name) where some were left out.
    """
    found: Any = model.yaml.get("pruned")
    try:
        told = {"from": found["from"], **{key: int(found[key]) for key in ("classes", "parameters")}}
        for key in ("widths", *(["repeats"] if "repeats" in found else [])):
            told[key] = {str(name): int(number) for name, number in found[key].items()}
    except (TypeError, KeyError, ValueError, AttributeError):  # a checkpoint may say anything
        return None
    repeats = layer_repeats(model)
    own = told.get("repeats", repeats)
    emptied = {name[1:] for name, number in repeats.items() if not number and own.get(name)}
    known = layer_widths(model)
    told["widths"] = {n: c for n, c in known.items() if n == "reg_max"} | told["widths"]  # older ones lack it
    gone = {name for name in told["widths"].keys() - known.keys() if name[1:] in emptied}
    fits = told["widths"].keys() - gone == known.keys() and own.keys() == repeats.keys()
    return told if fits and told["parameters"] > 0 else None


def backbone_layers(model: Network) -> range:
    """Indices of the layers that the model's YAML calls its backbone."""
    yaml = getattr(model, "yaml", None)  # a checkpoint may hold anything
    rows = yaml.get("backbone") if isinstance(yaml, Mapping) else None
    return range(len(rows) if isinstance(rows, list) else 0)


@dataclass(frozen=True)
class Layer:
    """A layer as the model's YAML has it."""

    index: int  # its place in the network, from 0
    kind: str  # name of its type, such as "C2f"
    sources: tuple[int, ...]  # indices of the layers that it reads; -1 for the image
    part: str  # "backbone", "neck" or "head"
    stride: int  # pixels of the image per pixel of its output; of the head, of the first layer that it reads

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Layer":
        """The inverse of `dataclasses.asdict`, from JSON too."""
        return cls(**{**data, "sources": tuple(data["sources"])})


def list_layers(model: Network) -> tuple[Layer, ...]:
    """The layers of a network, in its order."""
    found: list[Layer] = []
    neck, head = len(backbone_layers(model)), len(model.model) - 1
    for i, layer in enumerate(model.model):
        read = sources(layer, i)
        stride = block_of(layer).stride(layer, found[read[0]].stride if found else 1)
        part = "backbone" if i < neck else "neck" if i < head else "head"
        found.append(Layer(i, type(layer).__name__, read, part, stride))
    return tuple(found)


def layer_widths(model: Network) -> dict[str, int]:
    """All widths of a network by name, in the order of the network; names as in `blocks.Width`."""
    return {width.name: width.channels for _, width in widths_of(model)}


def layer_repeats(model: Network) -> dict[str, int]:
    """Repeats of the layers that some can be left out of, by name, such as "d6", in the order of the network."""
    return {width.name: width.channels for _, width in repeats_of(model)}
