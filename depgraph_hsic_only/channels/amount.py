"""What a cut model may cost, as a fraction of the unpruned one."""

from collections.abc import Mapping
from dataclasses import dataclass

from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.support.nearest import nearest

METRICS = {"params": "parameters", "gmacs": "multiply-adds", "latency": "latency"}


@dataclass(frozen=True)
class Target:
    """A budget.

    Attributes:
        metric: "params", "gmacs" or "latency".
        share: Of the unpruned model's, in (0, 1].
    """

    metric: str
    share: float

    @classmethod
    def parse(cls, value: object) -> "Target":
        """A target as it is written: {"params": 0.8}, or "params=0.8".

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
        if metric not in METRICS:
            raise ConfigError(f"{expected}, got {value!r}{nearest(str(metric), METRICS)}")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigError(f"{expected}, got {share!r}, which is no share in (0, 1]")
        return cls(metric, float(share))

    def partly(self, done: float) -> "Target":
        """The target after a share of the way from the unpruned model."""
        return Target(self.metric, 1 - (1 - self.share) * done)

    def __str__(self) -> str:
        return f"{self.metric}={self.share:g}"
