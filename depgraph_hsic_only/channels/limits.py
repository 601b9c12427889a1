"""What bounds every width, however it is chosen."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from depgraph_hsic_only.channels.budgets import is_number
from depgraph_hsic_only.channels.groups import WidthGroup
from depgraph_hsic_only.errors import ConfigError
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.yolo.blocks import OUTPUT_MULTIPLE

_ROUND_TO = (8, 16, 32)

MaxRatio = float | Mapping[str | int, float]
"""Largest share that may be cut of every width, or by layer (6) or width ("w6", "h6", "d6", "npr")."""


@dataclass(frozen=True)
class Limits:
    """Bounds of widths, of which `max_ratio` alone bounds repeats.

    Raises:
        ConfigError: One of them is out of range.
    """

    round_to: int = OUTPUT_MULTIPLE  # 8, which Ultralytics needs, 16 or 32: of block outputs and prototypes
    min_channels: int = 0  # no width is cut below this many
    max_ratio: MaxRatio = 1.0  # what a mapping doesn't name is unlimited
    channels: bool = True  # whether any channels may be cut, and not only repeats

    def __post_init__(self) -> None:
        if type(self.round_to) is not int or self.round_to not in _ROUND_TO:
            raise ConfigError(f"round_to: expected one of {_ROUND_TO}, got {self.round_to!r}")
        if type(self.min_channels) is not int or self.min_channels < 0:
            raise ConfigError(f"min_channels: expected an integer of at least 0, got {self.min_channels!r}")
        given = self.max_ratio if isinstance(self.max_ratio, Mapping) else {"all": self.max_ratio}
        for key, share in given.items():
            if not is_number(share) or not 0 <= share <= 1:
                raise ConfigError(
                    f"max_ratio: expected a share in [0, 1], or such by layer or width as in {{6: 0.5, h8: 0.25}}, "
                    f"got {share!r} for {key}"
                )

    def check_names(self, there: Iterable[tuple[int, str]]) -> None:
        """Refuse limits of other layers and widths than those there (layer and name of each), by a `ConfigError`."""
        known = {str(key) for pair in there for key in pair}
        for key in self.max_ratio if isinstance(self.max_ratio, Mapping) else ():
            if str(key) not in known:
                raise ConfigError(
                    f"max_ratio: expected layers or widths that are cut, got {key!r}{nearest(str(key), known)}"
                )

    def multiple(self, width: WidthGroup) -> int:
        """What the width is a multiple of."""
        return self.round_to if width.is_output else width.multiple

    def smallest(self, width: WidthGroup) -> int:
        """The fewest channels that the width may have, or repeats."""
        step = width.multiple
        left = math.ceil(width.channels * (1 - self._share(width)) / step) * step
        if width.is_repeats:
            return max(width.least, left)
        if not self.channels:
            return width.channels
        least = math.ceil(self.min_channels / (4 if width.bins else 1) / step) * step  # a bin of each of four sides
        return min(width.channels, max(step, width.least, least, left))

    def _share(self, width: WidthGroup) -> Fraction:
        if not isinstance(self.max_ratio, Mapping):
            return Fraction(str(self.max_ratio))
        by_name = {str(key): share for key, share in self.max_ratio.items()}
        return Fraction(str(by_name.get(width.name, by_name.get(str(width.layer), 1.0))))
