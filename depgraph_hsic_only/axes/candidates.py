"""Ways to meet a budget: image sizes and precisions, each with the widths that are left to it, and which one is best.

Each axis is cheap at its beginning and steep at its end, so the best mixture takes the cheap beginnings of all (Han et
al. 2020, *Model Rubik's Cube*, arXiv:2010.14819). Nothing is fitted by a formula here: every candidate is cut,
recovered and measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.evaluation.deployed.deployment import FLOAT
from depgraph_hsic_only.support.nearest import nearest

WIDTH, DEPTH, IMGSZ, PRECISION = "width", "depth", "imgsz", "precision"
AXES = (WIDTH, DEPTH, IMGSZ, PRECISION)
_LEAST = 0.3  # of the side that is given: smaller images have never paid
_STEPS = 10  # of which the given side has so many, as far as the network's stride divides it
_WORSE = 2  # sizes in a row that are worse than the best one: larger ones, of which more is cut, are not tried
_MAY_GAIN = 0.8  # of the best score: what larger images must have to be worth a training
_BY_CHANCE = 0.9  # the same of smaller images, which only chance has put behind
_LITTLE = 0.05  # of the score: where the best candidate has lost no more by its precision, slower ones are not tried


@dataclass(frozen=True)
class Candidate:
    """A model that was cut to a target, recovered without training, and measured.

    Attributes:
        imgsz: Side of its images, pixels.
        precision: Of its file (see `deployment.PRECISIONS`).
        parameters: Number of its parameters; None where it can't meet the target.
        gmacs: Multiply-adds for one image, in units of 10^9; None likewise.
        score: Its primary mAP50-95 on held-out training images, in [0, 1]; None where it can't meet the target.
        cut: Whether anything was cut from it, or its images and its precision alone meet the target.
        lost: Of the score by its precision, where it was measured on its file; None where it was not, or is float.
        tuned: Primary mAP50-95 on the validation images once it was fine-tuned, in [0, 1], of its file where finalists
            differ in precision; None where it was not.
        why: Why it can't meet the target; empty where it does.
        seconds: Time that it took.
    """

    imgsz: int
    precision: str
    parameters: int | None = None
    gmacs: float | None = None
    score: float | None = None
    cut: bool = True
    lost: float | None = None
    tuned: float | None = None
    why: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[int, str]:
        """What tells it apart."""
        return self.imgsz, self.precision

    def __str__(self) -> str:
        if self.score is None:
            return f"{self.imgsz} px, {self.precision}: {self.why}"
        cost = f"{self.parameters:,} parameters, {self.gmacs:.3f} GMACs"
        return f"{self.imgsz} px, {self.precision}, {cost}: mAP50-95 {self.score:.4f}"


Candidates = Mapping[tuple[int, str], Candidate]
"""By side and precision."""


def read_axes(value: object, asked: Sequence[str] = AXES) -> tuple[str, ...]:
    """Axes as they are written: "width,imgsz" or a list of them, in the order of `AXES`; errors name those `asked` for.

    Raises:
        ConfigError: One is unknown, or there is none.
    """
    words = value.replace("+", ",").split(",") if isinstance(value, str) else value
    named = [str(word).strip() for word in words] if isinstance(words, Sequence) else []
    wrong = [word for word in named if word not in AXES]
    if wrong or not named:
        got = f"{wrong[0]!r}{nearest(wrong[0], asked)}" if wrong else repr(value)
        raise ConfigError(f"axes: expected one or several of {', '.join(asked)}, got {got}")
    return tuple(axis for axis in AXES if axis in named)


def candidate_sides(imgsz: int, stride: int) -> list[int]:
    """Sides of square images to try, pixels, ascending up to the given one, a multiple of the stride."""
    step = max(1, round(imgsz / stride / _STEPS)) * stride
    return list(range(imgsz, max(stride, round(_LEAST * imgsz)) - 1, -step))[::-1]


def search(
    sides: Sequence[int],
    precisions: Sequence[str],
    attempt: Callable[[int, str], Candidate],
    confirm: Callable[[Candidate], Candidate],
    known: Candidates,
    keep: Callable[[Candidates], None],
    first: Callable[[str], int],
    most: int = 1,
) -> tuple[Candidate, ...]:
    """The best candidates (see `leading`): the sizes of each precision upwards from where nothing is cut for them.

    The larger the images, the more is cut, so the scores rise and fall again. A slower precision needs more cut on
    images of any size, and is tried only where the faster ones have lost what it might not.

    Args:
        sides: Sides of images, ascending.
        precisions: The fastest first. Of several, what is lost by those that aren't float is measured for what may win.
        attempt: Makes and measures a candidate.
        confirm: The candidate with what its precision `lost`.
        known: Those of a search that was cut off.
        keep: Is given all candidates whenever one is new.
        first: The side that a precision begins with.
        most: How many are wanted.

    Raises:
        ConfigError: None meets the target; the message is that of the one that comes last.
    """
    found, best_ones = dict(known), tuple[Candidate, ...]()

    def put(candidate: Candidate) -> Candidate:
        found[candidate.key] = candidate
        keep(found)
        return candidate

    for precision in precisions:
        best, worse = -1.0, 0
        for side in sides[sides.index(first(precision)) :]:
            candidate = found.get((side, precision)) or put(attempt(side, precision))
            if candidate.score is None:  # larger ones meet the target even less
                break
            score = candidate.score + (candidate.lost or 0.0)
            best, worse = max(best, score), 0 if score > best else worse + 1
            if worse == _WORSE:
                break
        while best_ones := leading(found.values(), most):
            unsure = [c for c in best_ones if c.precision != FLOAT and c.lost is None and len(precisions) > 1]
            if not unsure:
                break
            put(confirm(unsure[0]))
        lead = best_ones[0] if best_ones else None
        if lead and lead.precision == precision and (lead.lost or 0.0) <= _LITTLE * (lead.score or 0.0):
            break
    if not best_ones:
        raise ConfigError(list(found.values())[-1].why)
    return best_ones


def leading(candidates: Iterable[Candidate], most: int) -> tuple[Candidate, ...]:
    """The best candidate, and those that a training may put before it, at most so many in all.

    A training brings back what narrower layers have lost, and not what smaller images never show: so larger images come
    first, and of smaller ones those alone that chance may have put behind. Of each size there is one.
    """
    ranked = sorted((c for c in candidates if c.score is not None), key=lambda c: (-(c.score or 0.0), -c.imgsz))
    first: dict[int, Candidate] = {}
    for candidate in ranked:
        least = _MAY_GAIN if candidate.imgsz >= ranked[0].imgsz else _BY_CHANCE
        if (candidate.score or 0.0) >= least * (ranked[0].score or 0.0):
            first.setdefault(candidate.imgsz, candidate)
    found = list(first.values())
    return tuple([*found[:1], *sorted(found[1:], key=lambda c: c.imgsz < found[0].imgsz)][:most])


def to_dict(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The candidates as plain dicts, strings and numbers."""
    return [asdict(candidate) for candidate in candidates]


def from_dict(data: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Candidate]:
    """The inverse of `to_dict`."""
    return {candidate.key: candidate for candidate in (Candidate(**row) for row in data)}
