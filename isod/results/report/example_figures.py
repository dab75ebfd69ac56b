"""The thesis's figures of single examples: what was drawn how often, with which importance and margin (§6, appendix B).

Each is a function from the statistics that ``load_examples`` gives to a matplotlib figure. A store of ninety thousand
examples times ten runs is binned before it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from isod.results.report.curve_figures import short_number
from isod.results.report.fonts import drawable
from isod.results.report.style import SOFT, look_of, rc
from isod.results.statistics.consistency import importance_by_seed, rank_correlation

BINS = 200  # along an axis of ranks or margins
EPOCHS = "#d62728"  # the thesis's red line in 6.3
UNIFORM, BOUNDARY = "#00a5c8", "#1a8a2e"  # its cyan and green lines in 6.2
RANK_LABEL = "examples, sorted by mean importance"
IMPORTANCE_LABEL = "mean importance (score)"


def margin_figure(examples: pd.DataFrame, samplers: Sequence[str] | None = None) -> Figure:
    """Draw a 2-D histogram of margin and draw count, all runs of a sampler together (thesis Fig. 6.2).

    The cyan line is the count with which each example would have been drawn uniformly; the green one the margin 0:
    left of it the objects of an example tend to be misclassified.

    Args:
        examples: ``sampler``, ``draw_count``, ``margin`` (logits; NaN without object), of every run.
        samplers: those to show, a panel each; all that have margins if not given.
    """
    named = [s for s in sampler_names(examples) if samplers is None or s in samplers]
    seen = {s: drawn_examples(examples[examples["sampler"] == s]) for s in named}
    known = {s: rows[rows["margin"].notna()] for s, rows in seen.items()}
    shown = [s for s in named if len(known[s])]
    with mpl.rc_context(rc(sampler_names(examples))):
        columns = min(2, max(1, len(shown)))
        rows = max(1, -(-len(shown) // columns))
        figure = Figure(figsize=(0.4 + 3.2 * columns, 0.7 + 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        if not shown:
            _write_instead(axes[0], "n/a: no run has margins")
            return figure
        margins = np.concatenate([known[s]["margin"].to_numpy(dtype=float) for s in shown])
        low, high = np.quantile(margins, [0.001, 0.999])
        x = np.linspace(float(low) - 1e-6, float(high) + 1e-6, BINS // 2)
        y = count_edges(max(int(known[s]["draw_count"].max()) for s in shown))
        grids = {}
        for sampler in shown:
            inside = np.clip(known[sampler]["margin"], x[0], x[-1])  # the outermost two thousandths join the edge
            grids[sampler] = np.histogram2d(inside, known[sampler]["draw_count"], [x, y])[0]
        norm = LogNorm(1, max(2.0, *(grid.max() for grid in grids.values())))
        mesh = None
        for ax, sampler in zip(axes, shown, strict=False):
            mesh = _mesh(ax, x, y, grids[sampler], norm)
            ax.axhline(uniform_count(seen[sampler]), color=UNIFORM, linewidth=1.6, linestyle="--")
            ax.axvline(0, color=BOUNDARY, linewidth=1.6)
            ax.set_title(f"{drawable(sampler)}: {100 * _wrong_share(known[sampler]):.0f} % of draws left of 0")
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(short_number))
        for ax in axes[len(shown) :]:
            ax.set_visible(False)
        for ax in axes[max(0, len(shown) - columns) : len(shown)]:  # the lowest of each column
            ax.tick_params(labelbottom=True)
        lines = [mpl.lines.Line2D([], [], color=UNIFORM, linestyle="--"), mpl.lines.Line2D([], [], color=BOUNDARY)]
        figure.legend(lines, ["drawn uniformly", "margin 0"], loc="outside upper left", ncols=2)
        figure.supxlabel("margin: true logit − best other logit", fontsize=10)
        figure.supylabel("draws per example", fontsize=10)
        assert mesh is not None
        _count_bar(figure, mesh, list(axes), aspect=40)
    return figure


def importance_figure(examples: pd.DataFrame, sampler: str) -> Figure:
    """Draw the mean importance of each example, sorted within each run, and below how often those were drawn
    (thesis Fig. 6.3, 6.4, B.1, B.3, B.5, B.7, B.9).

    A line per run above; below, all runs of the sampler together: the shade is how many examples, the line their
    mean, and the red line the count with which each would have been drawn uniformly.

    Args:
        examples: ``sampler``, ``seed``, ``draw_count``, ``mean_importance``, of every run.
    """
    seen = _of(examples, sampler)
    look = look_of(sampler, sampler_names(examples))
    with mpl.rc_context(rc(sampler_names(examples))):
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        if seen.empty:
            _write_instead(figure.add_subplot(), f"n/a: {drawable(sampler)} scores nothing")
            return figure
        top, bottom = figure.subplots(2, 1, sharex=True)
        longest = int(seen.groupby("seed").size().max())
        y = count_edges(int(seen["draw_count"].max()))
        x = np.linspace(0, longest, min(BINS, longest) + 1)
        grid, total, number = np.zeros((len(x) - 1, len(y) - 1)), np.zeros(len(x) - 1), np.zeros(len(x) - 1)
        for _, run in seen.groupby("seed"):
            order = run["mean_importance"].to_numpy().argsort(kind="stable")[::-1]
            values, draws = run["mean_importance"].to_numpy()[order], run["draw_count"].to_numpy()[order]
            at = np.unique(np.linspace(0, len(values) - 1, 1000).round().astype(int))
            top.plot(at + 0.5, values[at], color=look.color, linewidth=1, alpha=0.75)
            ranks = np.arange(len(draws)) + 0.5
            grid += np.histogram2d(ranks, draws, [x, y])[0]
            total += np.histogram(ranks, x, weights=draws)[0]
            number += np.histogram(ranks, x)[0]
        runs = seen["seed"].nunique()
        top.set_title(f"{drawable(sampler)}: {runs} run{'s' * (runs > 1)}, each sorted by itself")
        top.set_ylabel(IMPORTANCE_LABEL)
        _importance_scale(top, seen["mean_importance"].min(), seen["mean_importance"].max())
        mesh = _mesh(bottom, x, y, grid, LogNorm(1, max(2.0, grid.max())))
        bottom.plot((x[:-1] + x[1:]) / 2, total / np.maximum(number, 1), color=look.color, label="mean")
        bottom.axhline(uniform_count(seen), color=EPOCHS, linewidth=1.4, linestyle="--", label="drawn uniformly")
        bottom.set_yscale("log")
        bottom.yaxis.set_major_formatter(FuncFormatter(short_number))
        bottom.set_ylabel("draws per example")
        bottom.legend(loc="upper right", ncols=2)
        _rank_axis(bottom)
        _count_bar(figure, mesh, [bottom], aspect=15)
    return figure


def consistency_figure(examples: pd.DataFrame, sampler: str, sorted_by: int | None = None) -> Figure:
    """Draw the mean importance of each example in every run, sorted by one of them, with Spearman's rank correlation
    (thesis Fig. 6.5, 6.6, B.2, B.4, B.6, B.8, B.10).

    The line is the run that gives the order; the shade is all others. The more they agree, the closer the shade keeps
    to the line.

    Args:
        examples: ``sampler``, ``seed``, ``index``, ``draw_count``, ``mean_importance``, of every run.
        sorted_by: seed of the run that gives the order; the first if not given.
    """
    wide = importance_by_seed(examples, sampler)
    look = look_of(sampler, sampler_names(examples))
    with mpl.rc_context(rc(sampler_names(examples))):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        ax = figure.add_subplot()
        if wide.shape[1] < 2:
            runs = "only one run" if wide.shape[1] else "scores nothing"
            _write_instead(ax, f"n/a: {drawable(sampler)}, {runs}")
            return figure
        first = wide.columns[0] if sorted_by is None else sorted_by
        wide = wide[wide[first].notna()]
        wide = wide.iloc[(-wide[first].to_numpy()).argsort(kind="stable")]
        line, others = wide[first].to_numpy(), wide.drop(columns=first).to_numpy()
        x = np.linspace(0, len(wide), min(BINS, len(wide)) + 1)
        lowest, highest = float(np.nanmin(wide.to_numpy())), float(np.nanmax(wide.to_numpy()))
        y = _importance_edges(lowest, highest)
        ranks = np.broadcast_to((np.arange(len(wide)) + 0.5)[:, None], others.shape)
        known = ~np.isnan(others)
        grid = np.histogram2d(ranks[known], others[known], [x, y])[0]
        mesh = _mesh(ax, x, y, grid, LogNorm(1, max(2.0, grid.max())))
        at = np.unique(np.linspace(0, len(line) - 1, 1000).round().astype(int))
        ax.plot(at + 0.5, line[at], color=look.color, label=f"seed {first}, which gives the order")
        rho = rank_correlation(wide)
        ax.set_title(f"{drawable(sampler)}: rank correlation {rho.mean:.2f} ({rho.low:.2f} to {rho.high:.2f}), "
                     f"{wide.shape[1]} runs", fontsize=10)  # fmt: skip
        ax.set_ylabel(IMPORTANCE_LABEL)
        _importance_scale(ax, lowest, highest)
        ax.legend(loc="upper right")
        _rank_axis(ax)
        _count_bar(figure, mesh, [ax], aspect=20)
    return figure


def sampler_names(examples: pd.DataFrame) -> list[str]:
    """Return every sampler of the sweep in its order, from the categories that ``load_examples`` gives."""
    column = examples["sampler"]
    return [str(s) for s in (column.cat.categories if hasattr(column, "cat") else column.unique())]


def drawn_examples(examples: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of examples that the run drew; the hold-out share and unreadable frames are never drawn."""
    return examples[examples["draw_count"] > 0]


