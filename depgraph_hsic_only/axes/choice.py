"""The search of a run: begun, kept in a file, gone on with, and what it has chosen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depgraph_hsic_only.axes.candidates import PRECISION, Candidate, Candidates, from_dict, search, to_dict
from depgraph_hsic_only.axes.trials import Judge, Subject, Trials, sides_of, worthwhile_precisions
from depgraph_hsic_only.support.files import write_text_atomically
from depgraph_hsic_only.support.fingerprint import fingerprint


@dataclass(frozen=True)
class Choice:
    """What a search has tried, and what it has chosen of that.

    Attributes:
        candidates: In the order in which they were tried.
        chosen: Side in pixels and precision of the best one.
        images: Number of held-out training images that the candidates were measured on.
        finalists: Those that are worth a training, the chosen one first.
    """

    candidates: tuple[Candidate, ...]
    chosen: tuple[int, str]
    images: int
    finalists: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The candidate that was chosen."""
        return next(candidate for candidate in self.candidates if candidate.key == self.chosen)

    def decided(self, tuned: Mapping[tuple[int, str], float]) -> "Choice":
        """The same once finalists were fine-tuned, by what each is worth then: the best of them is chosen."""
        rows = tuple(replace(c, tuned=tuned[c.key]) if c.key in tuned else c for c in self.candidates)
        return replace(self, candidates=rows, chosen=max(tuned, key=lambda key: tuned[key]))

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain lists, dicts, strings and numbers."""
        rows = zip(self.candidates, to_dict(self.candidates), strict=True)
        return {"images": self.images, "candidates": [{**row, "chosen": c is self.best} for c, row in rows]}

    def __str__(self) -> str:
        scored = sum(candidate.score is not None for candidate in self.candidates)
        of = "the only candidate" if scored == 1 else f"the best of {scored} candidates"
        found = f"{self.best}, {of} on {self.images} held-out training images"
        return found + (f"; {self.best.precision} has lost {self.best.lost:.4f} of it" if self.best.lost else "")


def choose(subject: Subject, judge: Judge, axes: Sequence[str], path: Path, folder: Path, most: int = 1) -> Choice:
    """Search for the best image size and precision, as far as they are among the axes.

    Args:
        subject: What the candidates are made of.
        judge: Measures them.
        axes: Some of `candidates.AXES`; widths and repeats are the planner's.
        path: JSON file that keeps the candidates: what was made before of the same subject is not made again.
        folder: For what is needed meanwhile.
        most: How many finalists there may be.

    Raises:
        ConfigError: None meets the target.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials, planner, network = Trials(subject, judge, folder), subject.planner, subject.model.model
    settings = planner, subject.sensitivity, subject.method, judge.validation, judge.dataset.digest(), tuple(axes)
    key = fingerprint(network, list(subject.scores.values()), repr(settings))
    kept = _read(path)
    if kept.get("key") != key:
        kept = {"key": key}

    def write(**found: object) -> None:
        kept.update(found)
        _write(path, kept)

    def keep(found: Candidates) -> None:
        write(candidates=to_dict(list(found.values())))

    if "precisions" not in kept:
        own = [planner.deployment(network).precision]
        write(precisions=worthwhile_precisions(planner, network) if PRECISION in axes else own)
    sides, made = sides_of(planner, network, axes), from_dict(kept.get("candidates", []))
    made = {key: replace(candidate, tuned=None) for key, candidate in made.items()}
    keep(made)

    def first(precision: str) -> int:
        begun: dict[str, int] = kept.setdefault("first", {})
        if precision not in begun:
            write(first=begun | {precision: trials.first(sides, precision)})
        return int(kept["first"][precision])

    best = search(sides, kept["precisions"], trials.attempt, trials.confirm, made, keep, first, most)
    write(chosen=best[0].key)
    return Choice(tuple(from_dict(kept["candidates"]).values()), best[0].key, len(judge.parts[1]), best)


def keep_decision(path: Path, choice: Choice) -> None:
    """Put a choice that was decided by fine-tuning into the file of the search."""
    _write(path, _read(path) | {"chosen": choice.chosen, "candidates": to_dict(choice.candidates)})


def chosen_in(path: Path) -> tuple[int, str] | None:
    """Side and precision that a search has chosen, by its file; None where it has not, or there was none."""
    kept = _read(path)
    return tuple(kept["chosen"]) if "chosen" in kept else None


def _read(path: Path) -> dict[str, Any]:
    """What the file of a search holds; nothing where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    """The inverse."""
    write_text_atomically(path, json.dumps(kept, indent=1, allow_nan=False) + "\n")
