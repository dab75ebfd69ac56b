"""The figures of a probe: the tail of the classes, and how uneven the draws by each score would be."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from isod.results.probe.probe import Probe
from isod.results.probe.scores import GRADIENT, Scores
from isod.results.report.fonts import drawable
from isod.results.report.style import LOOKS, OTHERS, SOFT, rc

MAX_CLASSES = 30  # of more, the most frequent and the rarest
CURVES = ("LIS", "UIS", "class-max", GRADIENT)


def tail_figure(probe: Probe) -> Figure:
    """Draw how many training crops have each class, on a logarithmic axis, with the crops without an object."""
    classes = probe.classes
    if len(classes) > MAX_CLASSES:
        classes = classes[: MAX_CLASSES // 2] + classes[-MAX_CLASSES // 2 :]
    names = [*(drawable(row.name) for row in classes), "no object"]
    counts = [*(row.images for row in classes), round(probe.empty * probe.readable)]
    with mpl.rc_context(rc(row.name for row in classes)):
        figure = Figure(figsize=(7.6, 0.9 + 0.3 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(names, np.maximum(counts, 0.5), color=["#0072b2"] * len(classes) + ["#b9bec3"], height=0.65)
        for place, count in enumerate(counts):
            share = f"{count}  ({100 * count / probe.readable:.2g} %)"
            axes.annotate(share, (max(count, 0.5), place), (4, 0), textcoords="offset points", va="center", color=SOFT,
                          fontsize=9)  # fmt: skip
        axes.set(xscale="log", xlim=(0.5, 4 * max(counts)), xlabel="training crops with the class")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    return figure


def draws_figure(scores: Scores) -> Figure:
    """Draw the share of the draws over the share of the crops, those with the highest scores first."""
    with mpl.rc_context(rc(())):
        figure = Figure(figsize=(7.6, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, label="uniform")
        for number, name in enumerate(CURVES):
            values = np.sort(scores.values[name])[::-1]
            share = np.r_[0, np.cumsum(values)] / max(values.sum(), 1e-300)
            look = LOOKS.get(name, OTHERS[number])
            axes.plot(np.linspace(0, 1, len(share)), share, color=look.color, linestyle=look.dash, label=name)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the training crops, highest score first",
                 ylabel="share of the draws")  # fmt: skip
        axes.legend(loc="lower right")
    return figure
