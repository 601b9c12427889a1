"""How much is cut: a ratio of every width, a threshold of the scores, or budgets for the whole network."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from depgraph_hsic_only.channels.budgets import Budget, is_number, read_budgets
from depgraph_hsic_only.errors import ConfigError


@dataclass(frozen=True)
class Amount:
    """How much is cut, checked.

    Attributes:
        kind: "ratio" (the share that is cut from each width), "threshold" (the smallest score that stays), or "target".
        value: A ratio in [0, 1), or a finite threshold; of a target 0.
        budgets: Of a target: what the network may cost, each by another metric; all of them hold.
    """

    kind: str
    value: float = 0.0
    budgets: tuple[Budget, ...] = ()

    @classmethod
    def of(cls, ratio: object = None, threshold: object = None, target: object = None) -> "Amount":
        """The one amount that is given, as its own method takes it; the others are None.

        Raises:
            ConfigError: None or several are given, or the one that is given is out of range.
        """
        given = {"ratio": ratio, "threshold": threshold, "target": target}
        named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
        if len(named) != 1:
            got = " and ".join(named) or "none of them"
            raise ConfigError(f"expected a ratio, a threshold or a target, got {got}; leave all but one out")
        if target is not None:
            return cls.target(target)
        return cls.ratio(ratio) if ratio is not None else cls.threshold(threshold)

    @classmethod
    def ratio(cls, value: object) -> "Amount":
        """A share of the channels to cut from each width.

        Raises:
            ConfigError: It is no number with 0 ≤ ratio < 1.
        """
        if is_number(value) and 0 <= value < 1:
            return cls("ratio", float(value))
        raise ConfigError(
            f"ratio: expected a number with 0 <= ratio < 1, got {value!r}; 0.25 cuts a quarter of each width"
        )

    @classmethod
    def threshold(cls, value: object) -> "Amount":
        """The smallest score that stays.

        Raises:
            ConfigError: It is no finite number.
        """
        if is_number(value) and math.isfinite(value):
            return cls("threshold", float(value))
        raise ConfigError(f"threshold: expected a finite number that scores are compared with, got {value!r}")

    @classmethod
    def target(cls, value: object) -> "Amount":
        """What may be left: {"params": 0.8}, or "latency=12ms,params=2M" (see `Budget.of`, `read_budgets`).

        Raises:
            ConfigError: It is something else.
        """
        return value if isinstance(value, cls) else cls("target", budgets=read_budgets(value))

    @property
    def is_target(self) -> bool:
        """Whether it is of budgets, which widths are chosen for."""
        return self.kind == "target"

    @property
    def is_nothing(self) -> bool:
        """Whether it cuts nothing from any network: a ratio of 0, or a target of 1."""
        if self.is_target:
            return not self.asking
        return self.kind == "ratio" and self.value == 0

    @property
    def exact(self) -> Fraction:
        """The ratio that was written: 0.35 as 7/20, so that ties are ties."""
        return Fraction(str(self.value))

    def budget(self, metric: str) -> Budget | None:
        """The budget of a metric, where there is one that asks for anything."""
        return next((budget for budget in self.asking if budget.metric == metric), None)

    @property
    def asking(self) -> tuple[Budget, ...]:
        """The budgets that a network may fail: all but shares of 1."""
        return tuple(budget for budget in self.budgets if not budget.is_nothing)

    def fixed(self, metric: str, full: float) -> "Amount":
        """The same with its budget of a metric as an absolute amount, of what costs `full` unpruned."""
        return replace(self, budgets=tuple(b.fixed(full) if b.metric == metric else b for b in self.budgets))

    def partly(self, share: Fraction, full: Callable[[str], float]) -> "Amount":
        """The amount after a share of the way from the unpruned network, whose costs are `full` by metric.

        A threshold has no part.
        """
        if self.kind == "ratio":
            return replace(self, value=float(self.exact * share))
        parts = (b.partly(share, full(b.metric) if b.absolute and share != 1 else 1.0) for b in self.budgets)
        return replace(self, budgets=tuple(parts))

    def __str__(self) -> str:
        return "+".join(map(str, self.budgets)) if self.is_target else f"{self.kind}={self.value:g}"


NOTHING = Amount("ratio", 0.0)


def default_criterion(target: object) -> str:
    """What ranks channels where nothing is said: for a target, which is met by measuring, what measures best."""
    return "magnitude" if target is None else "reconstruction"