def uniform_count(seen: pd.DataFrame) -> float:
    """Return the draws per example that was drawn: how often each would have been drawn uniformly."""
    return float(seen["draw_count"].mean())


def count_edges(highest: int, bins: int = 50) -> NDArray[np.float64]:
    """Return edges of bins for draw counts 1 … highest, equally wide on a log axis, never narrower than one count."""
    return np.unique(np.geomspace(1, highest + 1, bins).round()) - 0.5 if highest > 0 else np.array([0.5, 1.5])


def _of(examples: pd.DataFrame, sampler: str) -> pd.DataFrame:
    """Return the drawn and scored examples of a sampler."""
    rows = examples[examples["sampler"] == sampler]
    rows = rows[(rows["draw_count"] > 0) & rows["mean_importance"].notna()]
    return rows if (rows["mean_importance"] != 0).any() else rows.iloc[:0]


def _wrong_share(rows: pd.DataFrame) -> float:
    """Return the share of the draws of examples with a margin that went to margins below 0."""
    draws = rows["draw_count"].to_numpy(dtype=float)
    return float(draws[rows["margin"].to_numpy() < 0].sum() / draws.sum())


def _mesh(ax: Axes, x: NDArray, y: NDArray, grid: NDArray, norm: LogNorm) -> QuadMesh:
    """Draw a 2-D histogram in greys, as pixels rather than thousands of shapes; empty bins stay white."""
    ax.grid(visible=False)
    return ax.pcolormesh(x, y, np.ma.masked_less(grid.T, 1), norm=norm, cmap=_greys(), rasterized=True)


