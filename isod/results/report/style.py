"""The look of each sampler, the same in every figure: hue for its heuristic, dashes and marker for its variant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from isod.results.report.fonts import families
from isod.sampling.samplers import SAMPLERS
from isod.vocabulary import BASELINE

Dash = str | tuple[int, tuple[float, ...]]

SOLID: Dash = "-"
LONG: Dash = (0, (6, 1.5))
SHORT: Dash = (0, (2.5, 2.5))
DASH_DOT: Dash = (0, (5, 1.5, 1.2, 1.5))
DOTS: Dash = (0, (1.5, 1.3))
DASH_DOT_DOT: Dash = (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5))

RC: Any = {
    "font.size": 10,
    "text.parse_math": False,  # a class may be called a$b
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#8a8a8a",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
SOFT = "#6a6a6a"  # text beside the data


def rc(names: Iterable[str]) -> Any:
    """Return matplotlib's settings for a figure that shows these names of classes and samplers."""
    return RC | {"font.family": families(names)}


@dataclass(frozen=True)
class Look:
    """How one sampler is drawn. Filled markers are the uncertainty heuristic's, hollow ones all others'."""

    color: str
    dash: Dash = SOLID
    marker: str = ""
    filled: bool = False


# The colours also differ in lightness and the lines in marker, so that they stay apart in grey and for colour-blind
# readers.
LOOKS: dict[str, Look] = {
    BASELINE: Look("#2b2b2b"),
    "LIS": Look("#d55e00", LONG, "o"),
    "LIS-RB": Look("#f0a04b", DASH_DOT, "^"),
    "LIS-RHO": Look("#8a2f00", DOTS, "D"),
    "LIS-IR": Look("#e8746b", DASH_DOT, "v"),
    "UIS": Look("#0072b2", SOLID, "o", filled=True),
    "UIS-RB": Look("#3f9bd6", DASH_DOT, "^", filled=True),
    "UIS-IR": Look("#004a80", DOTS, "v", filled=True),
}
_COLORS = ("#009e73", "#cc79a7", "#8c6d1f", "#7b61c4", "#4d9221", "#c51b7d", "#35978f")
_VARIANTS = ((LONG, "s"), (DASH_DOT, "P"), (DOTS, "X"), (SOLID, "h"), (DASH_DOT_DOT, "*"), (SHORT, "d"))
OTHERS = tuple(Look(color, dash, marker) for (dash, marker), color in product(_VARIANTS, _COLORS))
LOOKS |= zip([name for name in SAMPLERS if name not in LOOKS], OTHERS, strict=False)


def look_of(sampler: str, samplers: Sequence[str]) -> Look:
    """Return the sampler's look; a sampler that isod does not name gets the next free one in the order of the sweep.

    Args:
        samplers: all of the sweep, whether drawn here or not: a sampler looks the same in every figure.
    """
    if sampler in LOOKS:
        return LOOKS[sampler]
    taken = {LOOKS[s] for s in samplers if s in LOOKS}
    free = [look for look in OTHERS if look not in taken] or list(OTHERS)
    return free[[s for s in samplers if s not in LOOKS].index(sampler) % len(free)]
