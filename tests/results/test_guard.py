"""The guard: which class and size ended lower than the baseline by more than its own seed-to-seed spread."""

import math

import numpy as np
import pytest
from scipy import stats

from isod.cli import main as cli
from isod.results import guard_table
from isod.results.statistics.guard import CHANCE, guard_sentence, regressions, tolerance, unjudged
from tests.tracking.made_runs import made_runs
from tests.tracking.mlflow_store import Store

GROUND_TRUTH = {
    "GT/Car": 30,
    "GT_small/Car": 20,
    "GT_medium/Car": 10,
    "GT_large/Car": 0,
    "GT/Cat": 2,
    "GT_small/Cat": 2,
}


def ends(values, earlier=0.0):
    """Metrics that were ``earlier`` at the first of two validations, and counts."""
    return {name: {100: earlier, 200: v} for name, v in values.items()} | {
        name: {100: n, 200: n} for name, n in GROUND_TRUTH.items()
    }


def sweep(baseline, other):
    """One seed per value, of AP_small/Car; everything else is equal."""
    same = {"mAP": 0.5, "mAP_small": 0.4, "AP/Car": 0.6, "AP/Cat": 0.3, "AP_small/Cat": 0.3, "AP_medium/Car": 0.8}
    runs = {("baseline", s): ends({**same, "AP_small/Car": v}) for s, v in enumerate(baseline)}
    return made_runs(runs | {("UIS", s): ends({**same, "AP_small/Car": v}) for s, v in enumerate(other)})


def row_of(runs, metric="AP_small/Car"):
    return guard_table(runs).set_index("metric").loc[metric]


def test_the_rule_by_hand():
    """Baseline 0.50, 0.51, 0.52 and sampler 0.44, 0.46, 0.48: variances of the means 0.0001/3 and 0.0004/3; Welch's
    degrees of freedom (0.0005/3)² / ((0.0001/3)²/2 + (0.0004/3)²/2) = 25·2/17 = 2.94118, whose 97.5 % quantile is
    3.21876; √(0.0005/3) = 0.0129099. scipy's Welch interval is as wide."""
    row = row_of(sweep([0.50, 0.51, 0.52], [0.44, 0.46, 0.48]))
    assert (row["baseline"], row["baseline_sd"], row["other"], row["other_sd"]) == pytest.approx(
        (0.51, 0.01, 0.46, 0.02)
    )
    assert (row["difference"], row["tolerance"]) == pytest.approx((-0.05, 3.21876 * 0.0129099), abs=1e-6)
    interval = stats.ttest_ind([0.44, 0.46, 0.48], [0.50, 0.51, 0.52], equal_var=False).confidence_interval(0.95)
    assert row["tolerance"] == pytest.approx((interval.high - interval.low) / 2)
    assert row["worse"]
    assert not row_of(sweep([0.50, 0.51, 0.52], [0.45, 0.47, 0.49]))["worse"]  # −0.04
    assert not row_of(sweep([0.50, 0.51, 0.52], [0.90, 0.91, 0.92]))["worse"]


def test_limits_in_standard_deviations():
    """At equal spreads Welch's test is Student's of 2n − 2 degrees of freedom. Of a table of t: 4.303 · √(2/2),
    2.776 · √(2/3), 2.306 · √(2/5); at ten seeds 2.101 · √(2/10) is below 1, the spread itself."""

    def limit(n, m):
        return tolerance(with_spread_1(n), with_spread_1(m), 0.0)

    assert [limit(n, n) for n in (2, 3, 5, 10)] == pytest.approx([4.303, 2.267, 1.458, 1.0], abs=1e-3)
    assert math.isnan(limit(1, 5))
    assert math.isnan(limit(5, 1))


def with_spread_1(n):
    """Values of mean 0 and sample standard deviation 1."""
    values = np.arange(n, dtype=float)
    return (values - values.mean()) / (values.std(ddof=1) if n > 1 else 1.0)


@pytest.mark.parametrize("ratio", [0.5, 1, 2, 4])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_an_equal_sampler_is_marked_in_one_stratum_of_forty(seeds, ratio):
    """Whatever the sampler's spread is, as a multiple of the baseline's: 2.5 %, or less where the baseline's spread is
    the limit or two seeds hardly tell one. Half a percent more is the error of Welch's approximation."""
    rng = np.random.default_rng(seeds)
    baseline, other = rng.normal(0.4, 0.02, (2, 4000, seeds))
    other = 0.4 + ratio * (other - 0.4)
    marked = np.mean([o.mean() - b.mean() < -tolerance(b, o, 0.0) for b, o in zip(baseline, other, strict=True)])
    error = 3 * math.sqrt(CHANCE / len(baseline))
    assert marked <= CHANCE + 0.005 + error
    if seeds in (3, 5):
        assert marked >= CHANCE - 0.007 - error  # and it is not blind


def test_rows_are_the_strata_with_ground_truth():
    table = guard_table(sweep([0.5, 0.6], [0.5, 0.6]))
    listed = list(table[["metric", "class", "size", "ground_truth"]].itertuples(index=False, name=None))
    assert listed == [
        ("mAP", "all", "all", 32),
        ("mAP_small", "all", "small", 22),  # mAP_medium was not logged
        ("AP/Car", "Car", "all", 30),
        ("AP_small/Car", "Car", "small", 20),
        ("AP_medium/Car", "Car", "medium", 10),
        ("AP/Cat", "Cat", "all", 2),
        ("AP_small/Cat", "Cat", "small", 2),
    ]
    assert set(table["sampler"]) == {"UIS"}
    assert not table["worse"].any()


