"""Did you mean …?"""

import difflib
from collections.abc import Iterable

_NEAR = 0.6  # difflib's own cutoff


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the known name most like `name`, or those as like it; "" where none is near."""
    ratios = {other: difflib.SequenceMatcher(None, other, name).ratio() for other in sorted(set(known))}
    most = max(ratios.values(), default=0.0)
    best = [other for other, ratio in ratios.items() if ratio == most >= _NEAR]
    return f" (did you mean {' or '.join(map(repr, best))}?)" if best else ""
