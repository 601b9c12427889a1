"""How much it hurts to cut one width alone: measured, for every free width, on calibration images without labels.

Each width is cut to a few sizes, repeats to every number, with nothing else cut, what reads it is re-fitted by least
squares (see `least_squares.py`) on two thirds of the images, and the divergence of the predictions from the original's
is measured on the others (see `divergence.py`): on images that were fitted it is half as large, and least where most is
fitted. What lies in front of the cut is the original, so it is computed once for all.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.channels.groups import ChannelGraph, WidthGroup
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.plan import make_plan
from depgraph_hsic_only.channels.widths import Scores, follow_ties
from depgraph_hsic_only.data.images import spread
from depgraph_hsic_only.recovery.divergence import mean_divergence
from depgraph_hsic_only.recovery.layerwise import LayerwisePass, batch_size, evaluating
from depgraph_hsic_only.recovery.positions import SampledPositions, choose_positions
from depgraph_hsic_only.recovery.refit import Targets, refit, targets_kept, touched_convolutions
from depgraph_hsic_only.support.progress import track
from depgraph_hsic_only.support.threads import measuring
from depgraph_hsic_only.yolo.blocks import stock_paths
from depgraph_hsic_only.yolo.predictions import Predictions, head_predictions
from depgraph_hsic_only.yolo.types import Network

_SHARES = (0.75, 0.5, 0.25)  # of a width that are measured
_QUICK_SHARES = (0.5,)
_IMAGES = 48  # of which the scan reads at most so many, evenly spaced
_HELD = 3  # one image of so many is held out
_POSITIONS = 100  # of each image: half the weights of a convolution have to be told apart, not its last digit
_RIDGE = 3e-2  # so few positions leave weights of a wide convolution open: less, and the damage is that of the fit
_EXPONENT = 1.5  # of the share cut, where one size alone was measured
_BELOW = 1.25  # of 1 / the channels left, below the sizes that were measured; in YOLOv8n-seg 0.5 to 1.4 by width


@dataclass(frozen=True)
class Sensitivity:
    """Measured damage of every free width.

    By width group, for some numbers of channels, ascending, it is the divergence from the original's predictions with
    that width alone cut to it and re-fitted; at least 0.
    """

    damage: Mapping[str, Mapping[int, float]]
    full: Mapping[str, int]  # channels of each of these width groups in the original
    images: int  # number of calibration images
    seconds: float  # time it took
    quick: bool = False  # a scan of fewer images, one size for each width

    def at(self, name: str, channels: float) -> float:
        """Damage at any number of channels: between measured ones and past them by a power law of the share cut.

        Below the fewest that were measured it grows at least as fast as the channels dwindle: a law of the share cut
        hardly tells the last few apart, of which each is worth more than the one before.
        """
        full, points = self.full[name], self.damage[name]
        if channels == full or not points:
            return 0.0 if channels == full else math.inf
        cut = sorted((1 - c / full, d) for c, d in points.items())
        known: list[tuple[float, float]] = []
        for share, d in cut:  # more of a cut never hurts less, and logarithms need something
            known.append((math.log(share), math.log(max(d, 1e-9, *(math.exp(k[1]) for k in known)))))
        x, fewest = math.log(1 - channels / full), min(points)
        least = points[fewest] * (fewest / channels) ** _BELOW if 0 < channels < fewest else 0.0  # repeats may be none
        x0, y0 = known[0]
        slope = _EXPONENT
        if len(known) > 1:
            k = min(max(1, sum(x > a for a, _ in known)), len(known) - 1)
            (x0, y0), (x1, y1) = known[k - 1], known[k]
            slope = (y1 - y0) / (x1 - x0)
            if x < x0:
                slope = min(max(slope, 1.0), 2.0)  # small cuts: between linear and quadratic
        return max(math.exp(y0 + slope * (x - x0)), least)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain dicts, strings and numbers."""
        damage = {name: {str(c): d for c, d in points.items()} for name, points in self.damage.items()}
        return asdict(self) | {"damage": damage}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Sensitivity":
        """The inverse of `to_dict`."""
        damage = {name: {int(c): float(d) for c, d in points.items()} for name, points in data["damage"].items()}
        return cls(damage, data["full"], data["images"], data["seconds"], data["quick"])


