"""How fast a network is with widths that have not been settled yet, on this device, against the unpruned one."""

import shutil
import statistics
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from depgraph_hsic_only.channels.cut import cut_to
from depgraph_hsic_only.channels.groups import ChannelGraph
from depgraph_hsic_only.evaluation.deployed.deployment import Deployment, Timed
from depgraph_hsic_only.evaluation.latency import time_rounds
from depgraph_hsic_only.support.machine import Watch, watched
from depgraph_hsic_only.support.progress import say
from depgraph_hsic_only.yolo.types import Network

_ROUNDS = 40
_ATTEMPTS = 3  # at a quiet machine


@dataclass(frozen=True)
class TimeShare:
    """The latency of a network as a share of the unpruned one's: the median over the rounds, and what it may be.

    The true median is within [low, high] with a confidence of about 95 %: the interval of the sign test, over the
    rounds' own shares, so that neither the machine's drift nor a few outliers move it.
    """

    median: float
    low: float
    high: float
    full_ms: float  # median of the unpruned network in the same rounds, milliseconds
    cut_ms: tuple[float, float, float]  # of the network itself: median, and what it may be, milliseconds

    @classmethod
    def of(cls, full: Sequence[float], cut: Sequence[float]) -> "TimeShare":
        """From the durations of both in the same rounds, seconds, of which there are at least two."""
        share = _median([c / f for c, f in zip(cut, full, strict=True)])
        return cls(*share, 1e3 * statistics.median(full), _median([1e3 * c for c in cut]))

    def __str__(self) -> str:
        return f"{self.median:.3f} of the unpruned model's time ({self.low:.3f} to {self.high:.3f})"


def _median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the interval that holds the true one."""
    ranked, outside = sorted(values), max(0, len(values) * 3 // 10 - 1)  # 5 of 20 rounds on either side: 96 %
    return statistics.median(ranked), ranked[outside], ranked[-1 - outside]


def relative_latency(
    network: Network, graph: ChannelGraph, deployment: Deployment, unpruned: Deployment | None = None
) -> Callable[[Mapping[str, int]], TimeShare]:
    """A function of the widths that measures the latency of the cut network as a share of the full one's.

    Both run in turns, so that the machine's drift hits both: the cut network as the `deployment` says, the full one as
    `unpruned` does, where that is another. Which channels stay makes no difference to it. The network is the unpruned
    one, on the device to measure on, and the graph its channel groups.

    Raises:
        ConfigError: It can't be timed so here; the function says so too.
    """
    timed = deployment.on(next(network.parameters()).device)
    said: list[str] = []  # once is enough
    kept = tempfile.mkdtemp()
    try:
        full = (unpruned or deployment).prepare(network, Path(kept))
    except BaseException:
        shutil.rmtree(kept)
        raise

    def share(widths: Mapping[str, int]) -> TimeShare:
        with tempfile.TemporaryDirectory() as folder:
            runs = {"full": full, "cut": deployment.prepare(cut_to(network, graph, widths), Path(folder))}
            seconds, machine = _quietly(lambda: time_rounds(runs, timed.threads, _ROUNDS), timed)
        found = TimeShare.of(seconds["full"], seconds["cut"])
        before, after = (1e3 * statistics.median(seconds[name]) for name in ("full", "cut"))
        say(f"latency {before:.1f} -> {after:.1f} ms for {timed}: {found}")
        if (warning := timed.watched(machine).warning) is not None and not said:
            said.append(warning)
            say(warning)
        return found

    weakref.finalize(share, shutil.rmtree, kept, ignore_errors=True)
    return share


def _quietly(measure: Callable[[], dict[str, list[float]]], timed: Timed) -> tuple[dict[str, list[float]], Watch]:
    """What is measured on a machine that is busy with nothing else; after some attempts, when it was least busy."""
    found: list[tuple[dict[str, list[float]], Watch]] = []
    while len(found) < _ATTEMPTS:
        with watched() as machine:
            seconds = measure()
        found.append((seconds, machine))
        if timed.watched(machine).warning is None:
            break
    return min(found, key=lambda attempt: attempt[1].others)