def _count_bar(figure: Figure, mesh: QuadMesh, axes: list[Axes], aspect: int) -> None:
    """Add the bar that gives the number of examples of each grey."""
    highest = mesh.get_clim()[1] or 1
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000) if tick <= highest]
    bar = figure.colorbar(mesh, ax=axes, label="examples", aspect=aspect, ticks=ticks)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(short_number))
    bar.ax.yaxis.set_minor_locator(NullLocator())


def _greys() -> mpl.colors.Colormap:
    """Return greys from one that is visible on white paper to black."""
    return mpl.colors.LinearSegmentedColormap.from_list("counts", ["#dcdcdc", "#1c1c1c"])


def _importance_edges(lowest: float, highest: float) -> NDArray[np.float64]:
    """Return edges as the axis of ``_importance_scale`` spaces them."""
    if lowest < 0:
        return np.linspace(lowest, highest, 101)
    linear = _linear_up_to(highest)
    decades = np.log10(highest / linear)
    return np.concatenate([np.linspace(0, linear, 25), linear * np.logspace(0, decades, 76)[1:] * (1 + 1e-9)])


def _importance_scale(ax: Axes, lowest: float, highest: float) -> None:
    """Set a scale that is linear near 0 and logarithmic above: a few examples score hundreds of times the median.

    It is linear throughout where some scores are negative, as those of LIS-RHO (less the hold-out model's) may be.
    """
    if lowest < 0:
        return
    linear = _linear_up_to(highest)
    ax.set_yscale("symlog", linthresh=linear, linscale=0.5)
    ax.set_ylim(bottom=0)
    # Powers of ten below the linear part's end would lie on the 0
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: "" if 0 < v < linear else short_number(v)))


def _linear_up_to(highest: float) -> float:
    return highest / 100


def _rank_axis(ax: Axes) -> None:
    ax.set_xlabel(RANK_LABEL)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(short_number))


def _write_instead(ax: Axes, words: str) -> None:
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=SOFT)
    ax.set_axis_off()
