"""Fonts for the names that figures show: matplotlib's own, DejaVu Sans, has no Chinese, Japanese or Korean characters,
among others."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray

PLACEHOLDERS = "Last Resort"  # comes with matplotlib; has a box for every character
OWN = "DejaVu Sans"  # comes with matplotlib; first wherever it has the character
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")  # what the Unicode names of these begin with
LISTED = 3  # names that a sentence gives


def families(names: Iterable[str]) -> list[str]:
    """Return font families that have the characters of the names, in the order in which matplotlib should try them."""
    return [OWN, *_fallbacks(_foreign(names))[0]]


def drawable(name: str) -> str:
    """Return the name as a figure can show it: characters that no installed font has as their code, such as \\u8eca."""
    lost = _fallbacks(_foreign([name]))[1]
    return "".join(c.encode("ascii", "backslashreplace").decode() if c in lost else c for c in name)


def missing_font(names: Iterable[str]) -> str:
    """Return which names figures show as codes and which font would help, in a sentence; "" if all can be drawn."""
    lost = [name for name in names if drawable(name) != name]
    if not lost:
        return ""
    characters = _fallbacks(_foreign(lost))[1]
    east_asian = any(unicodedata.name(c, "").startswith(EAST_ASIAN) for c in characters)
    package = "fonts-noto-cjk" if east_asian else "fonts-noto"
    listed = ", ".join(lost[:LISTED]) + f" and {len(lost) - LISTED} more" * (len(lost) > LISTED)
    return f"No installed font has the characters of {listed}: figures show codes; install one ({package})."


def _foreign(names: Iterable[str]) -> frozenset[str]:
    """Return the characters that matplotlib's own font lacks."""
    return _without(frozenset(c for c in "".join(names) if not c.isspace()), font_manager.findfont(OWN))


def _without(characters: frozenset[str], path: str) -> frozenset[str]:
    """Return the characters that the font lacks."""
    return frozenset(c for c in characters if not np.isin(ord(c), _characters(path)))


@cache
def _fallbacks(characters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Return families that have these characters, the one with most first, and the characters that none has."""
    chosen: list[str] = []
    lost = characters
    while lost:
        left = {name: _without(lost, font_manager.findfont(name)) for name in _installed()}
        name = min(left, key=lambda name: (len(left[name]), name))
        if left[name] == lost:
            break
        chosen.append(name)
        lost = left[name]
    return chosen, lost


def _installed() -> set[str]:
    """Return families that matplotlib can use, with those installed since it made its list, which it keeps."""
    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}:
        with suppress(OSError, RuntimeError):  # a file that is no font
            manager.addfont(path)
    return {entry.name for entry in manager.ttflist if not entry.name.startswith(PLACEHOLDERS)}


@cache
def _characters(path: str) -> NDArray[np.uint32]:
    """Return the code points that the font can draw; none for a font of pictures, such as emoji."""
    font = FT2Font(path)
    return np.array(list(font.get_charmap()) if font.scalable else [], dtype=np.uint32)
