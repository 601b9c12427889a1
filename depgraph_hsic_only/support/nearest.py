"""Did you mean …?"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the known name most like `name`, or those as like it; "" where none is near."""
    names = sorted(set(known))
    matches = difflib.get_close_matches(name, names, n=len(names) or 1)
    alike = [difflib.SequenceMatcher(None, match, name).ratio() for match in matches]  # as they were compared
    best = sorted(match for match, ratio in zip(matches, alike, strict=True) if ratio == alike[0])
    return f" (did you mean {' or '.join(map(repr, best))}?)" if best else ""
