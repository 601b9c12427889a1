"""Between which values the activations of an ONNX file are rounded to 8 bits: where the squared error is least.

The whole range wastes levels on values that are hardly ever there, and most of all before a SiLU: what is far below
zero there, which may be half of the range, comes out of it as nearly nothing. So the error of such a tensor is that of
the SiLU of it. The rest is calibration by mean squared error, as in Banner et al., "Post training 4-bit quantization of
convolutional networks for rapid-deployment" (NeurIPS 2019), with ends that are sought and not computed.
"""

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depgraph_hsic_only.errors import ExportError

Floats = NDArray[np.float64]

_LEVELS = 255  # steps between the ends of a range
_BINS = 2048  # of a histogram
_SAMPLE = 10_000  # values of a tensor and an image that are counted, evenly spaced
_SHARES = np.array([*np.linspace(1, 0.4, 13), 0.3, 0.2, 0.15, 0.1])  # of the extremes, where ranges may end
_SILU = {"Sigmoid", "Mul"}  # what reads its input
_PASSING = {"Split", "MaxPool", "Resize"}  # what comes out of these is of the range of what goes in


def activation_ranges(
    model: Any, nodes: Iterable[Any], feeds: Callable[[], Iterable[Mapping[str, Any]]], batch: int
) -> dict[str, tuple[float, float]]:
    """The ranges of all activations that some nodes of a file read or write, but for those that are passed on.

    Args:
        model: What is in the file, in float32, as `onnx.load` reads it; it is left as it is.
        nodes: Of its graph: those that are to compute in 8 bits.
        feeds: What the file is run on, one batch after the other; it is called twice.
        batch: Number of images in each of them.

    Returns:
        The ends by tensor: the lowest of at most 0, the highest of at least 0.

    Raises:
        ExportError: An activation is not finite.
    """
    made, readers = {entry.name for entry in model.graph.input}, defaultdict[str, list[str]](list)
    for node in model.graph.node:
        made |= set() if node.op_type in {"Constant", *_PASSING} else set(node.output)
        for name in node.input:
            readers[name].append(node.op_type)
    names = list(dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name in made))
    extremes = [(kind, name) for name in names for kind in ("ReduceMin", "ReduceMax", "Size")]
    first, *more = _probed(model, [_whole(*one) for one in extremes], feeds())
    # with free axes the same kinds of nodes compute the shapes of tensors, in integers
    floats = [k for k, low in enumerate(first[::3]) if low.dtype == np.float32]
    found = np.array([first, *more], dtype=float).reshape(-1, len(names), 3)[:, floats]
    names = [names[k] for k in floats]
    lowest, highest = np.minimum(found[..., 0].min(0), 0), np.maximum(found[..., 1].max(0), 0)
    steps = (found[0, :, 2] / batch).astype(int) // _SAMPLE | 1  # odd: an even one leaves out columns of every map
    counts = np.zeros((len(names), _BINS))
    for values in _probed(model, itertools.starmap(_every, zip(steps.tolist(), names, strict=True)), feeds()):
        for k, few in enumerate(values):
            if not (np.isfinite(few).all() and np.isfinite([lowest[k], highest[k]]).all()):
                raise ExportError(f"expected finite activations, got others in {names[k]}; export a model that works")
            counts[k] += torch.histc(torch.from_numpy(few), _BINS, lowest[k], highest[k]).numpy()
    reads = [_silu if set(readers[name]) == _SILU else _itself for name in names]
    ends = map(_least_error, counts, lowest, highest, reads)
    return dict(zip(names, ends, strict=True))


def _probed(model: Any, probes: Iterable[Sequence[Any]], feeds: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """What probes, each some nodes of which the last one's output counts, find in a file that is run on some feeds.

    A probe sees a tensor soon after it was computed: all tensors at once may be more than the memory holds.
    """
    import onnx  # these take a second that most commands don't need
    import onnxruntime

    model, outputs = copy.deepcopy(model), []
    for nodes in probes:
        model.graph.node.extend(nodes)
        outputs.append(nodes[-1].output[0])
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # by default the probes come last
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return (session.run(outputs, dict(feed)) for feed in feeds)


def _whole(kind: str, name: str) -> list[Any]:
    """A probe of all of a tensor: "ReduceMin", "ReduceMax" or "Size"."""
    from onnx.helper import make_node

    return [make_node(kind, [name], [f"{kind} of {name}"], **({} if kind == "Size" else {"keepdims": 0}))]


def _every(step: int, name: str) -> list[Any]:
    """A probe of every so many of a tensor's values, the first one among them."""
    from onnx.helper import make_node

    inputs = {"all": -1, "first": 0, "end": np.iinfo(np.int64).max, "axis": 0, "step": step}
    called = {key: f"{key} of {name}" for key in inputs}
    numbers = [make_node("Constant", [], [called[key]], value_ints=[value]) for key, value in inputs.items()]
    flat = make_node("Reshape", [name, called["all"]], [f"flat {name}"])
    taken = [called[key] for key in ("first", "end", "axis", "step")]
    return [*numbers, flat, make_node("Slice", [flat.output[0], *taken], [f"some of {name}"])]


def _least_error(
    counts: Floats, lowest: float, highest: float, reads: Callable[[Floats], Floats]
) -> tuple[float, float]:
    """The range of the least squared error of what reads rounded values, by how many there are in equal bins."""
    if lowest == highest:
        return 0.0, 0.0
    edges = np.linspace(lowest, highest, _BINS + 1)
    values = (edges[1:] + edges[:-1]) / 2
    lows, highs = (ends.reshape(-1, 1) for ends in np.meshgrid(lowest * _SHARES, highest * _SHARES))
    step = (highs - lows) / _LEVELS
    zero = np.round(-lows / step)
    rounded = (np.clip(np.round(values / step) + zero, 0, _LEVELS) - zero) * step
    best = int(np.argmin((reads(rounded) - reads(values)) ** 2 @ counts))
    return float(lows[best, 0]), float(highs[best, 0])


def _itself(values: Floats) -> Floats:
    return values


def _silu(values: Floats) -> Floats:
    found: Floats = values * (1 + np.tanh(values / 2)) / 2  # the same as by exp, which overflows
    return found
