"""Figures and tables of single examples, on numbers small enough to check by hand."""

import io
import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from isod.results.report.example_figures import (
    consistency_figure,
    count_edges,
    importance_figure,
    margin_figure,
    uniform_count,
)
from isod.results.report.style import LOOKS
from isod.results.statistics.consistency import consistency_table, importance_by_seed, rank_correlation


def examples(sampler="UIS", seeds=2, **columns):
    """Rows as load_examples gives them; the columns are [seeds][examples]."""
    count = len(next(iter(columns.values()))[0])
    frames = [
        pd.DataFrame(
            {"sampler": sampler, "seed": seed, "index": range(count)} | {k: v[seed] for k, v in columns.items()}
        )
        for seed in range(seeds)
    ]
    return pd.concat(frames, ignore_index=True).astype({"sampler": "category"})


SMALL = examples(
    draw_count=[[1, 8, 3, 0], [2, 6, 4, 0]],
    mean_importance=[[0.1, 0.9, 0.4, np.nan], [0.2, 0.7, 0.8, np.nan]],
    margin=[[2.0, -1.0, np.nan, np.nan], [3.0, -2.0, 1.0, np.nan]],
)


def test_importance_is_sorted_within_each_run_and_drawn_over_its_counts():
    top, bottom, _bar = importance_figure(SMALL, "UIS").axes
    assert [list(np.round(line.get_ydata(), 6)) for line in top.get_lines()] == [[0.9, 0.4, 0.1], [0.8, 0.7, 0.2]]
    assert {line.get_color() for line in top.get_lines()} == {LOOKS["UIS"].color}
    mean, uniform = bottom.get_lines()
    # most important: drawn 8 and 4 times; then 3 and 6; then 1 and 2
    assert mean.get_ydata() == pytest.approx([6.0, 4.5, 1.5])
    assert uniform.get_ydata()[0] == pytest.approx(24 / 6)  # 24 draws of 6 examples drawn at all
    assert bottom.collections[0].get_array().sum() == 6


def test_margins_by_draw_count_with_the_thesis_lines():
    axes = margin_figure(SMALL).axes
    lines = axes[0].get_lines()
    assert lines[0].get_ydata()[0] == pytest.approx(24 / 6)
    assert lines[1].get_xdata()[0] == 0
    assert axes[0].collections[0].get_array().sum() == 5  # the example without a margin is not in it
    assert axes[0].get_title(loc="left") == "UIS: 67 % of draws left of 0"  # 8 + 6 of 1 + 8 + 2 + 6 + 4


def test_every_column_of_margins_has_its_numbers_below():
    """Three panels in two columns: the right one's lowest panel stands above an empty place."""
    three = pd.concat([SMALL.assign(sampler=name) for name in ("LIS", "UIS", "UIS-IR")], ignore_index=True)
    figure = margin_figure(three)
    shown = [ax.xaxis.get_tick_params()["labelbottom"] for ax in figure.axes[:3]]
    assert shown == [False, True, True]


def test_importance_below_the_linear_part_has_no_number_that_lies_on_the_zero():
    scores = [[250.0, 3.0, 1.0, 0.4]] * 2  # linear up to 2.5
    ax = importance_figure(SMALL.assign(mean_importance=np.ravel(scores), draw_count=1), "UIS").axes[0]
    assert [ax.yaxis.get_major_formatter()(value) for value in (0, 0.1, 1, 10, 100)] == ["0", "", "", "10", "100"]


