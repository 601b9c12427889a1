"""What a run's figures mean, in words: a headline, and what a reader should beware of."""

import statistics
from collections.abc import Mapping, Sequence

from depgraph_hsic_only.channels.budgets import Budget
from depgraph_hsic_only.report.exported import ExportedFile, few_text, other_warnings
from depgraph_hsic_only.report.pruning_report import STABLE, change_text, stability_text
from depgraph_hsic_only.report.stages import BASELINE, TITLES, TRAINED, StageReport, runtimes_of

SAME_SPEED = 0.02  # of the latency: less is not worth a word
_FEW_IMAGES = 128  # for calibration: re-fits on fewer do visibly less on other images
_MUCH = 0.1  # mAP50-95 that a class may lose without a warning
_FEW_INSTANCES = 10  # of a class: its mAP is then hardly more than chance
_NAMED = 3  # classes that a warning names
_SPOKEN = {"onnxruntime": "on this CPU with onnxruntime", "torch": "with PyTorch"}
_UNSURE = 0.01  # mAP50-95 that the choice of validation images may make without a warning


def before_stage(stages: Sequence[StageReport]) -> StageReport:
    """The model before the cut: as trained, else as loaded."""
    return [stage for stage in stages if stage.name in (BASELINE, TRAINED.name)][-1]


def missed_by(budget: Budget, before: StageReport, after: StageReport) -> float | None:
    """By how much the latency of the result, as it is deployed, misses a budget of it; 0 and below where it is met.

    In milliseconds where the budget is absolute, else a share of the unpruned model's. None where it was not measured.
    """
    full, own = before.deployed_ms, after.deployed_ms
    if full is None or own is None:
        return None
    return (own if budget.absolute else own / full) - budget.value


def headline(before: StageReport, after: StageReport, worth: Mapping[str, float]) -> str:
    """What was saved and what it cost, in one line, of the model before the cut and the result.

    The result is `worth` the mAP50-95 of what is deployed, by kind of prediction.
    """
    parameters, kind = change_text(before.parameters, after.parameters, "parameters"), after.primary
    return f"{parameters}, {_speed(before, after)}, {_map(kind, before.map50_95.get(kind), worth.get(kind))}"


def _speed(before: StageReport, after: StageReport) -> str:
    """How much faster the result is, each as it is deployed; in another runtime where that was not measured."""
    for was, now in ((before.deployed, after.deployed), *((runtime, runtime) for runtime in _SPOKEN)):
        b, a = before.latency_ms.get(was), after.latency_ms.get(now)
        if b and a:
            where = _SPOKEN.get(now, f"by {now}") if was == now else f"({was} before, {now} now)"
            if abs(a / b - 1) < SAME_SPEED:
                return f"as fast as before {where}"
            times = max(a / b, b / a)
            form = ".2f" if times < 1.1 else ".1f"
            noise = " (within the spread)" if _overlap(before, after, was, now) else ""
            return f"{times:{form}}× {'faster' if a < b else 'slower'} {where}{noise}"
    return "latency not compared"


def _map(kind: str, b: float | None, a: float | None) -> str:
    if a is None:
        return f"{kind} mAP50-95 not measured"
    if b is None:
        return f"{kind} mAP50-95 {a:.3f} (not measured before)"
    change = f"{a - b:+.3f}".replace("-", "−") if f"{a:.3f}" != f"{b:.3f}" else "unchanged"
    return f"{kind} mAP50-95 {b:.3f} → {a:.3f} ({change})"


