"""Texts of others, such as the names of classes, as they can be printed."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """A text on one line with its control characters, which a terminal would obey, escaped as Python writes them."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
