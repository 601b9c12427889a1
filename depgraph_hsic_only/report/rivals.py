"""What else costs as little as the result of a run: what a user could deploy without cutting anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from depgraph_hsic_only.report.stages import StageReport
from depgraph_hsic_only.report.tables import Sheet, figure_text
from depgraph_hsic_only.yolo.tasks import TASKS


@dataclass(frozen=True)
class Rival:
    """A model that was not cut, measured as the result was, but for the size of the images.

    Attributes:
        name: What it is, such as "the unpruned model at 224 px".
        imgsz: Side of its images, pixels.
        parameters: Number of its parameters.
        gmacs: Multiply-adds for one image of that side, in units of 10^9.
        map50_95: By kind of prediction, in [0, 1].
    """

    name: str
    imgsz: int
    parameters: int
    gmacs: float
    map50_95: Mapping[str, float]


def rival_table(result: StageReport, imgsz: int, rivals: Sequence[Rival]) -> Sheet:
    """The result of a run, on images of `imgsz` pixels, and what costs about as little."""
    kinds = TASKS[result.task].kinds
    shown = (Rival("the result", imgsz, result.parameters, result.gmacs, result.map50_95), *rivals)
    lines = tuple(
        (
            r.name,
            f"{r.imgsz}",
            f"{r.parameters:,}",
            f"{r.gmacs:.3f}",
            *(figure_text(r.map50_95.get(k), ".4f") for k in kinds),
        )
        for r in shown
    )
    headings = ("model", "px", "parameters", "GMACs", *(f"{kind}\nmAP50-95" for kind in kinds))
    return Sheet("What else costs as little, without any training", headings, lines, "l" + "r" * (len(headings) - 1))


def better_rival(result: StageReport, rivals: Sequence[Rival]) -> str | None:
    """That a rival costs no more multiply-adds and has more of the primary mAP50-95; None where none has."""
    kind, own = result.primary, result.map50_95.get(result.primary)
    cheap = [rival for rival in rivals if rival.gmacs <= result.gmacs and kind in rival.map50_95]
    best = max(cheap, key=lambda rival: rival.map50_95[kind], default=None)
    if own is None or best is None or best.map50_95[kind] <= own:
        return None
    return f"but {best.name} costs {best.gmacs:.3f} GMACs and has {kind} mAP50-95 {best.map50_95[kind]:.3f}"
