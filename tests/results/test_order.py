"""Claims about who is faster, on curves that leave no doubt, on curves that leave nothing else, and on too few."""

import math

import pytest

from isod.results import order_table
from isod.results.statistics.order import THESIS_ORDER, Claim
from tests.tracking.made_runs import made_runs

GRID = (100, 200, 300, 400)
SEEDS = range(4)


def run(*values):
    return {"mAP": dict(zip(GRID, values, strict=True))}


@pytest.fixture
def runs():
    """By hand, whatever seeds are drawn: the baseline's best, 0.4, at 400; passed by "fast" at 200 (a speed-up of 1),
    by "slow" at 300 (1/3), by "late" at 400 (0), never by "never" and "nowhere". "coin" is 0.3 above or below it."""
    baseline = {("baseline", s): run(0.1, 0.2, 0.3, 0.4) for s in SEEDS}
    curves = {
        "fast": (0.1, 0.5, 0.5, 0.5),
        "slow": (0.1, 0.1, 0.5, 0.5),
        "late": (0.1, 0.1, 0.1, 0.5),
        "never": (0.1, 0.1, 0.1, 0.1),
        "nowhere": (0.2, 0.2, 0.2, 0.2),
    }
    steady = {(name, s): run(*curve) for name, curve in curves.items() for s in SEEDS}
    coin = {("coin", s): run(0.1, 0.1, 0.1, 0.7 if s % 2 else 0.1) for s in SEEDS}
    few = {("few", s): run(0.1, 0.5, 0.5, 0.5) for s in (0, 1)}
    return made_runs(baseline | steady | coin | few)


@pytest.mark.parametrize(
    ("claim", "verdict", "share"),
    [
        (Claim("fast", "slow"), "held", 1.0),
        (Claim("slow", "fast"), "not held", 0.0),
        (Claim("fast", "baseline"), "held", 1.0),
        (Claim("fast", "baseline", at_most=True), "not held", 0.0),
        (Claim("late", "baseline"), "not held", 0.0),  # as fast is not faster
        (Claim("late", "baseline", at_most=True), "held", 1.0),
        (Claim("never", "baseline", at_most=True), "held", 1.0),
        (Claim("never", "nowhere"), "not held", 0.0),  # nobody passes, nobody is faster
        (Claim("slow", "never"), "held", 1.0),
        (Claim("few", "baseline"), "too few seeds", math.nan),
        (Claim("absent", "baseline"), "not run", math.nan),
        (Claim("fast", "absent"), "not run", math.nan),
    ],
    ids=str,
)
def test_a_claim_beside_curves_without_noise(runs, claim, verdict, share):
    row = order_table(runs, (claim,)).iloc[0]
    assert row["verdict"] == verdict
    assert row["share"] == pytest.approx(share, nan_ok=True)


def test_what_half_of_the_seeds_say_is_undecided(runs):
    """Its mean at 400 is exactly the baseline's 0.4: drawn anew it is above in about half of the resamples."""
    row = order_table(runs, (Claim("coin", "never"),)).iloc[0]
    assert row["verdict"] == "undecided"
    assert 0.25 < row["share"] < 0.6
    assert row["seeds"] == 4


def test_only_seeds_that_all_three_have_count():
    uneven = made_runs(
        {("baseline", s): run(0.1, 0.2, 0.3, 0.4) for s in range(5)}
        | {("a", s): run(0.1, 0.5, 0.5, 0.5) for s in range(1, 5)}
        | {("b", s): run(0.1, 0.1, 0.5, 0.5) for s in range(4)}
    )
    assert order_table(uneven, (Claim("a", "b"),)).iloc[0]["seeds"] == 3


def test_the_thesis_order_in_words():
    assert [str(claim) for claim in THESIS_ORDER] == [
        "UIS-IR > UIS", "UIS > UIS-RB", "UIS-RB > 0", "LIS ≤ 0", "LIS-RB ≤ 0", "LIS-IR ≤ 0", "LIS-RHO ≤ 0",
    ]  # fmt: skip


def test_without_a_baseline_nothing_can_be_said():
    alone = made_runs({("UIS", s): run(0.1, 0.2, 0.3, 0.4) for s in SEEDS})
    assert set(order_table(alone)["verdict"]) == {"not run"}


def test_a_baseline_that_learns_nothing_is_passed_by_nobody():
    flat = made_runs(
        {("baseline", s): run(0.0, 0.0, 0.0, 0.0) for s in SEEDS}
        | {("UIS", s): run(0.0, 0.1, 0.1, 0.1) for s in SEEDS}
        | {("LIS", s): run(0.0, 0.0, 0.1, 0.1) for s in SEEDS}
    )
    row = order_table(flat, (Claim("UIS", "LIS"),)).iloc[0]
    assert row["verdict"] == "flat baseline"
    assert math.isnan(row["share"])
