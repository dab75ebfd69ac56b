"""The thesis's figures from MLflow runs alone: each a function from runs to a matplotlib figure (spec §9).

All are grids of one panel: the mean of a metric over seeds by iteration, ±1 sample standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from isod.results.runs import BASELINE, HEADLINE, Runs
from isod.results.speedup import best_iteration, passing_iteration, speedup
from isod.results.style import RC, look_of
from isod.results.table import percent

SIZES = ("small", "medium", "large")
ITERATION_LABEL = "iteration (optimizer steps)"


def map_figure(runs: Runs, metric: str = HEADLINE) -> Figure:
    """A metric per sampler, and below it the speed-up bars: from where a sampler passes the baseline's best to where
    the baseline reaches it (thesis Fig. 5.1, 5.6, 5.11, 5.16, A.1)."""
    others = [s for s in runs.samplers if s != BASELINE]
    bars = BASELINE in runs.samplers and bool(others)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(6.0, 3.7 + (0.35 + 0.24 * len(others)) * bars), layout="constrained")
        if not bars:
            ax = figure.add_subplot()
            panel(ax, runs, metric, ylabel=f"{metric} (IoU ≥ 0.5)", legend=True)
            _from_zero(ax)
            figure.supxlabel(ITERATION_LABEL, fontsize=10)
            return figure
        top, strip = figure.subplots(2, 1, sharex=True, height_ratios=[3.3, 0.35 + 0.24 * len(others)])
        panel(top, runs, metric, ylabel=f"{metric} (IoU ≥ 0.5)", legend=True)
        _from_zero(top)
        _speedup_bars(top, strip, runs, metric, others)
        strip.set_xlabel(ITERATION_LABEL)
    return figure


def size_figure(runs: Runs) -> Figure:
    """mAP of small, medium and large objects (5.2, 5.7, 5.12, 5.17, A.2)."""
    titles = {f"mAP_{size}": f"{size} ({_count(runs, f'_{size}')} objects)" for size in SIZES}
    return _row(runs, titles, "mAP")


def binary_figure(runs: Runs) -> Figure:
    """AP with the class ignored: is the object found at all (5.5, 5.10, 5.15, 5.20, A.5)."""
    titles = {"binary_AP": f"all sizes ({_count(runs, '')} objects)"}
    titles |= {f"binary_AP_{size}": f"{size} ({_count(runs, f'_{size}')})" for size in SIZES}
    return _row(runs, titles, "binary AP")


def rarest_class_figure(runs: Runs) -> Figure:
    """AP of the class with the least ground truth, Animal in the thesis (5.4, 5.9, 5.14, 5.19, A.4)."""
    name = runs.class_names[-1]
    titles = {f"AP/{name}": f"{name}, all sizes ({runs.last(f'GT/{name}'):.0f} objects)"}
    titles |= {f"AP_{s}/{name}": f"{s} ({_whole(runs.last(f'GT_{s}/{name}'))})" for s in SIZES}
    return _row(runs, titles, f"AP {name}")


def class_by_size_figure(runs: Runs, max_classes: int = 8) -> Figure:
    """AP of each class in each size, smoothed over the raw mean (5.3, 5.8, 5.13, 5.18, A.3).

    Of more than ``max_classes`` classes those with the most ground truth are shown.
    """
    return _class_grid(runs, "AP", max_classes, smoothing=0.8)


def false_positive_figure(runs: Runs, max_classes: int = 8) -> Figure:
    """False positives at the display threshold by class and size (6.7)."""
    return _class_grid(runs, "FP", max_classes, smoothing=None)


def panel(
    ax: Axes,
    runs: Runs,
    metric: str,
    *,
    title: str = "",
    ylabel: str = "",
    smoothing: float | None = None,
    legend: bool = False,
) -> None:
    """Draw one metric for every sampler: the mean over seeds, and ±1 standard deviation where there are two or more.

    Args:
        smoothing: weight of the past in an exponential moving average of the mean; the raw mean stays behind it, thin.
    """
    drawn = False
    for sampler in runs.samplers:
        curve = runs.curve(metric, sampler)
        if curve.empty:
            continue
        drawn = True
        look, mean, sd = look_of(sampler, runs.samplers), curve.mean(axis=1), curve.std(axis=1)
        if smoothing is None:
            ax.fill_between(curve.index, mean - sd, mean + sd, color=look.color, alpha=0.14, linewidth=0)
        else:
            ax.plot(mean.index, mean, color=look.color, alpha=0.45, linewidth=0.8)
            mean = mean.ewm(alpha=1 - smoothing, adjust=False).mean()
        marker = "o" if len(mean) == 1 else None
        ax.plot(mean.index, mean, color=look.color, linestyle=look.dash, label=sampler, marker=marker)
    if not drawn:
        ax.text(0.5, 0.5, "n/a: no ground truth", transform=ax.transAxes, ha="center", va="center", color="#777777")
        ax.grid(visible=False)
    if title:
        ax.set_title(title)
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(_short_number))
    if legend:
        ax.legend(loc="best", handlelength=2.6)


def _speedup_bars(top: Axes, strip: Axes, runs: Runs, metric: str, others: list[str]) -> None:
    """The baseline's best as a line in the upper panel; one bar per sampler in the lower."""
    baseline = runs.mean_curve(metric, BASELINE)
    best, reached = baseline.max(), best_iteration(baseline)
    color = look_of(BASELINE, runs.samplers).color
    start = reached
    for row, sampler in enumerate(others):
        curve = runs.mean_curve(metric, sampler)
        look = look_of(sampler, runs.samplers)
        passed = passing_iteration(baseline, curve) if len(curve) else None
        if passed is None:
            strip.text(reached, row, "not reached  ", ha="right", va="center", color="#777777", fontsize=9)
            continue
        start = min(start, passed)
        top.plot([passed], [curve[passed]], "o", color=look.color, markersize=5, markeredgecolor="white", zorder=5)
        strip.plot([passed, reached], [row, row], color=look.color, linewidth=5, solid_capstyle="butt")
        strip.plot([passed], [row], "o", color=look.color, markersize=6, markeredgecolor="white", zorder=5)
        gain = speedup(baseline, curve)
        label, right = percent(math.nan if gain is None else gain), passed > reached
        strip.text(passed, row, f"   {label}" if right else f"{label}   ", ha="left" if right else "right",
                   va="center", fontsize=9)  # fmt: skip
    top.plot([start, reached], [best, best], color=color, linewidth=1, linestyle=(0, (2, 2)))
    top.plot([reached], [best], "D", color=color, markersize=5, markeredgecolor="white", zorder=5)
    strip.axvline(reached, color=color, linewidth=1, linestyle=(0, (2, 2)))
    strip.set_yticks(range(len(others)), others)
    strip.set_ylim(len(others) - 0.4, -0.6)
    strip.set_xlim(left=0)
    strip.set_title("speed-up: iterations to surpass the baseline's best", fontsize=9, color="#555555")
    strip.grid(visible=False, axis="y")
    strip.tick_params(axis="y", length=0)


