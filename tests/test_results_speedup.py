"""Eq. 5.1 and its intervals on curves small enough to check by eye."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isod.results import speedup
from isod.results.intervals import Interval, bootstrap_interval, null_interval, speedups
from isod.results.speedup import best_iteration, passing_iteration
from isod.results.table import interval_text, percent

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
    # k ≥ 1 stays at 0.33 or lower and never passes. 2.5 % and 97.5 % fall into the two.
    assert bootstrap_interval(baseline, other, grid) == Interval(-1.0, 3.0)
    assert null_interval(baseline, grid) == Interval(-1.0, -1.0)  # equal curves tie, whatever seeds are drawn
    assert bootstrap_interval(baseline[:2], other[:2], grid) is None


def test_equal_samplers_fall_into_the_null_interval():
    """Curves that saturate, with noise; the null interval holds 0 and the speed-up of another draw of the same."""
    rng = np.random.default_rng(0)
    grid = np.arange(100, 3100, 100)
    noisy = 0.4 * (1 - np.exp(-grid / 600)) + rng.normal(0, 0.01, (20, len(grid)))
    null = null_interval(noisy[:10], grid)
    assert null is not None
    assert null.low <= 0 <= null.high
    assert null.low <= speedups(noisy[None, :10].mean(1), noisy[None, 10:].mean(1), grid)[0] <= null.high
    assert null == null_interval(noisy[:10], grid)  # seeded
    assert null_interval(noisy[:2], grid) is None


def test_numbers_as_people_read_them():
    assert [percent(v) for v in (0.953, -0.2, 0.001, -1.0, nan, math.inf)] == [
        "+95 %", "−20 %", "0 %", "not reached", "–", "+∞ %"
    ]  # fmt: skip
    assert interval_text(-0.08, 0.26) == "−8 … +26 %"
    assert interval_text(-1.0, 0.26) == "not reached … +26 %"
    assert interval_text(-1.0, -1.0) == "not reached"
    assert interval_text(nan, nan) == "n/a"
