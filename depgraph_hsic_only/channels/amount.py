"""How much is cut: a ratio of every width, a threshold of the scores, or a budget for the whole network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeGuard

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.support.nearest import nearest

TARGETS = {"params": "parameters", "gmacs": "multiply-adds", "latency": "latency"}


@dataclass(frozen=True)
class Amount:
    """How much is cut, checked.

    Attributes:
        metric: "ratio" (the share that is cut from each width), "threshold" (the smallest score that stays), or a
            target: the share that is left of the network's "params", "gmacs" or "latency".
        value: A ratio in [0, 1), a finite threshold, or a target's share in (0, 1].
    """

    metric: str
    value: float

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
        """A budget as it is written: {"params": 0.8}, or "params=0.8".

        Raises:
            ConfigError: It is something else.
        """
        if isinstance(value, cls):
            return value
        pairs = list(value.items()) if isinstance(value, Mapping) else []
        if isinstance(value, str) and "=" in value:
            metric, _, share = value.partition("=")
            try:
                pairs = [(metric.strip(), float(share))]
            except ValueError:
                pairs = []
        expected = "target: expected one budget such as params=0.8, gmacs=0.8 or latency=0.8 (of the unpruned model)"
        if len(pairs) != 1:
            raise ConfigError(f"{expected}, got {value!r}")
        metric, share = pairs[0]
        if metric not in TARGETS:
            raise ConfigError(f"{expected}, got {value!r}{nearest(str(metric), TARGETS)}")
        if not (is_number(share) and 0 < share <= 1):
            raise ConfigError(f"{expected}, got {share!r}, which is no share in (0, 1]")
        return cls(metric, float(share))

    @property
    def is_target(self) -> bool:
        """Whether it is a budget, which widths are chosen for."""
        return self.metric in TARGETS

    @property
    def is_nothing(self) -> bool:
        """Whether it cuts nothing from any network: a ratio of 0, or a target of 1."""
        return self.metric != "threshold" and self.value == float(self.is_target)

    @property
    def exact(self) -> Fraction:
        """The value that was written: 0.35 as 7/20, so that ties are ties."""
        return Fraction(str(self.value))

    def partly(self, share: Fraction) -> "Amount":
        """The amount after a share of the way from the unpruned network; a threshold has no part."""
        if self.metric == "threshold":
            return self
        value = self.exact * share if self.metric == "ratio" else 1 - (1 - self.value) * float(share)
        return replace(self, value=float(value))

    def __str__(self) -> str:
        return f"{self.metric}={self.value:g}"


NOTHING = Amount("ratio", 0.0)


def default_criterion(target: object) -> str:
    """What ranks channels where nothing is said: for a target, which is met by measuring, what measures best."""
    return "magnitude" if target is None else "reconstruction"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
