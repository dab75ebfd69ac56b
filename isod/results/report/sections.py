"""Which figures the report shows, in the thesis's order, each with one sentence on what to see."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from isod.results.report import figures, figures_examples
from isod.results.statistics.consistency import importance_by_seed
from isod.tracking.sweep_reader import Runs
from isod.vocabulary import BASELINE

# Chapter 5 of the thesis compares two samplers at a time with the baseline: section, samplers, first of five figures.
GROUPS = (
    ("Loss and uncertainty", ("LIS", "UIS"), 1),
    ("Rejection", ("LIS-RB", "UIS-RB"), 6),
    ("Reducible hold-out loss", ("LIS-RHO",), 11),
    ("Regression ignored", ("LIS-IR", "UIS-IR"), 16),
)
IN_CHAPTER_6 = ("UIS", "LIS")  # whose importance the thesis shows there (6.3 to 6.6); the others are its appendix B
IN_APPENDIX_B = {
    "UIS-IR": "B.1, B.2",
    "LIS-IR": "B.3, B.4",
    "UIS-RB": "B.5, B.6",
    "LIS-RB": "B.7, B.8",
    "LIS-RHO": "B.9, B.10",
}
PIXELS_PER_INCH = (57, 125)  # of the figure's own width: below the first it scrolls, above the second it does not grow
RASTER_DPI = 150  # of the binned parts; the rest are lines


@dataclass(frozen=True)
class Plate:
    """A figure of the report, not drawn yet."""

    draw: Callable[[], Figure]
    title: str
    of_thesis: str  # its number there; "" for one that the thesis has not
    caption: str  # one sentence: what to see


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    source: str  # data: URI of the SVG
    min_width: int  # pixels below which it scrolls instead of shrinking
    max_width: int  # pixels above which it does not grow


@dataclass(frozen=True)
class Chapter:
    """Plates that belong together."""

    anchor: str
    title: str
    plates: list[Plate] = field(default_factory=list)
    folded: bool = False  # closed until the reader opens it


def lead_plate(runs: Runs, passed: Sequence[str]) -> Plate:
    """The figure that answers which sampler is fastest; ``passed`` are those that surpass the baseline's best."""
    who = f"{', '.join(passed)} {'pass' if len(passed) > 1 else 'passes'} it" if passed else "no sampler passes it"
    return Plate(
        partial(figures.map_figure, runs),
        "mAP and speed-up, all samplers",
        "A.1" if len(_comparisons(runs)) > 1 else _numbers(runs, 0) or "A.1",
        "Mean over seeds, shaded ±1 standard deviation; the dashed line is the baseline's best, the diamond where it "
        f"is reached, and each bar the iterations saved on the way there, over the seeds that both have: {who}.",
    )


def chapters(runs: Runs, examples: pd.DataFrame) -> list[Chapter]:
    """Every figure but the first, in the thesis's order: chapters 5 and 6, appendices A and B; none without any."""
    return [chapter for chapter in _every_chapter(runs, examples) if chapter.plates]


def _every_chapter(runs: Runs, examples: pd.DataFrame) -> Iterator[Chapter]:
    split = bool(runs.class_names)  # runs that logged nothing by class and size have the first figure only
    several = _comparisons(runs)
    if len(several) > 1:
        for title, samplers, first in several:
            plates = list(_results(runs, samplers, [f"5.{first + n}" for n in range(5)])) if split else []
            yield Chapter(f"compare-{first}", f"{title}: {', '.join(samplers[1:])} beside the baseline", plates)
    elif split:
        numbers = [_numbers(runs, n) for n in range(5)]
        yield Chapter("results", "By size, class and as a binary task", list(_results(runs, None, numbers))[1:])
    yield Chapter("drawing", "What was drawn", list(_drawing(runs, examples)))
    yield Chapter("consistency-figures", "Do runs agree on what matters", list(_importance(examples, IN_CHAPTER_6)))
    if split:
        plate = Plate(
            partial(figures.false_positive_figure, runs),
            "False positives",
            "6.7",
            "Detections shown to people that match nothing: the price a sampler pays when it neglects "
            "background; number of objects in brackets.",
        )
        yield Chapter("false-positives", "What it costs in false alarms", [plate])
    if split:
        yield Chapter("all", "All samplers, not smoothed", list(_appendix_a(runs, len(several) > 1)), folded=True)
    rest = [s for s in figures_examples.sampler_names(examples) if s not in (BASELINE, *IN_CHAPTER_6)]
    yield Chapter(
        "other-samplers", "Importance under the other samplers", list(_importance(examples, rest)), folded=True
    )


def _comparisons(runs: Runs) -> list[tuple[str, list[str], int]]:
    """The thesis's groups that this sweep has, each with the baseline first."""
    present = set(runs.samplers)
    if BASELINE not in present:
        return []
    return [
        (title, [BASELINE, *(s for s in group if s in present)], first)
        for title, group, first in GROUPS
        if present & set(group)
    ]


def _numbers(runs: Runs, nth: int) -> str:
    """Number of the nth of the five figures of chapter 5 in a sweep that holds one of its groups only."""
    return ", ".join(f"5.{first + nth}" for _, _, first in _comparisons(runs)[:1])