def test_consistency_draws_the_others_over_one():
    figure = consistency_figure(SMALL, "UIS")
    ax = figure.axes[0]
    assert ax.get_lines()[0].get_ydata() == pytest.approx([0.9, 0.4, 0.1])
    assert ax.collections[0].get_array().sum() == 3
    assert "rank correlation 0.50 (0.50 to 0.50), 2 runs" in ax.get_title(loc="left")  # ranks 123 and 132
    other = consistency_figure(SMALL, "UIS", sorted_by=1).axes[0]
    assert other.get_lines()[0].get_ydata() == pytest.approx([0.8, 0.7, 0.2])


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_rank_correlation_is_scipys(missing):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 30, 200)  # many ties
    wide = pd.DataFrame({seed: base + rng.normal(0, 5, 200).round() for seed in range(3)})
    wide = wide.mask(rng.random(wide.shape) < missing)
    expected = [spearmanr(wide[a], wide[b], nan_policy="omit").statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    got = rank_correlation(wide)
    assert (got.mean, got.low, got.high) == pytest.approx((np.mean(expected), min(expected), max(expected)))


def test_consistency_table():
    baseline = examples("baseline", draw_count=[[4, 4, 4, 0]] * 2, mean_importance=[[np.nan] * 4] * 2,
                        margin=[[1.0] * 4] * 2)  # fmt: skip
    both = pd.concat([baseline, SMALL], ignore_index=True).astype({"sampler": "category"})
    table = consistency_table(both)
    assert list(table.index) == ["UIS"]  # the baseline scores nothing
    row = table.loc["UIS"]
    assert row["runs"] == 2
    assert row["importance"] == pytest.approx(0.5)
    assert row["top_shared"] == 1  # both drew the same three examples
    assert row["uniform"] == pytest.approx(4)
    assert row["most_drawn"] == pytest.approx((8 + 6) / 2)
    one = consistency_table(SMALL[SMALL["seed"] == 0]).loc["UIS"]
    assert np.isnan(one["importance"])
    assert np.isnan(one["top_shared"])


def test_the_most_drawn_of_equally_drawn_examples_are_the_most_important(monkeypatch):
    """Before the first epoch ends nobody was drawn twice, and the lowest index would be the same in every run."""
    monkeypatch.setattr("isod.results.statistics.consistency.TOP", 2)
    once = examples(draw_count=[[1, 1, 1, 1]] * 2, mean_importance=[[0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.8, 0.9]])
    assert consistency_table(once).loc["UIS", "top_shared"] == 0


def test_a_held_out_example_is_drawn_by_some_runs_only():
    held = examples(draw_count=[[3, 0, 2], [0, 5, 2]], mean_importance=[[0.5, np.nan, 0.2], [np.nan, 0.3, 0.1]])
    wide = importance_by_seed(held, "UIS")
    assert wide.shape == (3, 2)
    assert wide.isna().sum().tolist() == [1, 1]
    assert uniform_count(held[held["draw_count"] > 0]) == 3
    consistency_figure(held, "UIS")


def test_importance_below_zero_is_drawn():
    """Less its hold-out model's a run's scores may all lie below 0 (RHO), and another's not: neither is left out."""
    shifted = examples(draw_count=[[2, 2, 2]] * 2, mean_importance=[[-3.0, -1.0, -2.0], [-1.0, 0.5, -0.5]])
    assert importance_by_seed(shifted, "UIS").shape == (3, 2)
    assert consistency_table(shifted).loc["UIS", "importance"] == pytest.approx(1.0)
    top = importance_figure(shifted, "UIS").axes[0]
    assert top.get_ylim()[0] < -3 < 0.5 < top.get_ylim()[1]
    ax = consistency_figure(shifted, "UIS").axes[0]
    assert ax.get_lines()[0].get_ydata() == pytest.approx([-1, -2, -3])
    assert ax.collections[0].get_array().sum() == 3
    assert ax.get_ylim()[0] <= -3


def test_what_is_missing_is_said():
    nothing = SMALL.assign(mean_importance=np.nan, margin=np.nan)
    said = [
        importance_figure(nothing, "UIS").axes[0].texts[0].get_text(),
        consistency_figure(nothing, "UIS").axes[0].texts[0].get_text(),
        consistency_figure(SMALL[SMALL["seed"] == 0], "UIS").axes[0].texts[0].get_text(),
        margin_figure(nothing).axes[0].texts[0].get_text(),
    ]
    assert said == ["n/a: UIS scores nothing", "n/a: UIS, scores nothing", "n/a: UIS, only one run",
                    "n/a: no run has margins"]  # fmt: skip


@pytest.mark.parametrize("highest", [1, 2, 7, 60, 5000])
def test_edges_hold_every_count_once(highest):
    edges = count_edges(highest)
    counts = np.arange(1, highest + 1)
    assert np.histogram(counts, edges)[0].sum() == highest
    assert np.all(np.diff(edges) >= 1)


def test_ninety_thousand_examples_of_ten_runs_are_quick_and_small():
    rng = np.random.default_rng(0)
    n, seeds = 90_000, 10
    scores = [rng.gamma(0.7, 1, n).astype("float32") for _ in range(seeds)]
    many = examples(
        seeds=seeds, mean_importance=scores, draw_count=[1 + rng.poisson(30 * s) for s in scores],
        margin=[4 - s for s in scores],
    )  # fmt: skip
    for draw in (margin_figure, lambda e: importance_figure(e, "UIS"), lambda e: consistency_figure(e, "UIS")):
        buffer, start = io.BytesIO(), time.process_time()
        draw(many).savefig(buffer, format="svg")
        assert time.process_time() - start < 10
        assert buffer.tell() < 300_000
