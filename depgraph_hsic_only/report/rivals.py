"""What else costs as little as the result of a run: what a user could deploy without cutting anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from depgraph_hsic_only.report.stages import StageReport
from depgraph_hsic_only.report.tables import Sheet, figure_text
from depgraph_hsic_only.yolo.tasks import TASKS

_FASTER = 0.97


@dataclass(frozen=True)
class Rival:
    """A model that was not cut, measured as the result was, but for the size of the images.

    Attributes:
        name: What it is, such as "the unpruned model at 224 px".
        imgsz: Side of its images, pixels.
        parameters: Number of its parameters.
        gmacs: Multiply-adds for one image of that side, in units of 10^9.
        map50_95: By kind of prediction, in [0, 1].
        latency_ms: Median milliseconds, deployed as the result is; None in the report of an older version.
        epochs: That it was trained on for, as the result was.
    """

    name: str
    imgsz: int
    parameters: int
    gmacs: float
    map50_95: Mapping[str, float]
    latency_ms: float | None = None
    epochs: int = 0


def rival_table(result: StageReport, worth: Mapping[str, float], imgsz: int, rivals: Sequence[Rival]) -> Sheet:
    """The result of a run, on images of `imgsz` pixels, and what costs about as little.

    The result is `worth` the mAP50-95 of what is deployed, by kind of prediction, as the rivals are.
    """
    kinds = TASKS[result.task].kinds
    own = Rival("the result", imgsz, result.parameters, result.gmacs, worth, result.deployed_ms)
    shown = (own, *rivals)
    lines = tuple(
        (
            f"{r.name}, {r.epochs} epoch{'s' * (r.epochs > 1)} more" if r.epochs else r.name,
            f"{r.imgsz}",
            f"{r.parameters:,}",
            f"{r.gmacs:.3f}",
            figure_text(r.latency_ms, ".1f"),
            *(figure_text(r.map50_95.get(k), ".4f") for k in kinds),
        )
        for r in shown
    )
    headings = ("model", "px", "parameters", "GMACs", "ms", *(f"{kind}\nmAP50-95" for kind in kinds))
    return Sheet("What else costs as little", headings, lines, "l" + "r" * (len(headings) - 1))


def better_rival(result: StageReport, worth: Mapping[str, float], rivals: Sequence[Rival]) -> str | None:
    """That a rival costs no more than the result and has more of the primary mAP50-95; None where none has.

    The result is `worth` the mAP50-95 of what is deployed, by kind of prediction, as the rivals are.

    It costs no more multiply-adds, or less time by more than two medians may differ by chance.
    """
    kind, own = result.primary, worth.get(result.primary)
    named = [(rival, _cheaper(rival, result)) for rival in rivals if kind in rival.map50_95]
    cheap = [(rival, cost) for rival, cost in named if cost is not None]
    best, cost = max(cheap, key=lambda pair: pair[0].map50_95[kind], default=(None, None))
    if own is None or best is None or best.map50_95[kind] <= own:
        return None
    trained = f", trained on for {best.epochs} epochs," if best.epochs else ""
    return f"but {best.name}{trained} costs {cost} and has {kind} mAP50-95 {best.map50_95[kind]:.3f}"


def _cheaper(rival: Rival, result: StageReport) -> str | None:
    """What a rival costs, where that is no more than what the result does, for people."""
    if rival.gmacs <= result.gmacs:
        return f"{rival.gmacs:.3f} GMACs"
    if rival.latency_ms and result.deployed_ms and rival.latency_ms < _FASTER * result.deployed_ms:
        return f"{rival.latency_ms:.1f} ms of {result.deployed_ms:.1f}"
    return None
