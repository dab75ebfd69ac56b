"""Eq. 5.1 and its intervals on curves small enough to check by eye."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isod.results.statistics.intervals import (
    Interval,
    bootstrap_interval,
    chance_of,
    difference_interval,
    fixed_target,
    iterations_to,
    null_interval,
    probability_of_improvement,
    speedups,
    target_interval,
)
from isod.results.statistics.speedup import best_iteration, passing_iteration, speedup
from isod.results.statistics.text_table import interval_text, percent

GRID = [100, 200, 300, 400]
nan = math.nan


def curve(*values, grid=GRID):
    return pd.Series(values, index=grid[: len(values)], dtype=float)


@pytest.mark.parametrize(
    ("baseline", "other", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.4), (0.2, 0.5, 0.5, 0.5), 400 / 200 - 1),  # twice as fast: +100 %
        ((0.1, 0.2, 0.4, 0.3), (0.1, 0.2, 0.3, 0.5), 300 / 400 - 1),  # passes, but later: −25 %
        ((0.1, 0.4, 0.4, 0.4), (0.1, 0.1, 0.5, 0.5), 200 / 300 - 1),  # a plateau counts from its first iteration
        ((0.1, 0.4, 0.3, 0.4), (0.1, 0.4, 0.5, 0.5), 200 / 300 - 1),  # a tie with the maximum is not surpassing it
        ((0.1, 0.2, 0.3, 0.4), (0.4, 0.4, 0.4, 0.4), None),  # nor is a tie for ever
        ((0.4, 0.3, 0.2, 0.1), (0.5, 0.5, 0.5, 0.5), 0.0),  # the maximum at the first validation, passed at once
        ((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.5), 100 / 400 - 1),
        ((0.1, 0.2, 0.3, 0.4), (0.5, 0.1, 0.1, 0.1), 400 / 100 - 1),  # passing once is enough
        ((0.1, 0.2, 0.3, 0.4), (0.1, 0.1, 0.1, 0.1), None),  # never
        ((nan, 0.2, 0.3, nan), (nan, nan, 0.4, nan), 300 / 300 - 1),  # NaN is no maximum and surpasses nothing
        ((0.1, 0.2, 0.3, 0.4), (nan, nan, nan, nan), None),
        ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), None),  # the baseline does not surpass itself
    ],
)
def test_speedup_by_hand(baseline, other, expected):
    got = speedup(curve(*baseline), curve(*other))
    assert got == (None if expected is None else pytest.approx(expected))


def test_validation_at_iteration_zero():
    assert speedup(curve(0.1, 0.2, grid=[0, 100]), curve(0.3, 0.3, grid=[0, 100])) == math.inf
    assert speedup(curve(0.2, 0.1, grid=[0, 100]), curve(0.3, 0.3, grid=[0, 100])) == 0
    assert speedup(curve(0.2, 0.1, grid=[0, 100]), curve(0.1, 0.3, grid=[0, 100])) == -1


@pytest.mark.parametrize(
    ("baseline", "other", "message"),
    [
        (curve(0.1, 0.2), curve(0.1, 0.2, 0.3), r"same iterations, got 2 iterations \[100, 200\] and 3"),
        (curve(0.1, 0.2), curve(0.1, 0.2, grid=[100, 250]), "same iterations"),
        (curve(nan, nan), curve(0.1, 0.2), "no value at any iteration"),
        (curve(), curve(), "at least one validation"),
        (curve(0.1, 0.2, grid=[200, 100]), curve(0.1, 0.2, grid=[200, 100]), "increasing"),
        (curve(0.1, 0.2, grid=[100, 100]), curve(0.1, 0.2, grid=[100, 100]), "increasing"),
        (curve(0.1, 0.2, grid=[-100, 100]), curve(0.1, 0.2, grid=[-100, 100]), "not negative"),
    ],
)
def test_curves_that_cannot_be_compared_are_refused(baseline, other, message):
    with pytest.raises(ValueError, match=message):
        speedup(baseline, other)


def test_iterations_behind_a_speedup():
    baseline, other = curve(0.1, 0.4, 0.4, 0.3), curve(0.1, 0.4, 0.41, 0.2)
    assert (best_iteration(baseline), passing_iteration(baseline, other)) == (200, 300)


values = st.lists(st.sampled_from([0.1, 0.2, 0.3, nan]), min_size=4, max_size=4)


@given(values, values)
def test_many_curves_at_once_agree_with_one_pair(baseline, other):
    if all(math.isnan(v) for v in baseline):
        return
    one = speedup(curve(*baseline), curve(*other))
    many = speedups(np.array([baseline] * 2), np.array([other] * 2), np.array(GRID))
    assert many == pytest.approx([-1.0 if one is None else one] * 2)


def test_bootstrap_by_hand():
    """Seeds that all agree leave an interval without width; a seed that never passes takes the low end along."""
    grid = np.array(GRID)
    baseline = np.tile([0.1, 0.2, 0.3, 0.4], (3, 1))
    assert bootstrap_interval(baseline, baseline + 0.15, grid) == Interval(400 / 300 - 1, 400 / 300 - 1)
    other = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    # Three seeds drawn: 27 equally likely, with k of the third the mean is 0.5·(3 − k)/3. k = 0 (8/27) passes at 100;
    # k ≥ 1 stays at 0.33 or lower and never passes. 2.5 % and 97.5 % fall into the two. The scale does not change that:
    # 1/3 + √1.5·√(2/χ²)·1/6 stays above 0.4 unless χ² > 18.75, which has probability 0.00008.
    assert bootstrap_interval(baseline, other, grid) == Interval(-1.0, 3.0)
    assert null_interval(baseline, grid) == Interval(-1.0, -1.0)  # equal curves tie, whatever seeds are drawn
    assert bootstrap_interval(baseline[:2], other[:2], grid) is None


def test_bootstrap_is_as_wide_as_students_interval():
    """At a single validation the speed-up is decided by one mean: the scaled bootstrap has the spread of Student's t.

    Seeds −1 and 1, twelve of each: mean 0, sd √(24/23); the t interval of the mean is ± t₀.₉₇₅,₂₃ · sd/√24, that is
    2.0687 · 0.20851 = 0.43135. So a constant baseline of 0.42 is passed in more than 2.5 % of resamples (without the
    scale in fewer: 1.96 · 0.20412 = 0.40), and one of 0.445 in fewer."""
    other = np.repeat([-1.0, 1.0], 12)[:, None] * np.ones((1, 1))
    low, high = (
        bootstrap_interval(np.full((24, 1), level), other, np.array([100]), resamples=200_000)
        for level in (0.42, 0.445)
    )
    assert (low, high) == (Interval(-1.0, 0.0), Interval(-1.0, -1.0))


def test_null_interval():
    """Half of equal samplers never pass; the other end is a speed-up that one in twenty exceeds. Seeded."""
    rng = np.random.default_rng(0)
    grid = np.arange(100, 3100, 100)
    noisy = 0.4 * (1 - np.exp(-grid / 600)) + rng.normal(0, 0.01, (10, len(grid)))
    null = null_interval(noisy, grid)
    assert null is not None
    assert null.low == -1
    assert 0 < null.high < 1
    assert null == null_interval(noisy, grid)
    assert null_interval(noisy[:2], grid) is None


def test_chance_by_hand():
    """Three pairs, one validation, other above the baseline in each. Of the eight ways to exchange names within pairs
    only the observed one has every pair's larger value on one side."""
    grid = np.array([100])
    baseline, other = np.array([[0.1], [0.1], [0.1]]), np.array([[0.2], [0.2], [0.2]])
    # 0 or 1 exchanges leave the other's sum above (0.6, 0.5 against 0.3, 0.4): speed-up 0, as observed; 2 or 3 do not.
    assert chance_of(baseline, other, grid) == pytest.approx(4 / 8)
    assert chance_of(other, baseline, grid) == 1  # never passes: anything is at least that
    assert chance_of(baseline, baseline, grid) == 1  # ties do not pass
    assert chance_of(baseline[:2], other[:2], grid) is None
    # With two validations the observed speed-up is 200/100 − 1: the other's mean is 0.5 at 100, the baseline's best 0.4
    # at 200. One exchange: 0.333 against 0.433 at 200, not at 100. So only the observed way gives +100 %.
    early, late = np.tile([0.5, 0.5], (3, 1)), np.tile([0.0, 0.4], (3, 1))
    assert chance_of(late, early, np.array([100, 200])) == pytest.approx(1 / 8)


