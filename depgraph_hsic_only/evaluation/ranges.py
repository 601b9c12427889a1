"""Between which values the activations of an ONNX file are rounded to 8 bits: where the squared error is least.

The whole range wastes levels on values that are hardly ever there, and most of all before a SiLU: what is far below
zero there, which may be half of the range, comes out of it as nearly nothing. So the error of such a tensor is that of
the SiLU of it. The rest is calibration by mean squared error, as in Banner et al., "Post training 4-bit quantization of
convolutional networks for rapid-deployment" (NeurIPS 2019), with ends that are sought and not computed.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEVELS = 255  # steps between the ends of a range
_BINS = 2048  # of a histogram
_SAMPLE = 10_000  # values of a tensor and an image that are counted, evenly spaced
_SHARES = np.array([*np.linspace(1, 0.4, 13), 0.3, 0.2, 0.15, 0.1])  # of the extremes, where ranges may end
_SILU = {"Sigmoid", "Mul"}  # what reads its input
_PASSING = {"Split", "MaxPool", "Resize"}  # what comes out of these is of the range of what goes in


def activation_ranges(
    model: Any, nodes: Iterable[Any], feeds: Callable[[], Iterable[Mapping[str, Any]]]
) -> dict[str, tuple[float, float]]:
    """The ranges of all activations that some nodes of a file read or write, but for those that are passed on.

    Args:
        model: What is in the file, in float32, as `onnx.load` reads it; it is left as it is.
        nodes: Of its graph: those that are to compute in 8 bits.
        feeds: What the file is run on, one image after the other; it is called twice.

    Returns:
        The ends by tensor: the lowest of at most 0, the highest of at least 0.
    """
    import onnx  # these take a second that most commands don't need
    import onnxruntime

    model = copy.deepcopy(model)
    graph, readers = model.graph, defaultdict[str, list[str]](list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node.op_type)
    made = {entry.name for entry in graph.input}
    made |= {name for node in graph.node if node.op_type not in {"Constant", *_PASSING} for name in node.output}
    names = list(dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name in made))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run() -> Iterable[list[Any]]:
        return (session.run(names, dict(feed)) for feed in feeds())

    lowest, highest = np.zeros(len(names)), np.zeros(len(names))
    for values in run():
        lowest = np.minimum(lowest, [value.min() for value in values])
        highest = np.maximum(highest, [value.max() for value in values])
    counts = np.zeros((len(names), _BINS))
    for values in run():
        for k, value in enumerate(values):
            few = value.reshape(-1)[:: value.size // _SAMPLE | 1]  # odd, so that no column of a map is left out
            counts[k] += torch.histc(torch.from_numpy(few), _BINS, lowest[k], highest[k]).numpy()
    reads = [_silu if set(readers[name]) == _SILU else _itself for name in names]
    ends = map(_least_error, counts, lowest, highest, reads)
    return dict(zip(names, ends, strict=True))


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
