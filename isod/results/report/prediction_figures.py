"""What the best model of a sweep finds on a few validation images, beside what is annotated there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from isod.errors import InputError, one_line
from isod.inference.marks import Mark, place_words
from isod.inference.sources import Broken, NamedFrame, StoreCrops
from isod.inference.tiles import Detections
from isod.results.report.fonts import drawable
from isod.results.report.sections import ReportFigure
from isod.results.report.style import rc
from isod.results.statistics.best import BestModel, model_folder
from isod.tracking.runs import Runs

IMAGES, COLUMNS = 4, 2
COLOURS = {"truth": "#5cc8ff", "dont-care": "#5cc8ff", "prediction": "#ffa62b"}
DASHES: dict[str, Literal["-", ":"]] = {"truth": "-", "dont-care": ":", "prediction": "-"}
NAMES = {"truth": "annotated", "dont-care": "annotated as don't-care", "prediction": "predicted"}
WIDEST = 400  # pixels of an image in the page
MOST = 30  # predictions of an image that are drawn; an image with more boxes has no words, which would hide it
WIDTH, FONT = 4.6, 7.5  # of an image, inches; height of words, points


def best_model_predictions(runs: Runs, best: BestModel) -> ReportFigure | str:
    """Return the figure of the best model's predictions, or the sentence that says why there is none.

    The images are those of its run's store, spread evenly over the validation images with objects.
    """
    folder = model_folder(runs, best)
    if folder is None:
        return "Its predictions are not shown, as its folder is not on this machine."
    store = runs.runs.loc[best.run_id].get("params.store")
    try:
        shown, class_names, confidence = _predicted(folder, str(store))
    except Exception as error:  # the detector may be anybody's: no report is lost for a picture
        return f"Its predictions are not shown: {one_line(error)}."
    return ReportFigure(
        partial(prediction_figure, shown, class_names),
        "",
        f"What {best.name} finds",
        f"Validation images with objects, spread evenly; of each the predictions with score ≥ {confidence:.3g}, at "
        f"most the {MOST} highest. Look for what is annotated and not predicted, and the reverse. Images with more "
        f"than {MOST} boxes have no words.",
    )


def _predicted(folder: Path, store: str) -> tuple[list[tuple[NamedFrame, Detections]], tuple[str, ...], float]:
    from isod.data.store.split import CropStore
    from isod.inference.prediction import Predictor

    predictor, split = Predictor(folder), CropStore.open(store).split("val")
    if split.meta.class_names != predictor.class_names:
        raise InputError(f"{store} now has other classes than the model")
    objects = split.annotations()
    rows = [row for row in split.readable.tolist() if len(objects.labels[row])] or split.readable.tolist()
    if rows:
        rows = [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, IMAGES).round().astype(int))]
    shown = [(item, found[:MOST]) for item, found in predictor.predict(StoreCrops(split, rows), Broken())]
    if not shown:
        raise InputError(f"no validation image of {store} can be read")
    return shown, predictor.class_names, predictor.confidence


def prediction_figure(shown: Sequence[tuple[NamedFrame, Detections]], class_names: Sequence[str]) -> Figure:
    """Draw images with what is annotated and what is predicted, in two colours.

    Words that find no free place are left out, as are all of an image with more than ``MOST`` boxes.
    """
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    height = WIDTH * max(item.frame.image.pixels.shape[0] / item.frame.image.pixels.shape[1] for item, _ in shown)
    with mpl.rc_context(rc(class_names) | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH * columns, 0.5 + (height + 0.3) * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        kinds: set[str] = set()
        for ax, (item, found) in zip(axes, shown, strict=False):
            marks = _marks(item, found, [drawable(name) for name in class_names])
            kinds |= {mark.kind for mark in marks}
            _draw(ax, item, marks)
        for ax in axes:
            ax.set_axis_off()
        named = [kind for kind in NAMES if kind in kinds or kind != "dont-care"]
        lines = [Line2D([], [], color=COLOURS[kind], linestyle=DASHES[kind], linewidth=2.5) for kind in named]
        figure.legend(lines, [NAMES[kind] for kind in named], loc="outside upper left", ncols=len(named))
    return figure


def _marks(item: NamedFrame, found: Detections, names: Sequence[str]) -> list[Mark]:
    truth = item.truth
    assert truth is not None
    kinds = ["dont-care" if ignored else "truth" for ignored in truth.dont_care] + ["prediction"] * len(found)
    words = ["" if ignored else names[label - 1] for label, ignored in zip(truth.labels, truth.dont_care, strict=True)]
    words += [f"{names[label - 1]} {score:.2f}" for label, score in zip(found.labels, found.scores, strict=True)]
    if len(words) > MOST:
        words = [""] * len(words)
    boxes = np.concatenate([truth.boxes, found.boxes]).tolist()
    return [
        Mark(x0, y0, x1 - x0, y1 - y0, word, kind)
        for (x0, y0, x1, y1), word, kind in zip(boxes, words, kinds, strict=True)
    ]


def _draw(ax: Axes, item: NamedFrame, marks: list[Mark]) -> None:
    pixels = item.frame.image.pixels
    font = FONT / 72 / WIDTH  # over the width of the image
    height, width = pixels.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((WIDEST, WIDEST))
    ax.imshow(image, extent=(0, width, height, 0), interpolation="none")  # "none": the page gets these pixels
    ax.set_title(drawable(item.name), fontsize=8)
    for mark in place_words(marks, (height, width), [font]):
        colour = COLOURS[mark.kind]
        ax.add_patch(
            Rectangle((mark.x, mark.y), mark.width, mark.height, fill=False, edgecolor=colour, linewidth=1.3,
                      linestyle=DASHES[mark.kind])
        )  # fmt: skip
        if mark.words and not mark.crowded:
            x0, y0, x1, _ = mark.area(font * width)
            ax.text(
                x1 if mark.right else x0, y0, mark.words, color=colour, fontsize=FONT, va="top",
                ha="right" if mark.right else "left", path_effects=[withStroke(linewidth=1.8, foreground="#111111")],
            )  # fmt: skip