def test_only_the_last_validation_counts():
    low, high = {"mAP": 0.1}, {"mAP": 0.5}
    runs = {("baseline", s): ends(high, earlier=0.9) for s in range(3)}
    runs |= {("UIS", s): ends(high, earlier=0.1) for s in range(3)} | {("LIS", s): ends(low, 0.9) for s in range(3)}
    assert guard_table(made_runs(runs)).set_index("sampler")["worse"].to_dict() == {"LIS": True, "UIS": False}


def test_words():
    runs = sweep([0.50, 0.51, 0.52], [0.46, 0.47, 0.48])
    assert regressions(guard_table(runs)) == [
        "UIS: AP_small/Car ended at 0.470, the baseline at 0.510 ± 0.010 (−0.040; −0.023 is tolerated; 20 objects)"
    ]
    assert guard_sentence(guard_table(runs)).startswith(
        "Guard: 1 of 7 strata ended lower than the baseline by more than"
    )


def test_a_sampler_that_cannot_be_judged_is_named():
    """Two of its three runs failed."""
    high, none = {"mAP": 0.5, "GT/Car": 20}, {"mAP": 0.0, "GT/Car": 20}
    runs = {(name, s): ends(high | {"mAP": 0.5 + s / 100}) for name in ("baseline", "LIS") for s in range(3)}
    table = guard_table(made_runs(runs | {("UIS", 0): ends(none)}))
    assert unjudged(table) == ["UIS"]
    assert guard_sentence(table).endswith("Not judged, as it needs two seeds that the baseline has: UIS.")


def test_one_seed_gives_no_verdict():
    table = guard_table(sweep([0.5], [0.1]))
    assert table["baseline_sd"].isna().all()
    assert table["tolerance"].isna().all()
    assert not table["worse"].any()
    assert "n/a, as the baseline and a sampler need two seeds" in guard_sentence(table)
    alone = guard_table(made_runs({("UIS", 0): ends({"mAP": 0.5})}))
    assert alone.empty
    assert list(alone.columns) == list(table.columns)
    assert "the baseline, or every sampler beside it, has no finished runs" in guard_sentence(alone)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("mlflow"))


@pytest.mark.parametrize(
    ("other", "seeds", "code", "said"),
    [
        ([0.47, 0.48, 0.46], 3, 1, "UIS: AP_small/Car ended at 0.470"),
        ([0.50, 0.49, 0.52], 3, 0, ""),
        ([0.10], 1, 2, "isod: --fail-on-regression cannot judge these runs. Guard: n/a"),
        ([0.10], 3, 2, "isod: --fail-on-regression cannot judge these runs. Guard: n/a"),
    ],
)
def test_fail_on_regression(store, tmp_path, capsys, other, seeds, code, said):
    parent = store.sweep()
    for sampler, values in [("baseline", [0.50, 0.51, 0.52][:seeds]), ("UIS", other)]:
        for seed, value in enumerate(values):
            metrics = {"mAP": 0.5, "AP_small/Car": value, "GT/Car": 20, "GT_small/Car": 20}
            store.run(parent, sampler, seed, grid=[100, 200], metrics=lambda *_, metrics=metrics: metrics)
    arguments = ["results", "--tracking-uri", store.uri, "--experiment", store.experiment, "--sweep", parent]
    arguments += ["--out", str(tmp_path)]
    assert cli.main([*arguments, "--fail-on-regression"]) == code
    assert (tmp_path / "report.html").is_file()
    assert capsys.readouterr().err.startswith(said)
    assert cli.main(arguments) == 0  # only where it is asked for


def test_table_of_another_metric(store, tmp_path, capsys):
    parent = store.sweep()
    for sampler in ("baseline", "UIS"):
        metrics = {"mAP": 0.5, "AP_small/Car": 0.2, "train/loss": 1.0}
        store.run(parent, sampler, 0, grid=[100, 200], metrics=lambda *_, metrics=metrics: metrics)
    arguments = ["results", "--tracking-uri", store.uri, "--experiment", store.experiment, "--sweep", parent]
    arguments += ["--out", str(tmp_path), "--metric"]
    assert cli.main([*arguments, "AP_small/Car"]) == 0
    assert "final AP_small/Car" in capsys.readouterr().out
    assert cli.main([*arguments, "train/loss"]) == 2
    assert capsys.readouterr().err == (
        "isod: a speed-up needs a metric of which more is better (mAP…, AP…, binary_AP…), got 'train/loss'\n"
    )
    assert cli.main([*arguments, "AP_small/Dog"]) == 2
    assert capsys.readouterr().err.startswith(
        "isod: no finished run logged 'AP_small/Dog'; the runs have: AP_small/Car"
    )


@pytest.mark.parametrize(
    ("other", "tolerated", "worse"),
    [
        ([0.96, 0.96, 0.96], 1 / 20, False),
        ([0.94, 0.94, 0.94], 1 / 20, True),
        ([1.0, 0.8, 1.0], 4.3027 * 0.2 / 3, False),  # t of 2 degrees of freedom times sd / √3, sd = 0.2 / √3
    ],
)
def test_seeds_that_all_end_alike_tolerate_one_object(other, tolerated, worse):
    """Of 20: 1/20, unless the sampler's own spread explains more."""
    row = row_of(sweep([1.0, 1.0, 1.0], other))
    assert row["tolerance"] == pytest.approx(tolerated, abs=1e-4)
    assert row["worse"] == worse