@measuring()
def measure_sensitivity(
    network: Network,
    graph: ChannelGraph,
    scores: Scores,
    images: torch.Tensor,
    *,
    limits: Limits,
    quick: bool = False,
    seed: int = 0,
) -> Sensitivity:
    """Cut every free width alone to some sizes, recover, and measure; the unpruned network is left as it is.

    The scores say which channels stay; nothing beyond the limits is measured. The images are (n, c, h, w), float in
    [0, 1] or uint8, letterboxed as in validation.

    Raises:
        DataError: An activation is not finite.
    """
    start = time.perf_counter()
    batch = batch_size(images)
    images = images[spread(len(images), _IMAGES)]
    fitted, held = split_images(images)
    sizes = {w.name: _sizes(w, limits, quick) for w in graph.widths if w.tie is None}
    damage: dict[str, dict[int, float]] = {name: {} for name in sizes}
    total = sum(map(len, sizes.values()))
    consumers = stock_paths(graph.model, graph.consumers)
    with evaluating(network, auxiliary=True):
        sampled = choose_positions(network, consumers, fitted, positions=_POSITIONS, seed=seed)
        passes = LayerwisePass(network, fitted, batch=batch), LayerwisePass(network, held, batch=batch)
        targets = targets_kept(passes[0].fork(network), sampled)
        damages = _damages(network, graph, scores, *passes, sampled, targets, sizes)
        for name, channels, found in track(damages, "sensitivity", total):
            damage[name][channels] = found
    full = {w.name: w.channels for w in graph.widths if w.tie is None}
    return Sensitivity(damage, full, len(images), time.perf_counter() - start, quick)


def split_images(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The images to fit on, and those to measure on; fewer than three are both."""
    if len(images) < _HELD:
        return images, images
    held = torch.arange(len(images)) % _HELD == _HELD - 1
    return images[~held], images[held]


def _sizes(width: WidthGroup, limits: Limits, quick: bool) -> list[int]:
    """The numbers of channels, or repeats, to measure, ascending."""
    multiple, smallest = limits.multiple(width), limits.smallest(width)
    if width.is_repeats and not quick:
        return [*range(smallest, width.channels)]
    shares = _QUICK_SHARES if quick else _SHARES
    rounded = {max(smallest, round(share * width.channels / multiple) * multiple) for share in shares}
    return sorted(channels for channels in rounded if channels < width.channels)


def _damages(
    network: Network,
    graph: ChannelGraph,
    scores: Scores,
    fitted: LayerwisePass,
    held: LayerwisePass,
    sampled: Mapping[str, SampledPositions],
    targets: Targets,
    sizes: Mapping[str, list[int]],
) -> Iterator[tuple[str, int, float]]:
    """Width, channels and damage, one after the other, layer by layer."""
    wanted = list(_outputs(held.fork(network)))
    for i in range(len(network.model)):
        alone = graph.of_layer(i)
        for width in (w for w in alone.widths if w.tie is None):
            for channels in sizes[width.name]:
                widths = follow_ties(alone, alone.full | {width.name: channels})
                plan = make_plan(alone, scores, widths, criterion="", reasons=dict.fromkeys(widths, ""))
                found = cut(network, plan)
                student = found.network
                read = {  # one that has only lost outputs still does exactly what it did
                    name: sampled[name]
                    for name in touched_convolutions(student, network)
                    if name in sampled and _reads(student, name) != _reads(network, name)
                }
                with evaluating(student, auxiliary=True):
                    for _ in refit(fitted.fork(student), targets, read, found.kept, _RIDGE):
                        continue
                    outputs = zip(_outputs(held.fork(student)), wanted, strict=True)
                    yield width.name, channels, mean_divergence(outputs)
        if i < fitted.last:
            fitted.step()
            held.step()


@torch.no_grad()
def _outputs(ahead: LayerwisePass) -> Iterator[Predictions]:
    """What the head puts out, batch by batch."""
    while ahead.index < ahead.last:
        ahead.step()
    for x in ahead.inputs():
        yield head_predictions(ahead.layer, x)


def _reads(network: Network, name: str) -> int:
    """Number of channels that each output of a convolution is made of: one, of a depthwise convolution."""
    conv = network.get_submodule(name)
    return int(conv.in_channels // conv.groups)
