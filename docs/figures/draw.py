"""Draws the diagrams of the documentation into this folder: python docs/figures/draw.py

They are drawn narrow and with large letters, so that they can be read on a phone.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

HERE = Path(__file__).parent
INK, SOFT, LINE = "#263238", "#607d8b", "#90a4ae"
BLUE, ORANGE, GREEN, GREY = "#e3f2fd", "#fff3e0", "#e8f5e9", "#eceff1"
STYLE = {"font.family": "DejaVu Sans", "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "isod"}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches, drawn on in tenths of an inch, without axes."""
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 10 * width), ylim=(0, 10 * height))
    ax.axis("off")
    return figure, ax


def box(ax: Axes, x: float, y: float, w: float, h: float, title: str, text: str = "", colour: str = GREY) -> None:
    """A rounded box with a bold first line; (x, y) is its lower left corner."""
    style = "round,pad=0,rounding_size=1"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=colour, edgecolor=LINE, linewidth=1.2))
    middle = y + h / 2
    lines = text.count("\n") + 1 if text else 0
    ax.text(x + w / 2, middle + 0.95 * lines, title, ha="center", va="center", color=INK, weight="bold")
    if text:
        ax.text(x + w / 2, middle - 0.95, text, ha="center", va="center", color=INK, fontsize=10, linespacing=1.35)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0, colour: str = INK) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})


def note(ax: Axes, x: float, y: float, text: str, ha: str = "left") -> None:
    ax.text(x, y, text, ha=ha, va="center", color=SOFT, fontsize=10, linespacing=1.35)


def batch() -> Figure:
    """How a batch travels."""
    figure, ax = canvas(5.4, 6.6)
    box(ax, 9, 56, 36, 8, "Importance table", "one score for each example", ORANGE)
    box(ax, 9, 43.5, 36, 8, "Draw t", "indices, probabilities, weights", ORANGE)
    box(ax, 9, 31, 36, 8, "Crop store → decode workers", "read and decode these crops", BLUE)
    box(ax, 9, 18.5, 36, 8, "Detector, one step", "forward, loss, backward, optimizer", GREEN)
    box(
        ax,
        9,
        2,
        36,
        12,
        "Outcome → scores",
        "heuristic: a score for each location\nreduction: a score for each image",
        GREEN,
    )
    for top, bottom in ((56, 51.5), (43.5, 39), (31, 26.5), (18.5, 14)):
        arrow(ax, (27, top), (27, bottom))
    ax.plot([45, 50, 50], [8, 8, 60], color="#e65100", lw=1.5)
    arrow(ax, (50, 60), (45, 60), colour="#e65100")
    ax.text(52, 34, "new scores of step t", rotation=90, ha="center", va="center", color="#e65100", fontsize=10)
    note(ax, 2, 47.5, "seed, t", "left")
    note(ax, 2, 35, "images,\nobjects", "left")
    return figure


def lag() -> Figure:
    """What draw t knows, with a lag of 2."""
    figure, ax = canvas(5.4, 3.4)
    t, known = 6, 3  # draw 6 sees the scores of the steps up to 6 − 1 − 2
    for step in range(7):
        x = 4 + 6.8 * step
        done, ahead = step <= known, known < step < t
        ax.add_patch(Rectangle((x, 18), 5.6, 6, facecolor="#ffcc80" if done else BLUE if ahead else "#fff",
                               edgecolor=INK if step == t else LINE, linewidth=2 if step == t else 1))  # fmt: skip
        ax.text(x + 2.8, 21, str(step), ha="center", va="center", color=INK, weight="bold")
    note(ax, 4, 29.5, "training step (= number of the draw)")
    for first, last, text in ((0, 3, "scores are in the table\nwhen draw 6 is made"), (4, 5, "lag = 2:\nread ahead")):
        left, right = 4 + 6.8 * first, 9.6 + 6.8 * last
        ax.plot([left, left, right, right], [16.6, 15.2, 15.2, 16.6], color=SOFT, lw=1)
        ax.text((left + right) / 2, 11.5, text, ha="center", va="center", color=INK, fontsize=10, linespacing=1.35)
    ax.text(47.6, 11.5, "draw 6", ha="center", va="center", color=INK, fontsize=10, weight="bold")
    ax.text(27, 4, "Draw t sees the scores of steps ≤ t − 1 − lag: no more, no fewer.", ha="center", va="center",
            color=INK, fontsize=10)  # fmt: skip
    return figure