def _results(runs: Runs, samplers: Sequence[str] | None, numbers: Sequence[str]) -> Iterator[Plate]:
    """The five figures with which the thesis compares samplers."""
    rarest = runs.class_names[-1]
    yield Plate(
        partial(figures.map_figure, runs, samplers),
        "mAP and speed-up",
        numbers[0],
        "Where a bar starts, the sampler surpasses the baseline's best; a bar to the right is slower.",
    )
    yield Plate(
        partial(figures.size_figure, runs, samplers),
        "mAP by object size",
        numbers[1],
        "Look for a sampler that gains on one size by giving up another; all panels share a scale.",
    )
    yield Plate(
        partial(figures.class_by_size_figure, runs, samplers),
        "AP by class and size",
        numbers[2],
        f"Moving average ({figures.SMOOTHING}) over the thin raw mean, behind which it lags while that rises; number "
        f"of objects in brackets: curves over few jump by themselves.{_shown(runs)}",
    )
    yield Plate(
        partial(figures.rarest_class_figure, runs, samplers),
        f"The rarest class: {rarest}",
        numbers[3],
        "Whether drawing by importance reaches what the data holds little of.",
    )
    yield Plate(
        partial(figures.binary_figure, runs, samplers),
        "Binary AP",
        numbers[4],
        "The class ignored: where this rises and AP does not, objects are found but misnamed.",
    )


def _appendix_a(runs: Runs, with_smoothed: bool) -> Iterator[Plate]:
    if with_smoothed:
        yield Plate(
            partial(figures.size_figure, runs),
            "mAP by object size, all samplers",
            "A.2",
            "The same scale as above, so that the groups can be held against one another.",
        )
    yield Plate(
        partial(figures.class_by_size_figure, runs, smoothing=None),
        "AP by class and size, not smoothed",
        "A.3",
        f"The mean over seeds as it was measured, shaded ±1 standard deviation.{_shown(runs)}",
    )
    yield Plate(
        partial(figures.rarest_class_figure, runs, smoothing=None),
        f"{runs.class_names[-1]}, not smoothed",
        "A.4",
        "How far single validations jump around the moving average.",
    )
    if with_smoothed:
        yield Plate(
            partial(figures.binary_figure, runs),
            "Binary AP, all samplers",
            "A.5",
            "Which sampler finds most, whatever it calls it.",
        )


def _drawing(runs: Runs, examples: pd.DataFrame) -> Iterator[Plate]:
    logged = set(runs.metrics)
    if logged & {"sampler/correlation_class_loss", "sampler/correlation_box_loss"}:
        yield Plate(
            partial(figures.correlation_figure, runs),
            "Correlation of score and loss",
            "6.1",
            "Near 1, a high score means a high loss; the thesis's UIS starts slightly below 0 and rises, "
            "from moderately easy examples to harder ones.",
        )
    if logged & {"sampler/ess", "sampler/repeats", "sampler/recent_repeats"}:
        yield Plate(
            partial(figures.drawing_figure, runs),
            "How concentrated the draws are",
            "",
            "The lower the effective sample size, the fewer examples carry the draws; repeats say how often "
            "one comes back at once.",
        )
    if "sampler/wrong_labels" in logged:
        yield Plate(
            partial(figures.wrong_label_figure, runs),
            "Draws of wrong labels",
            "",
            "The baseline's line is the share that the demo data holds; a sampler above it is drawn to label errors.",
        )
    if examples["margin"].notna().any():
        scored = [s for s in figures_examples.sampler_names(examples) if s != BASELINE]
        yield Plate(
            partial(figures_examples.margin_figure, examples, scored),
            "Margin by draw count",
            "6.2",
            "Upper left are examples drawn often and misclassified all the same: hard ones, and those with "
            "wrong labels.",
        )


def _importance(examples: pd.DataFrame, samplers: Sequence[str]) -> Iterator[Plate]:
    numbers = {"UIS": "6.3, 6.5", "LIS": "6.4, 6.6"} | IN_APPENDIX_B
    for sampler in samplers:
        runs = importance_by_seed(examples, sampler).shape[1]
        if not runs:
            continue
        one, _, two = numbers.get(sampler, ", ").partition(", ")
        yield Plate(
            partial(figures_examples.importance_figure, examples, sampler),
            f"{sampler}: importance and draws",
            one,
            "Where runs lie on one another they agree on how skewed the data is; draws should fall with importance.",
        )
        if runs > 1:
            yield Plate(
                partial(figures_examples.consistency_figure, examples, sampler),
                f"{sampler}: the same examples in every run?",
                two,
                "The closer the shade keeps to the line, the more an example's importance is its own and "
                "not the seed's.",
            )


def _shown(runs: Runs) -> str:
    several = len(runs.class_names)
    more = several > figures.MAX_CLASSES
    return f" Of {several} classes the {figures.MAX_CLASSES} with most objects." if more else ""


def drawn(plate: Plate) -> Picture:
    """Draws the figure of a plate as SVG."""
    figure, buffer = plate.draw(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "isod"}):  # same runs, same bytes
        figure.savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    source = "data:image/svg+xml;base64," + base64.b64encode(_rounded(buffer.getvalue())).decode()
    narrow, wide = (round(pixels * figure.get_figwidth()) for pixels in PIXELS_PER_INCH)
    return Picture(source, min_width=narrow, max_width=wide)


def _rounded(svg: bytes) -> bytes:
    """Path coordinates to a hundredth of a point: matplotlib writes a millionth, which is half of the file."""
    return re.sub(rb'\bd="[^"]*"', lambda path: re.sub(rb"(?<=\.\d\d)\d+", b"", path[0]), svg)
