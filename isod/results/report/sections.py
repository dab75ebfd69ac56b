"""The figures of the report, in the thesis's order: a table with a row per figure.

To add a figure, write a function that draws it, and add a row to ``FIGURES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import pandas as pd
from matplotlib.figure import Figure

from isod.results.report import curve_figures, example_figures
from isod.results.report.example_figures import sampler_names
from isod.results.statistics.consistency import importance_by_seed
from isod.tracking.runs import Runs
from isod.vocabulary import (
    BASELINE,
    BOX_LOSS_CORRELATION,
    CLASS_LOSS_CORRELATION,
    ESS,
    RECENT_REPEATS,
    REPEATS,
    WRONG_LABELS,
)

# Chapter 5 of the thesis compares two samplers at a time with the baseline: title, samplers, first of five figures
COMPARISONS = (
    ("Loss and uncertainty", ("LIS", "UIS"), 1),
    ("Rejection", ("LIS-RB", "UIS-RB"), 6),
    ("Reducible hold-out loss", ("LIS-RHO",), 11),
    ("Regression ignored", ("LIS-IR", "UIS-IR"), 16),
)
IN_CHAPTER_6 = ("UIS", "LIS")  # whose importance the thesis shows there; the others are its appendix B
IMPORTANCE_NUMBERS = {  # sampler → the thesis's figures of its importance, and of how consistent that is
    "UIS": ("6.3", "6.5"),
    "LIS": ("6.4", "6.6"),
    "UIS-IR": ("B.1", "B.2"),
    "LIS-IR": ("B.3", "B.4"),
    "UIS-RB": ("B.5", "B.6"),
    "LIS-RB": ("B.7", "B.8"),
    "LIS-RHO": ("B.9", "B.10"),
}


@dataclass(frozen=True)
class Subject:
    """What a figure is drawn from."""

    runs: Runs
    examples: pd.DataFrame  # as ``load_examples`` gives them
    samplers: Sequence[str] | None = None  # those to draw; None draws all
    sampler: str = ""  # the one that a figure of single examples shows
    first_number: int | None = None  # n of the thesis's Fig. 5.n, the first of five that compare these samplers
    passed: Sequence[str] = ()  # samplers that surpass the baseline's best

    @property
    def by_class(self) -> bool:
        """Whether the runs logged metrics by class and size."""
        return bool(self.runs.class_names)

    @property
    def several_comparisons(self) -> bool:
        """Whether the sweep has more than one of the thesis's comparisons."""
        return len(_comparisons(self)) > 1

    @cached_property
    def scored_runs(self) -> int:
        """The number of runs in which the sampler scored examples."""
        return importance_by_seed(self.examples, self.sampler).shape[1]

    def logs(self, *metrics: str) -> bool:
        """Return whether any run logged one of these metrics."""
        return not set(metrics).isdisjoint(self.runs.metrics)


@dataclass(frozen=True)
class FigureRow:
    """A row of the table below. Texts may hold the names that ``_words`` gives a value, in braces."""

    section: str  # "speed-up", "comparison", or the name of a row of SECTIONS
    draw: Callable[[Subject], Figure]
    thesis_number: str  # "" for a figure that the thesis does not have
    title: str
    caption: str  # what to look for
    applies: Callable[[Subject], bool] = lambda subject: True