def test_chance_of_many_seeds_is_drawn():
    """Passing takes fewer than ten exchanges of twenty, as ten are a tie: 0.4119 of a binomial's table."""
    baseline = np.random.default_rng(0).normal(0, 0.1, (20, 1))
    assert chance_of(baseline, baseline + 1, np.array([100])) == pytest.approx(0.4119, abs=0.025)


def test_fixed_target_by_hand():
    grid = np.array(GRID)
    baseline = np.array([[0.1, 0.2, 0.5, 0.4], [0.1, 0.3, 0.3, nan], [0.3, 0.4, 0.4, 0.4]])
    target = fixed_target(baseline)
    assert target == 0.3  # best values 0.5, 0.3, 0.4
    assert iterations_to(baseline, target, grid).tolist() == [300, 200, 100]  # at the target is there
    other = np.array([[0.1, 0.1, 0.1, 0.1], [nan, 0.3, 0.3, 0.3], [nan] * 4])
    assert iterations_to(other, target, grid).tolist() == [math.inf, 200, math.inf]


def test_misses_are_infinitely_many_iterations():
    ours = np.array([300.0, 300, 300, 300, 300])
    assert target_interval(ours, ours / 2) == Interval(1.0, 1.0)
    assert target_interval(ours, np.full(5, math.inf)) == Interval(-1.0, -1.0)
    # Two of five miss: three or more of five draws are misses with probability 0.317, and then the median is one.
    assert target_interval(ours, np.array([150, 150, 150, math.inf, math.inf])) == Interval(-1.0, 1.0)
    assert target_interval(ours[:4], ours[:4]) is None


def test_difference_by_hand():
    """0.1, 0.2, 0.3: mean 0.2, sd 0.1, Student's t at 97.5 % with 2 degrees of freedom 4.3027: ± 4.3027 · 0.1/√3."""
    got = difference_interval(np.array([0.1, 0.2, 0.3]))
    assert (got.low, got.high) == pytest.approx((0.2 - 0.24841, 0.2 + 0.24841), abs=1e-4)
    assert difference_interval(np.array([0.1, 0.2])) is None


def test_probability_of_improvement_by_hand():
    """0.3 and 0.5 against 0.2, 0.3, 0.4: of six pairs four are won and one is tied."""
    assert probability_of_improvement(np.array([0.2, 0.3, 0.4]), np.array([0.3, 0.5])) == pytest.approx(4.5 / 6)


def test_numbers_as_people_read_them():
    assert [percent(v) for v in (0.953, -0.2, 0.001, -1.0, nan, math.inf)] == [
        "+95 %", "−20 %", "0 %", "not reached", "–", "+∞ %"
    ]  # fmt: skip
    assert interval_text(-0.08, 0.26) == "−8 … +26 %"
    assert interval_text(-1.0, 0.26) == "not reached … +26 %"
    assert interval_text(-1.0, -1.0) == "not reached"
    assert interval_text(nan, nan) == "n/a"
