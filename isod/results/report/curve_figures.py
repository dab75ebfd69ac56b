"""The thesis's figures of metrics over training, each a function from runs to a matplotlib figure (spec §9).

All are grids of one kind of panel: the mean of a metric over seeds by iteration, ±1 sample standard deviation. Each
function takes ``samplers``, those to draw (all of the sweep if not given): chapter 5 of the thesis compares a few at a
time, its appendix A all of them. Figures of single examples are in ``example_figures``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from unicodedata import east_asian_width

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from isod.results.report.fonts import drawable
from isod.results.report.style import SOFT, look_of, rc
from isod.results.statistics.speedup import best_iteration, passing_iteration, speedup
from isod.results.statistics.text_table import percent
from isod.tracking.runs import Runs, of_the_same_seeds
from isod.vocabulary import (
    BASELINE,
    BOX_LOSS_CORRELATION,
    CLASS_LOSS_CORRELATION,
    ESS,
    HEADLINE,
    RECENT_REPEATS,
    REPEATS,
    STRATA,
    WRONG_LABELS,
    metric_key,
)

ITERATION_LABEL = "iteration (optimizer steps)"
SMOOTHING = 0.8  # weight of the past in the moving average, as in the thesis
MAX_CLASSES = 8  # of a grid; of more classes those with the most ground truth are shown
MANY = 4  # samplers in one panel: above it their bands would hide the curves


def map_figure(runs: Runs, samplers: Sequence[str] | None = None, *, metric: str = HEADLINE) -> Figure:
    """Draw a metric per sampler, and below it the speed-up bars: from where a sampler passes the baseline's best to
    where the baseline reaches it (thesis Fig. 5.1, 5.6, 5.11, 5.16, A.1)."""
    drawn = _chosen(runs, samplers)
    others = [s for s in drawn if s != BASELINE]
    bars = BASELINE in drawn and bool(others)
    with mpl.rc_context(rc(runs.names)):
        figure = Figure(figsize=(6.4, 3.9 + (0.35 + 0.24 * len(others)) * bars), layout="constrained")
        if not bars:
            top = figure.add_subplot()
            figure.supxlabel(ITERATION_LABEL, fontsize=10)
        else:
            top, strip = figure.subplots(2, 1, sharex=True, height_ratios=[3.3, 0.35 + 0.24 * len(others)])
        panel(top, runs, metric, samplers=drawn, ylabel=f"{metric} (IoU ≥ 0.5)")
        _from_zero(top)
        _legend(figure, runs, drawn)
        if bars:
            _speedup_bars(top, strip, runs, metric, others)
            strip.set_xlabel(ITERATION_LABEL)
    return figure


def size_figure(runs: Runs, samplers: Sequence[str] | None = None) -> Figure:
    """Draw mAP of all, small, medium and large objects (5.2, 5.7, 5.12, 5.17, A.2)."""
    return _size_grid(runs, "mAP", samplers)


def class_by_size_figure(
    runs: Runs, samplers: Sequence[str] | None = None, *, smoothing: float | None = SMOOTHING
) -> Figure:
    """Draw AP of each class in each size, smoothed over the thin raw mean (5.3, 5.8, 5.13, 5.18), or with ``smoothing``
    None the raw mean ±1 standard deviation (A.3)."""
    return _class_grid(runs, "AP", samplers, smoothing)


def rarest_class_figure(
    runs: Runs, samplers: Sequence[str] | None = None, *, smoothing: float | None = SMOOTHING
) -> Figure:
    """Draw AP of the class with the least ground truth, Animal in the thesis (5.4, 5.9, 5.14, 5.19); with ``smoothing``
    None unsmoothed (A.4)."""
    name = runs.class_names[-1]
    return _size_grid(runs, "AP", samplers, class_name=name, smoothing=smoothing)


def binary_figure(runs: Runs, samplers: Sequence[str] | None = None) -> Figure:
    """Draw AP with the class ignored: is the object found at all (5.5, 5.10, 5.15, 5.20, A.5)."""
    return _size_grid(runs, "binary_AP", samplers)


def correlation_figure(runs: Runs, samplers: Sequence[str] | None = None) -> Figure:
    """Draw the Pearson correlation of the sample score with the example's own class and box loss (6.1)."""
    titles = {CLASS_LOSS_CORRELATION: "with class loss", BOX_LOSS_CORRELATION: "with box loss"}
    return _side_by_side(runs, titles, "correlation of score (Pearson's r)", samplers, signed=True)


