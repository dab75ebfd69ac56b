"""The figures of an evaluation: precision-recall curves, and which class is taken for which."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from isod.inference.evaluation import Evaluation
from isod.results.report.fonts import drawable
from isod.results.report.style import OTHERS, SOFT, SOLID, rc

MAX_CURVES = 12  # of more classes those with the most objects are drawn
MAX_ROWS = 30  # of a confusion matrix: of more classes those with the most objects, and all others as one
NOTHING = "nothing"
LOOKS = [replace(look, dash=SOLID) for look in OTHERS[:7]] + list(OTHERS[:7])  # seven colours, then dashed


def precision_recall_figure(evaluation: Evaluation) -> Figure:
    """Draw precision over recall of each class, all sizes, as the score falls; a ring at the display threshold."""
    drawn = curve_classes(evaluation)
    with mpl.rc_context(rc(evaluation.class_names)):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for look, label in zip(LOOKS, drawn, strict=False):
            name = evaluation.class_names[label - 1]
            recall, precision, score = evaluation.curves[label - 1]
            # each true positive raises the recall: before the first one the curve is that high
            recall, precision = np.r_[0, recall], np.r_[precision[:1] if len(precision) else 0, precision]
            axes.plot(recall, precision, color=look.color, linestyle=look.dash,
                      label=f"{drawable(name)}  {evaluation.metrics[f'AP/{name}']:.3f}")  # fmt: skip
            shown = int((score >= evaluation.threshold).sum())
            if shown:
                axes.plot(recall[shown], precision[shown], "o", color=look.color, markerfacecolor="white",
                          clip_on=False)  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall (share of the objects found)",
                 ylabel="precision (share of the detections that are right)")  # fmt: skip
        figure.legend(loc="outside right upper", title="class  AP", alignment="left", frameon=False)
    return figure


def curve_classes(evaluation: Evaluation) -> list[int]:
    """Return the labels of the classes whose curves are drawn: those with objects, at most ``MAX_CURVES``."""
    objects = evaluation.confusion[1:].sum(axis=1)
    order = np.argsort(-objects, kind="stable")[:MAX_CURVES]
    return [int(n) + 1 for n in sorted(order) if objects[n]]


def _rows_shown(evaluation: Evaluation) -> tuple[np.ndarray, list[str]]:
    """Return the matrix with "nothing" last, and the names of its rows; of many classes some, and the rest as one."""
    matrix = evaluation.confusion
    most = np.argsort(-matrix[1:].sum(axis=1), kind="stable")[:MAX_ROWS] + 1
    labels = sorted(map(int, most))
    others = sorted(set(range(1, len(matrix))) - set(labels))
    groups = [*([label] for label in labels), *([others] if others else []), [0]]
    sums = np.stack([matrix[group].sum(axis=0) for group in groups])
    sums = np.stack([sums[:, group].sum(axis=1) for group in groups], axis=1)
    names = [drawable(evaluation.class_names[label - 1]) for label in labels]
    return sums, [*names, *([f"{len(others)} other classes"] if others else []), NOTHING]


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix: rows are what is annotated, columns what was detected there; shades by row."""
    matrix, names = _rows_shown(evaluation)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares[-1] = 0  # of detections where nothing is annotated: another unit
    side = max(3.4, 0.62 * len(names))
    longest = max(map(len, names))
    with mpl.rc_context(rc(evaluation.class_names)):
        figure = Figure(
            figsize=(side + 0.9 + 0.085 * longest, side * 0.82 + 0.8 + 0.06 * longest), layout="constrained"
        )
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="detected", ylabel="annotated")
        for (row, column), count in np.ndenumerate(matrix):
            if row == column == len(names) - 1:
                text, colour = "–", SOFT
            else:
                text, colour = f"{count}", "white" if shares[row, column] > 0.55 else "#1d1f21"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure
