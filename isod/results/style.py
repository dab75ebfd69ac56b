"""How a sampler looks, in every figure: hue for its heuristic, dashes for its variant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Dash = str | tuple[int, tuple[float, ...]]

SOLID: Dash = "-"
LONG: Dash = (0, (6, 1.5))
DASH_DOT: Dash = (0, (5, 1.5, 1.2, 1.5))
DOTS: Dash = (0, (1.5, 1.3))

# Figures are saved with text as text (small files, selectable) and stable ids (same runs, same bytes).
RC: Any = {
    "font.size": 10,
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
    "svg.hashsalt": "isod",
}


@dataclass(frozen=True)
class Look:
    """Colour and line style of one sampler."""

    color: str
    dash: Dash = SOLID


# The colours also differ in lightness, so that they stay apart in grey and for colour-blind readers.
LOOKS: dict[str, Look] = {
    "baseline": Look("#3a3a3a"),
    "LIS": Look("#d55e00", LONG),
    "LIS-RB": Look("#f0a04b", DASH_DOT),
    "LIS-RHO": Look("#9c3b00", DOTS),
    "LIS-IR": Look("#e8743b", DASH_DOT),
    "UIS": Look("#0072b2", SOLID),
    "UIS-RB": Look("#56b4e9", DASH_DOT),
    "UIS-IR": Look("#00487a", DOTS),
}
OTHERS = (
    Look("#009e73", LONG),
    Look("#cc79a7", DASH_DOT),
    Look("#8c6d1f", DOTS),
    Look("#7b61c4", LONG),
    Look("#4d9221", DASH_DOT),
    Look("#c51b7d", DOTS),
)


def look_of(sampler: str, samplers: list[str]) -> Look:
    """The sampler's own look; one that has none takes the next of ``OTHERS`` in the order of the sweep."""
    if sampler in LOOKS:
        return LOOKS[sampler]
    return OTHERS[[s for s in samplers if s not in LOOKS].index(sampler) % len(OTHERS)]