def false_positive_figure(runs: Runs, samplers: Sequence[str] | None = None) -> Figure:
    """Draw false positives at the display threshold by class and size (6.7)."""
    return _class_grid(runs, "FP", samplers, smoothing=None)


def drawing_figure(runs: Runs, samplers: Sequence[str] | None = None) -> Figure:
    """Draw how concentrated draws are: effective sample size, and repeats in a batch and across the ten before it."""
    titles = {
        ESS: "effective sample size over N",
        REPEATS: "repeats in a batch",
        RECENT_REPEATS: "seen in the 10 batches before",
    }
    return _side_by_side(runs, titles, "share (0 to 1)", samplers)


def wrong_label_figure(runs: Runs, samplers: Sequence[str] | None = None) -> Figure:
    """Draw the share of draws that went to examples with a planted label error; only demo data has them."""
    titles = {WRONG_LABELS: "draws of examples with a planted label error"}
    return _side_by_side(runs, titles, "share of draws (0 to 1)", samplers)


def panel(
    ax: Axes,
    runs: Runs,
    metric: str,
    *,
    samplers: Sequence[str] | None = None,
    title: str = "",
    ylabel: str = "",
    smoothing: float | None = None,
) -> None:
    """Draw one metric for every sampler: the mean over seeds, and ±1 standard deviation where there are two or more.

    Args:
        smoothing: weight of the past in an exponential moving average of the mean; the raw mean stays behind it, thin.
    """
    chosen = _chosen(runs, samplers)
    drawn = 0
    for place, sampler in enumerate(chosen):
        curve = runs.curve(metric, sampler)
        if curve.empty:
            continue
        drawn += 1
        look, mean, sd = look_of(sampler, runs.samplers), curve.mean(axis=1), curve.std(axis=1)
        if smoothing is None:
            alpha = 0.16 if len(chosen) <= MANY else 0.07
            ax.fill_between(curve.index, mean - sd, mean + sd, color=look.color, alpha=alpha, linewidth=0)
        else:
            ax.plot(mean.index, mean, color=look.color, alpha=0.4, linewidth=0.7)
            mean = mean.ewm(alpha=1 - smoothing, adjust=False).mean()
        every = (0.05 + 0.18 * place / len(chosen), 0.18)  # of the panel: markers of different curves stay apart
        ax.plot(
            mean.index, mean, **_line(sampler, runs, size=3.6), label=sampler, markevery=every if len(mean) > 1 else 1
        )
        if len(mean) == 1:
            ax.plot(mean.index, mean, "_", color=look.color, markersize=12)
    if not drawn:
        ax.text(0.5, 0.5, "n/a", transform=ax.transAxes, ha="center", va="center", color=SOFT)
        ax.grid(visible=False)
    if title:
        ax.set_title(title)
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(short_number))


def shortened(name: str, limit: int = 22) -> str:
    """Return the name cut to ``limit`` Latin letters of width; a Chinese character counts as two."""
    name = drawable(name)
    ends = list(accumulate(2 if east_asian_width(c) in "WF" else 1 for c in name))
    return name if not ends or ends[-1] <= limit else name[: bisect_right(ends, limit - 1)] + "…"


