"""What a network may cost, as people state it: a share of the unpruned one's cost, or an amount in its own unit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple, TypeGuard

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.support.nearest import nearest

TARGETS = {
    "params": "parameters",
    "gmacs": "multiply-adds",
    "size": "bytes of the file",
    "latency": "latency",
}
FORMS = (
    "budgets such as params=0.8, gmacs=0.75, size=0.5 or latency=0.8 (of the unpruned model), params=2.5M, gmacs=3G, "
    "size=5MB or latency=12ms, or several such as latency=0.5,params=2M"
)
_WRITTEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_NEXT = re.compile(r"[,+](?=[^,+=]*=)")  # between two budgets: before a metric and its "="; 1e+6 has a plus of its own


class _Unit(NamedTuple):
    """In what absolute amounts of a metric are written."""

    shown: str  # the unit that they are shown in
    factors: Mapping[str, float]  # by unit, in lower case: how much of the metric's own unit one is
    plain: float  # a number without a unit is one of its own unit from here on
    example: str


_UNITS = {
    "params": _Unit("M", {"k": 1e3, "m": 1e6}, 1000, "2.5M"),
    "gmacs": _Unit("G", {"m": 1e-3, "g": 1.0}, 1, "3G"),
    "size": _Unit("MB", {"kb": 1e-3, "mb": 1.0}, float("inf"), "5MB"),
    "latency": _Unit("ms", {"ms": 1.0, "s": 1e3}, float("inf"), "12ms"),
}


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost by one metric.

    Attributes:
        metric: "params", "gmacs" (multiply-adds for one image), "size" (of the exported file) or "latency".
        value: A share of what the unpruned network costs, in (0, 1]; where it is `absolute`, above 0: a number of
            parameters, 10^9 multiply-adds, 10^6 bytes, milliseconds.
        absolute: Whether it is no share.
        asked: As what it was stated, where that was a share which is `fixed` by now.
    """

    metric: str
    value: float
    absolute: bool = False
    asked: str = field(default="", compare=False)

    @classmethod
    def of(cls, metric: object, value: object, setting: str = "target") -> "Budget":
        """A budget as it is written: a number in (0, 1] is a share, and what has a unit is absolute.

        So are a number above 1 for "gmacs" and one of at least 1000 for "params". Messages begin with the `setting`.

        Raises:
            ConfigError: There is no such metric, or no such amount of it.
        """
        if not isinstance(metric, str) or metric not in TARGETS:
            raise ConfigError(f"{setting}: expected {FORMS}, got {metric!r}{nearest(str(metric), TARGETS)}")
        unit, found = _UNITS[metric], _WRITTEN.fullmatch(str(value))
        if not (found and (isinstance(value, str) or is_number(value))):
            raise ConfigError(
                f"{setting}: expected {FORMS}, got {metric}={value}, which is no number with a unit or none"
            )
        number, written = float(found[1]), found[2]
        if not written and 0 < number <= 1:
            return cls(metric, number)
        factor = unit.factors.get(written.lower()) if written else 1.0 if number >= unit.plain else None
        if factor is None or not 0 < number < float("inf"):
            known = "no amount of it" if written else "no share in (0, 1], and no amount without a unit"
            why = f"which is {known} such as {unit.example}"
            raise ConfigError(f"{setting}: expected {FORMS}, got {metric}={value}, {why}")
        return cls(metric, number * factor, absolute=True)

    @property
    def is_nothing(self) -> bool:
        """Whether every network meets it that was cut from the unpruned one, as that does: a share of 1."""
        return not self.absolute and self.value == 1

    def limit(self, full: float) -> float:
        """The most that is allowed of what costs `full` unpruned, in the unit of both."""
        return self.value if self.absolute else self.value * full

    def fixed(self, full: float) -> "Budget":
        """The same as an absolute amount, of what costs `full` unpruned."""
        return self if self.absolute else replace(self, value=self.limit(full), absolute=True, asked=str(self))

    def partly(self, share: Fraction, full: float) -> "Budget":
        """The budget after a share of the way from the unpruned network, which costs `full`."""
        whole = full if self.absolute else 1.0
        return replace(self, value=self.value if share == 1 else whole - (whole - self.value) * float(share))

    def figure(self, cost: float, full: float) -> str:
        """A cost, where the unpruned network has `full`, as the budget is stated, such as "0.726" or "3.91G"."""
        return _shown(self.metric, cost, ".4g") if self.absolute else f"{cost / full:.3f}"

    def said(self, cost: float, full: float) -> str:
        """The same in words, such as "0.726 of the multiply-adds" or "3.91G multiply-adds"."""
        if self.absolute:
            return f"{self.figure(cost, full)} {'in the file' if self.metric == 'size' else TARGETS[self.metric]}"
        return f"{self.figure(cost, full)} of the {TARGETS[self.metric]}"

    def __str__(self) -> str:
        if self.asked:
            return f"{self.asked} ({_shown(self.metric, self.value, '.4g')})"
        return f"{self.metric}={_shown(self.metric, self.value, '.12g') if self.absolute else format(self.value, 'g')}"


def read_budgets(value: object, setting: str = "target") -> tuple[Budget, ...]:
    """Budgets as they are written: {"latency": 0.5, "params": "2M"} or "latency=0.5,params=2M"; a + does as a comma.

    Messages begin with the `setting` that they are the value of.

    Raises:
        ConfigError: It is something else, or two are of the same metric.
    """
    pairs: list[tuple[object, object]] = list(value.items()) if isinstance(value, Mapping) else []
    if isinstance(value, str):
        words = [word.partition("=") for word in _NEXT.split(value)]
        pairs = [(metric.strip(), amount) for metric, equals, amount in words if equals]
        pairs = pairs if len(pairs) == len(words) else []
    if not pairs:
        raise ConfigError(f"{setting}: expected {FORMS}, got {value!r}")
    metrics = [metric for metric, _ in pairs]
    if twice := [metric for metric in metrics if metrics.count(metric) > 1]:
        raise ConfigError(
            f"{setting}: expected one budget of a metric, got two of {twice[0]} in {value!r}; leave one out"
        )
    return tuple(Budget.of(metric, amount, setting) for metric, amount in pairs)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(metric: str, value: float, form: str) -> str:
    unit = _UNITS[metric].shown
    return f"{value / _UNITS[metric].factors[unit.lower()]:{form}}{unit}"
