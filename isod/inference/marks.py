"""Boxes as pictures and the contact sheet show them, and places for their words that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FONT = 1 / 36  # height of the words over the width of the crop, on a card
ENLARGED = 1 / 90  # the same in the enlarged picture
LETTER = 0.6  # width of a letter over the height of the words, rather too wide than too narrow
URGENT = ("contradiction", "truth", "prediction", "dont-care")  # whose words get the free places first

Area = tuple[float, float, float, float]  # xyxy, crop pixels


@dataclass(frozen=True)
class Mark:
    """A box and its words."""

    x: float  # crop pixels, as are y, width and height
    y: float
    width: float
    height: float
    words: str  # "" for none
    kind: str  # truth, dont-care, prediction, contradiction (a prediction that a guess rests on) or fault
    below: bool = False  # whether the words are below the box rather than above it
    right: bool = False  # whether they end at its right side rather than begin at its left
    crowded: bool = False  # whether a card has no free place for them: only the enlarged picture shows them

    def area(self, font: float) -> Area:
        """Return the area of words of this height, in crop pixels."""
        width = LETTER * font * len(self.words)
        x = self.x + self.width - width if self.right else self.x
        y = self.y + self.height if self.below else self.y - 1.2 * font
        return x, y, x + width, y + 1.2 * font


def place_words(marks: Sequence[Mark], size: tuple[int, int], fonts: Sequence[float] = (FONT, ENLARGED)) -> list[Mark]:
    """Return the marks in their order, each with its words at the first free place inside the crop.

    Labels are above their box if there is space, predictions below, so that the two of one object do not meet.

    Args:
        size: (height, width) of the crop, pixels.
        fonts: heights of the words over the width of the crop; who finds no place at the first is ``crowded``, and is
            tried again at the next.
    """
    placed = [replace(mark, crowded=True) for mark in marks]  # where there is no free place, they overlap
    done: list[int] = []
    waiting = sorted((n for n in range(len(marks)) if marks[n].words), key=lambda n: (URGENT.index(marks[n].kind), n))
    for crowded, share in enumerate(fonts):
        for n in waiting.copy():
            taken = [placed[other].area(share * size[1]) for other in done]
            place = _free_place(replace(marks[n], crowded=bool(crowded)), share * size[1], taken, size)
            if place is not None:
                placed[n] = place
                done.append(n)
                waiting.remove(n)
    return placed


def _free_place(mark: Mark, font: float, taken: Sequence[Area], size: tuple[int, int]) -> Mark | None:
    """Return the mark with its words at the first of four places inside the crop and outside the areas taken."""
    first = mark.kind in ("prediction", "contradiction")
    for below in (first, not first):
        for right in (False, True):
            place = replace(mark, below=below, right=right)
            x0, y0, x1, y1 = place.area(font)
            inside = x0 >= 0 and y0 >= 0 and x1 <= size[1] and y1 <= size[0]
            if inside and not any(x0 < b[2] and b[0] < x1 and y0 < b[3] and b[1] < y1 for b in taken):
                return place
    return None