def outcome() -> Figure:
    """One image, its locations and who owns them."""
    figure, ax = canvas(5.4, 5.0)
    rows, columns, side = 5, 8, 5.6
    left, bottom = 4.5, 17
    owner = np.full((rows, columns), -1)
    owner[1:4, 1:4], owner[2:4, 5:7] = 0, 1
    colours = {-1: "#ffffff", 0: "#bbdefb", 1: "#ffe0b2"}
    for i in range(rows):
        for j in range(columns):
            unknown = i == 0 and j >= 6
            ax.add_patch(
                Rectangle((left + j * side, bottom + (rows - 1 - i) * side), side, side, edgecolor=LINE, linewidth=0.8,
                          facecolor=GREY if unknown else colours[owner[i, j]], hatch="///" if unknown else None)
            )  # fmt: skip
            text = "?" if unknown else str(owner[i, j]).replace("-", "−")
            ax.text(left + (j + 0.5) * side, bottom + (rows - 0.5 - i) * side, text, ha="center", va="center",
                    color=SOFT if owner[i, j] < 0 else INK, weight="bold" if owner[i, j] >= 0 else None)  # fmt: skip
    for x, y, w, h, name, colour in (
        (0.75, 0.7, 3.4, 3.5, "object 0", "#1565c0"),
        (4.8, 0.75, 2.3, 2.4, "object 1", "#e65100"),
    ):
        ax.add_patch(
            Rectangle(
                (left + x * side, bottom + y * side), w * side, h * side, fill=False, edgecolor=colour, linewidth=2
            )
        )
        ax.text(left + (x + 0.08) * side, bottom + (y + h) * side, name, color=colour, fontsize=9.5,
                va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    ax.text(27, 12.2, "the number in a location is its owner: −1 is background,", ha="center", color=INK, fontsize=10)
    ax.text(27, 9.2, "? a class that nobody knows (don't-care)", ha="center", color=INK, fontsize=10)
    ax.text(27, 4.2, "[B, L] per image: −log a, box loss, IoU, owner, class known", ha="center", color=INK, fontsize=10)
    ax.text(27, 1.2, "[B, L, 1+C]: the logits", ha="center", color=INK, fontsize=10)
    return figure


def heuristics() -> Figure:
    """The class part of five heuristics over the probability of the true class (isod/sampling/scores/heuristics.py)."""
    a = np.linspace(0.002, 0.998, 999)
    uncertainty = -2 * np.log(np.abs(1 - 2 * a).clip(1e-3))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.9), layout="constrained")
        ax = figure.add_subplot()
        curves = {
            "loss (LIS)": (-np.log(a), "#e65100", "-"),
            "uncertainty (UIS)": (uncertainty, "#1565c0", "-"),
            "asymmetric uncertainty": (uncertainty + 2 * np.log(2) * (a < 0.5), "#1565c0", ":"),
            "uncertainty as printed": (-np.log(4 * a * (1 - a)), SOFT, "--"),
            "bounded error": (1 - a, "#2e7d32", "-."),
        }
        for name, (values, colour, line) in curves.items():
            ax.plot(a, values, line, color=colour, label=name, lw=1.8)
        ax.set(xlabel="a: probability of the true class", ylabel="score of a location", xlim=(0, 1), ylim=(0, 8))
        ax.legend(frameon=False, fontsize=9.5)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def rooms() -> Figure:
    """Which room may import which: only from above."""
    figure, ax = canvas(5.4, 6.2)
    floors = [
        ("errors, files, objects, outcome, vocabulary", "", GREY),
        ("sampling", "numpy, numba; torch for scores and loader", ORANGE),
        ("config", "settings, presets", GREY),
        ("data · detector · evaluation", "", BLUE),
        ("training · inference", "one run; a trained model in use", GREEN),
        ("tracking", "MLflow, and nowhere else", GREY),
        ("orchestration · results", "Ray in orchestration, and nowhere else", GREY),
        ("cli", "", GREY),
    ]
    for i, (title, text, colour) in enumerate(floors):
        y = 56 - 7.6 * i
        box(ax, 6, y, 42, 5.4, title, text, colour)
        if i:
            arrow(ax, (27, y + 5.4), (27, y + 7.6), colour=SOFT)
    return figure


def main() -> None:
    for drawing in (batch, lag, outcome, heuristics, rooms):
        with mpl.rc_context(STYLE):
            path = HERE / f"{drawing.__name__}.svg"
            drawing().savefig(path, metadata={"Date": None}, facecolor="white")
            print(path)


if __name__ == "__main__":
    main()
