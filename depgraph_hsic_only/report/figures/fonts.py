"""Class names in figures: in any script that a font of this machine has, on one line, and short enough to be read."""

import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib import ft2font
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from PIL import features

from depgraph_hsic_only.yolo.patches import figure_font

_MOST: Final = 40  # characters of a name
_PLACEHOLDERS: Final = (".", "last resort", "adobe blank")  # fonts that have the same shape for every character

_changing = threading.Lock()  # of matplotlib's settings, which all threads share
_meanwhile: list[tuple[str, ...]] = []  # families of each `fonts_for` that is open
_before: dict[Any, Any] = {}  # the settings when none was


@dataclass(frozen=True)
class Fonts:
    """Fonts for some texts.

    Attributes:
        families: What matplotlib takes as `fontfamily`: a character is drawn by the first one that has it.
        file: The one that has most of the characters.
        missing: Characters that none of them can draw.
    """

    families: tuple[str, ...]
    file: str
    missing: frozenset[str]

    def label(self, name: str, index: int | None) -> str:
        """A class name as figures show it; by the number of the class where the fonts can't draw all of it."""
        if not self.missing.isdisjoint(name):
            return "class ?" if index is None else f"class {index}"
        line = " ".join(name.split())
        return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."


def find_fonts(texts: Iterable[str]) -> Fonts:
    """Matplotlib's own font, and those of the installed ones that have what it lacks of some texts."""
    wanted = _visible(texts)
    families, own = list(matplotlib.rcParams["font.family"]), str(findfont(FontProperties()))
    missing, file = wanted - _characters(own, wanted), own
    while missing:
        name, best = max(_installed().items(), key=lambda font: len(_characters(font[1], missing)), default=("", own))
        if not (found := _characters(best, missing)):
            break
        families.append(name)
        missing -= found
        file = max(file, best, key=lambda path: len(_characters(path, wanted)))
    disordered = set() if hasattr(ft2font, "__libraqm_version__") else _from_right_to_left(wanted)
    return Fonts(tuple(families), file, frozenset(missing | disordered))


def picture_labels(names: Mapping[int, str]) -> dict[int, str]:
    """Class names for Ultralytics' pictures, which are drawn with one font; by number where it can't draw them."""
    wanted, fonts = _visible(names.values()), find_fonts(names.values())
    disordered = set() if features.check("raqm") else _from_right_to_left(wanted)
    one = Fonts(fonts.families, fonts.file, frozenset(wanted - _characters(fonts.file, wanted) | disordered))
    return {index: one.label(name, index) for index, name in names.items()}


def font_cache() -> Path:
    """Folder of matplotlib's list of the machine's fonts, which is made anew where it is missing."""
    return Path(matplotlib.get_cachedir())


@contextmanager
def fonts_for(names: Mapping[int, str]) -> Iterator[None]:
    """Every figure that is drawn meanwhile, Ultralytics' too, has fonts for class names, where the machine has them.

    A "$" in a name is a "$": as mathematics, a name such as "$\\frac{$" would end the training that draws it.
    """
    with _changing:
        if not _meanwhile:
            _before.update({key: matplotlib.rcParams[key] for key in ("font.family", "text.parse_math")})
        fonts = find_fonts(names.values())
        _meanwhile.append(fonts.families)
        matplotlib.rcParams.update({"font.family": _families(), "text.parse_math": False})
    try:
        with figure_font(fonts.file):
            yield
    finally:
        with _changing:
            _meanwhile.remove(fonts.families)
            matplotlib.rcParams.update({"font.family": _families()} if _meanwhile else _before)


def _families() -> list[str]:
    """The families of all who are at it."""
    return list(dict.fromkeys(family for families in _meanwhile for family in families))


def _visible(texts: Iterable[str]) -> set[str]:
    return {character for text in texts for character in text if not character.isspace()}


def _from_right_to_left(characters: Iterable[str]) -> set[str]:
    """What is drawn in the wrong order, and unjoined, by whatever knows nothing of scripts."""
    return {character for character in characters if unicodedata.bidirectional(character) in ("R", "AL")}


def _installed() -> dict[str, str]:
    """Files of the machine's own upright, regular fonts by name, in the order of the names."""
    own = matplotlib.get_data_path()  # whose others have mathematics
    plain = (f for f in fontManager.ttflist if f.style == "normal" and f.weight == 400 and f.stretch == "normal")
    files = {font.name: font.fname for font in plain if not font.fname.startswith(own)}
    return {name: files[name] for name in sorted(files) if not name.lower().startswith(_PLACEHOLDERS)}


def _characters(file: str, wanted: Iterable[str]) -> set[str]:
    """Those of the characters that a font has."""
    try:
        font = get_font(file)
    except (OSError, RuntimeError):  # removed since matplotlib has listed it, or damaged
        return set()
    return {character for character in wanted if font.get_char_index(ord(character))}