@dataclass(frozen=True)
class SectionRow:
    """A section of the report, with every figure of the same name in ``FIGURES``, once for each subject."""

    anchor: str
    name: str
    title: str
    subjects: Callable[[Subject], list[Subject]] = lambda sweep: [sweep]
    folded: bool = False  # closed until the reader opens it


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report, not drawn yet."""

    draw: Callable[[], Figure]
    thesis_number: str
    title: str
    caption: str


@dataclass(frozen=True)
class Section:
    """Figures of the report that belong together."""

    anchor: str
    title: str
    figures: list[ReportFigure]
    folded: bool


FIGURES = (
    FigureRow(
        "speed-up",
        lambda s: curve_figures.map_figure(s.runs),
        "{lead}",
        "mAP and speed-up, all samplers",
        "Mean over seeds, shaded ±1 standard deviation. The dashed line is the baseline's best, the diamond where the "
        "baseline reaches it. Each bar shows the iterations saved on the way there, over the seeds that both have. "
        "{passed}.",
    ),
    FigureRow(
        "comparison",
        lambda s: curve_figures.map_figure(s.runs, s.samplers),
        "{first}",
        "mAP and speed-up",
        "A bar starts where the sampler surpasses the baseline's best; a bar to the right means slower.",
        lambda s: s.by_class and s.several_comparisons,
    ),
    FigureRow(
        "comparison",
        lambda s: curve_figures.size_figure(s.runs, s.samplers),
        "{second}",
        "mAP by object size",
        "Look for a sampler that gains on one size and loses on another; all panels share a scale.",
        lambda s: s.by_class,
    ),
    FigureRow(
        "comparison",
        lambda s: curve_figures.class_by_size_figure(s.runs, s.samplers),
        "{third}",
        "AP by class and size",
        "Moving average (weight of the past {smoothing}) over the thin raw mean, which it lags behind while that "
        "rises. The number of objects is in brackets: curves over few objects jump by chance.{classes_shown}",
        lambda s: s.by_class,
    ),
    FigureRow(
        "comparison",
        lambda s: curve_figures.rarest_class_figure(s.runs, s.samplers),
        "{fourth}",
        "The rarest class: {rarest}",
        "Shows whether drawing by importance helps the class with the fewest objects.",
        lambda s: s.by_class,
    ),
    FigureRow(
        "comparison",
        lambda s: curve_figures.binary_figure(s.runs, s.samplers),
        "{fifth}",
        "Binary AP",
        "The class is ignored. Where this rises and AP does not, objects are found but classified wrongly.",
        lambda s: s.by_class,
    ),
    FigureRow(
        "drawing",
        lambda s: curve_figures.correlation_figure(s.runs),
        "6.1",
        "Correlation of score and loss",
        "Near 1, a high score means a high loss. The thesis's UIS starts slightly below 0 and rises: it moves from "
        "moderately easy examples to harder ones.",
        lambda s: s.logs(CLASS_LOSS_CORRELATION, BOX_LOSS_CORRELATION),
    ),
    FigureRow(
        "drawing",
        lambda s: curve_figures.drawing_figure(s.runs),
        "",
        "How concentrated the draws are",
        "The lower the effective sample size, the fewer examples receive most draws. Repeats count examples that are "
        "drawn again at once.",
        lambda s: s.logs(ESS, REPEATS, RECENT_REPEATS),
    ),
    FigureRow(
        "drawing",
        lambda s: curve_figures.wrong_label_figure(s.runs),
        "",
        "Draws of wrong labels",
        "The baseline's line is the share of label errors in the demo data. A sampler above it draws label errors more "
        "often than chance.",
        lambda s: s.logs(WRONG_LABELS),
    ),
    FigureRow(
        "drawing",
        lambda s: example_figures.margin_figure(s.examples, _scoring(s)),
        "6.2",
        "Margin by draw count",
        "At the upper left are examples that are drawn often and still misclassified: hard ones, and those with wrong "
        "labels.",
        lambda s: bool(s.examples["margin"].notna().any()),
    ),
    FigureRow(
        "importance",
        lambda s: example_figures.importance_figure(s.examples, s.sampler),
        "{importance}",
        "{sampler}: importance and draws",
        "Where the lines of the runs coincide, the runs agree on how skewed the data is. Draws should fall with "
        "importance.",
        lambda s: s.scored_runs > 0,
    ),
    FigureRow(
        "importance",
        lambda s: example_figures.consistency_figure(s.examples, s.sampler),
        "{consistency}",
        "{sampler}: the same examples in every run?",
        "The closer the shade is to the line, the more an example's importance depends on the example and the less on "
        "the seed.",
        lambda s: s.scored_runs > 1,
    ),
    FigureRow(
        "false-positives",
        lambda s: curve_figures.false_positive_figure(s.runs),
        "6.7",
        "False positives",
        "Detections above the display threshold that match no object: they increase when a sampler neglects "
        "background. The number of objects is in brackets.",
        lambda s: s.by_class,
    ),
    FigureRow(
        "all",
        lambda s: curve_figures.size_figure(s.runs),
        "A.2",
        "mAP by object size, all samplers",
        "The scale is the same as above, so the groups can be compared.",
        lambda s: s.by_class and s.several_comparisons,
    ),
    FigureRow(
        "all",
        lambda s: curve_figures.class_by_size_figure(s.runs, smoothing=None),
        "A.3",
        "AP by class and size, not smoothed",
        "The mean over seeds as measured, shaded ±1 standard deviation.{classes_shown}",
        lambda s: s.by_class,
    ),
    FigureRow(
        "all",
        lambda s: curve_figures.rarest_class_figure(s.runs, smoothing=None),
        "A.4",
        "{rarest}, not smoothed",
        "Shows how far single validations are from the moving average.",
        lambda s: s.by_class,
    ),
    FigureRow(
        "all",
        lambda s: curve_figures.binary_figure(s.runs),
        "A.5",
        "Binary AP, all samplers",
        "Shows which sampler finds most objects, whatever class it gives them.",
        lambda s: s.by_class and s.several_comparisons,
    ),
)
SECTIONS = (
    SectionRow("drawing", "drawing", "What was drawn"),
    SectionRow(
        "importance", "importance", "Do runs agree on which examples matter", lambda s: _one_each(s, IN_CHAPTER_6)
    ),
    SectionRow("false-positives", "false-positives", "False positives"),
    SectionRow("all", "all", "All samplers, not smoothed", folded=True),
    SectionRow(
        "other-samplers",
        "importance",
        "Importance under the other samplers",
        lambda s: _one_each(s, [name for name in _scoring(s) if name not in IN_CHAPTER_6]),
        folded=True,
    ),
)


def lead_figure(runs: Runs, passed: Sequence[str]) -> ReportFigure:
    """Return the figure that shows which sampler is fastest.

    Args:
        passed: samplers that surpass the baseline's best.
    """
    (figure,) = _figures("speed-up", [Subject(runs, pd.DataFrame(), passed=passed)])
    return figure


def report_sections(runs: Runs, examples: pd.DataFrame) -> list[Section]:
    """Return every figure but the first, in the thesis's order: chapters 5 and 6, appendices A and B.

    A section without figures is left out.
    """
    sweep = Subject(runs, examples)
    groups = _comparisons(sweep)
    if sweep.several_comparisons:
        sections = [
            Section(f"compare-{group.first_number}", _title(group), _figures("comparison", [group]), False)
            for group in groups
        ]
    else:
        number = groups[0].first_number if groups else None
        figures = _figures("comparison", [Subject(runs, examples, first_number=number)])
        sections = [Section("results", "By size, class and as a binary task", figures, False)]
    for row in SECTIONS:
        sections.append(Section(row.anchor, row.title, _figures(row.name, row.subjects(sweep)), row.folded))
    return [section for section in sections if section.figures]


def _figures(section: str, subjects: Sequence[Subject]) -> list[ReportFigure]:
    """Return the figures of a section for each of the subjects, as far as they apply."""
    figures = []
    for subject in subjects:
        words = _words(subject)
        for row in FIGURES:
            if row.section == section and row.applies(subject):
                texts = (text.format_map(words) for text in (row.thesis_number, row.title, row.caption))
                figures.append(ReportFigure(partial(row.draw, subject), *texts))
    return figures


def _words(subject: Subject) -> dict[str, str]:
    """Return what stands for the names in braces in the texts of ``FIGURES``."""
    runs, start = subject.runs, subject.first_number
    classes, limit = len(runs.class_names), curve_figures.MAX_CLASSES
    importance, consistency = IMPORTANCE_NUMBERS.get(subject.sampler, ("", ""))
    places = ("first", "second", "third", "fourth", "fifth")
    groups = _comparisons(subject)
    passed = subject.passed or ["No sampler"]
    return {
        **{place: "" if start is None else f"5.{start + n}" for n, place in enumerate(places)},
        "lead": f"5.{groups[0].first_number}" if len(groups) == 1 else "A.1",
        "passed": f"{', '.join(passed)} surpass{'es' if len(passed) == 1 else ''} the baseline's best",
        "rarest": runs.class_names[-1] if classes else "",
        "smoothing": str(curve_figures.SMOOTHING),
        "classes_shown": f" Shows {limit} of {classes} classes, those with most objects." if classes > limit else "",
        "sampler": subject.sampler,
        "importance": importance,
        "consistency": consistency,
    }


def _comparisons(sweep: Subject) -> list[Subject]:
    """Return the thesis's comparisons that this sweep has, each with the baseline first."""
    present = set(sweep.runs.samplers)
    if BASELINE not in present:
        return []
    return [
        Subject(sweep.runs, sweep.examples, [BASELINE, *(s for s in group if s in present)], first_number=first)
        for _, group, first in COMPARISONS
        if present & set(group)
    ]


def _title(comparison: Subject) -> str:
    title = next(title for title, _, first in COMPARISONS if first == comparison.first_number)
    return f"{title}: {', '.join((comparison.samplers or [])[1:])} compared with the baseline"


def _one_each(sweep: Subject, samplers: Sequence[str]) -> list[Subject]:
    return [Subject(sweep.runs, sweep.examples, sampler=sampler) for sampler in samplers]


def _scoring(sweep: Subject) -> list[str]:
    """Return the samplers that have statistics of examples, without the baseline."""
    return [name for name in sampler_names(sweep.examples) if name != BASELINE]