def short_number(value: float, _position: int | None = None) -> str:
    """Return 12k for 12000, so that numbers fit under narrow panels."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _chosen(runs: Runs, samplers: Sequence[str] | None) -> list[str]:
    """Return the samplers to draw, in the order of the sweep."""
    return [s for s in runs.samplers if samplers is None or s in samplers]


def _line(sampler: str, runs: Runs, size: float) -> dict:
    """Return the sampler's look as matplotlib's arguments."""
    look = look_of(sampler, runs.samplers)
    face = look.color if look.filled else "white"
    return {"color": look.color, "linestyle": look.dash, "marker": look.marker, "markersize": size,
            "markerfacecolor": face, "markeredgewidth": 0.9}  # fmt: skip


def _speedup_bars(top: Axes, strip: Axes, runs: Runs, metric: str, others: list[str]) -> None:
    """Draw the baseline's best as a line in the upper panel and one bar per sampler, over the seeds of both, in the
    lower; and a dot where the curve drawn above passes, if it is of those seeds."""
    every, mean = runs.curve(metric, BASELINE), runs.mean_curve(metric, BASELINE)
    best, reached, same = mean.max(), best_iteration(mean), True
    color = look_of(BASELINE, runs.samplers).color
    start = reached
    for row, sampler in enumerate(others):
        own = runs.curve(metric, sampler)
        *seeds, _ = of_the_same_seeds(every, own)
        baseline, curve = (of.mean(axis=1, skipna=False) for of in seeds)
        drawn = [of.shape for of in seeds] == [every.shape, own.shape]
        same = same and drawn
        look = look_of(sampler, runs.samplers)
        rises = baseline.max() > 0
        missed = "not reached  " if rises else "n/a  "
        passed = passing_iteration(baseline, curve) if len(curve) and rises else None
        if passed is None:
            strip.text(reached, row, missed, ha="right", va="center", color=SOFT, fontsize=9)
            continue
        until = best_iteration(baseline)
        start = min(start, passed)
        if drawn:
            top.plot([passed], [curve[passed]], "o", color=look.color, markersize=6, markeredgecolor="white", zorder=5)
        strip.plot([passed, until], [row, row], color=look.color, linewidth=5, solid_capstyle="butt")
        strip.plot([passed], [row], "o", color=look.color, markersize=6, markeredgecolor="white", zorder=5)
        gain = speedup(baseline, curve)
        label, right = percent(math.nan if gain is None else gain), passed > until
        strip.text(passed, row, f"   {label}" if right else f"{label}   ", ha="left" if right else "right",
                   va="center", fontsize=9)  # fmt: skip
    top.plot([start, reached], [best, best], color=color, linewidth=1, linestyle=(0, (2, 2)))
    top.plot([reached], [best], "D", color=color, markersize=5, markeredgecolor="white", zorder=5)
    strip.axvline(reached, color=color, linewidth=1, linestyle=(0, (2, 2)))
    strip.set_yticks(range(len(others)), [drawable(s) for s in others])
    strip.set_ylim(len(others) - 0.4, -0.6)
    strip.set_xlim(left=0)
    over = "" if same else ", over the seeds of both"
    strip.set_title(f"speed-up: iterations to surpass the baseline's best{over}", fontsize=9, color="#555555")
    strip.grid(visible=False, axis="y")
    strip.tick_params(axis="y", length=0)


def _size_grid(
    runs: Runs,
    name: str,
    samplers: Sequence[str] | None,
    *,
    class_name: str | None = None,
    smoothing: float | None = None,
) -> Figure:
    """Draw a metric of all, small, medium and large objects; four panels, two by two, so that half a page suffices."""
    label = name.replace("_", " ") + ("" if class_name is None else f" {shortened(class_name)}")
    with mpl.rc_context(rc(runs.names)):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, sharey=True)
        for stratum, ax in enumerate(axes.ravel()):
            title = f"{_size_name(stratum)} ({_object_count(runs, stratum, class_name)} objects)"
            panel(ax, runs, metric_key(name, stratum, class_name), samplers=samplers, title=title, smoothing=smoothing,
                  ylabel=label if ax in axes[:, 0] else "")  # fmt: skip
        _frame(figure, axes.ravel(), runs, samplers)
    return figure


def _side_by_side(
    runs: Runs, titles: dict[str, str], ylabel: str, samplers: Sequence[str] | None, *, signed: bool = False
) -> Figure:
    """Draw panels side by side on one scale, without samplers that have no such value, as often the baseline."""
    have = [s for s in _chosen(runs, samplers) if any(not runs.curve(metric, s).empty for metric in titles)]
    with mpl.rc_context(rc(runs.names)):
        figure = Figure(figsize=(6.4 if len(titles) < 3 else 8.4, 3.4), layout="constrained")
        axes = figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
        for ax, (metric, title) in zip(axes, titles.items(), strict=True):
            panel(ax, runs, metric, samplers=have, title=title, ylabel=ylabel if ax is axes[0] else "")
            if signed:
                ax.axhline(0, color="#8a8a8a", linewidth=0.8)
        _frame(figure, axes, runs, have, from_zero=not signed)
    return figure


def _class_grid(runs: Runs, name: str, samplers: Sequence[str] | None, smoothing: float | None) -> Figure:
    """Draw a row per class and a column per size. Classes differ too much for one scale; a row shares its scale."""
    classes = runs.class_names[:MAX_CLASSES]
    with mpl.rc_context(rc(runs.names)):
        figure = Figure(figsize=(8.4, 0.8 + 1.75 * len(classes)), layout="constrained")
        axes = figure.subplots(len(classes), len(STRATA), sharex=True, sharey="row", squeeze=False)
        for row, class_name in zip(axes, classes, strict=True):
            for stratum, ax in enumerate(row):
                panel(ax, runs, metric_key(name, stratum, class_name), samplers=samplers, smoothing=smoothing,
                      title=f"{_size_name(stratum)} ({_object_count(runs, stratum, class_name)})",
                      ylabel=f"{name} {shortened(class_name, 18)}" if stratum == 0 else "")  # fmt: skip
        _frame(figure, axes.ravel(), runs, samplers)
        if name == "FP":
            for ax in axes[:, 0]:
                ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
                ax.set_ylim(top=max(1, ax.get_ylim()[1]))  # a class without any shows 0 to 1, not 0 to 0.04
    return figure


def _frame(
    figure: Figure, axes: Iterable[Axes], runs: Runs, samplers: Sequence[str] | None, *, from_zero: bool = True
) -> None:
    """Add what the panels share: zero at the bottom, the legend above, the name of the x axis."""
    if from_zero:
        for ax in axes:
            _from_zero(ax)
    _legend(figure, runs, _chosen(runs, samplers))
    figure.supxlabel(ITERATION_LABEL, fontsize=10)


def _legend(figure: Figure, runs: Runs, samplers: Sequence[str]) -> None:
    """Add one legend above the panels."""
    handles = [Line2D([], [], **_line(s, runs, size=4.5)) for s in samplers]
    names = [drawable(s) for s in samplers]
    longest = max(map(len, names), default=1)
    columns = max(1, int((figure.get_figwidth() - 0.5) / (0.75 + 0.085 * longest)))  # inches for a line and its name
    if handles:
        figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=2.8, columnspacing=1.4)


def _from_zero(ax: Axes) -> None:
    """Start the y axis at 0; last, as it ends autoscaling for all axes that share it."""
    ax.set_ylim(bottom=0)


def _size_name(stratum: int) -> str:
    return STRATA[stratum] if stratum else "all sizes"


def _object_count(runs: Runs, stratum: int, class_name: str | None) -> str:
    """Return the number of objects of a class, or of all, in a stratum; "?" where it was not logged."""
    count = runs.objects(stratum, class_name)
    return "?" if math.isnan(count) else f"{count:.0f}"