def find_warnings(
    stages: Sequence[StageReport], images: Mapping[str, int], files: Sequence[ExportedFile] = ()
) -> list[str]:
    """What a reader should know before the figures are trusted, the gravest first; `images` are numbers by split."""
    before, after, found = before_stage(stages), stages[-1], []
    incomplete = [TITLES[stage.name] for stage in stages if stage.complete is False]
    if names := ", ".join([*incomplete, *(file.path for file in files if not file.complete)]):
        found.append(f"NMS ran out of time on this machine ({names}): the mAP is too low there; measure it again.")
    found += [*_lost_classes(before, after), *_unsure_map(before, after, images), *_calibration(stages, images)]
    few = {file.path: few_text(file.calibrated_on) for file in files if file.calibrated_on is not None}
    found += [f"{path} was quantised by {text}." for path, text in few.items() if text]
    found += [f"{text}." for text in other_warnings(files)]
    return [*found, *_unsure_speed(before, after)]


def _lost_classes(before: StageReport, after: StageReport) -> list[str]:
    kind = after.primary
    known = {row.name: row.map50_95[kind] for row in before.classes}
    losses = ((known[r.name] - r.map50_95[kind], r) for r in after.classes if r.name in known)
    # Those on enough instances to tell come first, the greatest of them first.
    ranked = (((r.instances < _FEW_INSTANCES, -loss, r.name), r) for loss, r in losses if loss >= _MUCH)
    lost = sorted(ranked, key=lambda pair: pair[0])
    if not lost:
        return []
    named = "; ".join(
        f"{name} {known[name]:.3f} → {r.map50_95[kind]:.3f} on {_counted(r.instances, 'instance')}"
        + (", too few to tell" if few else "")
        for (few, _, name), r in lost[:_NAMED]
    )
    more = f"; and {len(lost) - _NAMED} more in the table" if len(lost) > _NAMED else ""
    subject = "1 class has" if len(lost) == 1 else f"{len(lost)} classes have"
    return [f"{subject} lost at least {_MUCH:g} of {kind} mAP50-95: {named}{more}."]


def _unsure_map(before: StageReport, after: StageReport, images: Mapping[str, int]) -> list[str]:
    if not after.resampled:
        return []
    if (own := 2 * statistics.pstdev(after.resampled)) < _UNSURE:
        return []
    size = _counted(images["val"], "image")
    text = f"The validation set has {size}: the result's {after.primary} mAP50-95 is good to about ±{own:.3f}"
    if len(before.resampled) == len(after.resampled):
        change = [a - b for a, b in zip(after.resampled, before.resampled, strict=True)]
        text += f", its change to about ±{2 * statistics.pstdev(change):.3f}"
    return [f"{text} (two standard deviations over resampled images)."]


def _calibration(stages: Sequence[StageReport], images: Mapping[str, int]) -> list[str]:
    found = []
    for stage in stages:
        recovery, stability = stage.details.get("recovery"), stage.details.get("stability")
        if recovery and recovery["method"] != "none" and recovery["images"] < _FEW_IMAGES:
            count = recovery["images"]
            more = "set calibration.images higher" if images.get("train", 0) > count else "all that there are"
            found.append(f"The cut was recovered on {_counted(count, 'image')} only ({more}): more bring back more.")
        if stability is not None and stability < STABLE:
            found.append(f"{stability_text(stability).capitalize()}.")
    return found


def _unsure_speed(before: StageReport, after: StageReport) -> list[str]:
    found = []
    for runtime, title in runtimes_of(after).items():
        b, a = before.latency_spread_ms[runtime], after.latency_spread_ms[runtime]
        if b and a and before is not after and _overlap(before, after, runtime, runtime):
            found.append(
                f"The latencies with {title} overlap (10th to 90th percentile {b[0]:.1f} – {b[1]:.1f} ms before, "
                f"{a[0]:.1f} – {a[1]:.1f} ms after): measure again on a quiet machine."
            )
    return found


def _overlap(before: StageReport, after: StageReport, was: str, now: str) -> bool:
    """Whether the spreads of two latencies, where both were measured, have anything in common."""
    b, a = before.latency_spread_ms.get(was), after.latency_spread_ms.get(now)
    return b is not None and a is not None and a[0] <= b[1] and b[0] <= a[1]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