def _row(runs: Runs, titles: dict[str, str], ylabel: str) -> Figure:
    """Panels side by side, one scale, one legend above."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(2.75 * len(titles) + 0.6, 3.3), layout="constrained")
        axes = figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
        for ax, (metric, title) in zip(axes, titles.items(), strict=True):
            panel(ax, runs, metric, title=title, ylabel=ylabel if ax is axes[0] else "")
        _frame(figure, axes, runs)
    return figure


def _class_grid(runs: Runs, name: str, max_classes: int, smoothing: float | None) -> Figure:
    """Classes down, sizes across; the classes differ too much for one scale, the sizes of a class share theirs."""
    classes = runs.class_names[:max_classes]
    strata = ["", *(f"_{size}" for size in SIZES)]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(11.2, 0.7 + 2.1 * len(classes)), layout="constrained")
        axes = figure.subplots(len(classes), len(strata), sharex=True, sharey="row", squeeze=False)
        for row, class_name in zip(axes, classes, strict=True):
            for ax, suffix in zip(row, strata, strict=True):
                count = runs.last(f"GT{suffix}/{class_name}")
                title = f"{class_name} {suffix[1:] or 'all sizes'} ({_whole(count)})"
                panel(ax, runs, f"{name}{suffix}/{class_name}", title=title, smoothing=smoothing,
                      ylabel=name if suffix == "" else "")  # fmt: skip
        _frame(figure, axes.ravel(), runs)
    return figure


def _frame(figure: Figure, axes: Iterable[Axes], runs: Runs) -> None:
    """What the panels have in common: zero below, the legend above, the name of the x axis."""
    handles: dict = {}
    for ax in axes:
        _from_zero(ax)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    ordered = [s for s in runs.samplers if s in handles]
    if ordered:
        columns = max(1, int(figure.get_figwidth() / 1.3))  # inches for a line and its name
        figure.legend([handles[s] for s in ordered], ordered, loc="outside upper left", ncols=columns, handlelength=2.6)
    figure.supxlabel(ITERATION_LABEL, fontsize=10)


def _from_zero(ax: Axes) -> None:
    """Start the y axis at 0; last, as it ends autoscaling for all axes that share it."""
    ax.set_ylim(bottom=0)


def _count(runs: Runs, suffix: str) -> str:
    """Objects of all classes in a stratum."""
    return _whole(sum(runs.last(f"GT{suffix}/{name}") for name in runs.class_names))


def _whole(count: float) -> str:
    return "?" if math.isnan(count) else f"{count:.0f}"


def _short_number(value: float, _position: int | None = None) -> str:
    """12000 → 12k, so that iterations fit under narrow panels."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
