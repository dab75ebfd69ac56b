"""The speed-up table: what each sampler saves and where it ends, one row per sampler."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from isod.results.statistics.intervals import (
    bootstrap_interval,
    chance_of,
    difference_interval,
    fixed_target,
    iterations_to,
    null_interval,
    probability_of_improvement,
    ratio_minus_one,
    target_interval,
)
from isod.results.statistics.speedup import best_iteration, passing_iteration, speedup
from isod.tracking.runs import Runs, of_the_same_seeds
from isod.vocabulary import BASELINE, CPU_SECONDS, ESS, HEADLINE, SECONDS

COLUMNS = (
    "seeds", "pairs", "reached", "speedup", "interval_low", "interval_high", "chance",
    "null_seeds", "null_low", "null_high", "iterations", "baseline_best", "baseline_iterations",
    "final", "final_sd", "difference", "difference_low", "difference_high", "beats", "best", "best_iteration",
    "target", "target_seeds", "target_iterations", "target_speedup", "target_low", "target_high",
    "seconds", "wall_clock_speedup", "seconds_per_run", "ess",
)  # fmt: skip
SPEED_COLUMNS = (  # how fast the baseline's level is reached
    "speedup", "interval_low", "interval_high", "chance", "null_low", "null_high",
    "iterations", "baseline_best", "baseline_iterations",
    "target", "target_seeds", "target_iterations", "target_speedup", "target_low", "target_high",
    "seconds", "wall_clock_speedup",
)  # fmt: skip


def speedup_table(runs: Runs, metric: str = HEADLINE) -> pd.DataFrame:
    """Return what each sampler saves and where it ends, by any metric for which more is better.

    Index: sampler, the baseline first; a sampler without a value of the metric has no row. A value that
    does not exist is NaN, as is every column about speed where the baseline never rises above 0. "Paired" is over the
    seeds that sampler and baseline both have: a seed gives all samplers the same initial weights, and some seeds end
    higher than others. Where the two share no seed, everything but intervals, chance and difference is over all runs of
    each. Columns:
        seeds: number of finished runs.
        pairs: number of seeds that sampler and baseline both have; 0 where they share none.
        reached: whether the mean curve surpasses the baseline's best (False for the baseline itself), paired.
        speedup: eq. 5.1, fraction, paired; NaN unless reached.
        interval_low, interval_high: its 95 % interval, paired bootstrap (``bootstrap_interval``); −1 is "not reached",
            NaN below three seeds.
        chance: how often equal samplers would show at least this speed-up, 0 … 1 (``chance_of``, paired); NaN below
            three seeds.
        null_seeds: number of seeds of the null interval: pairs, or the fewer of the two samplers' seeds without any.
        null_low, null_high: where noise alone puts the speed-up in 95 % of studies of so many seeds, baseline against
            itself (``null_interval``); −1 is "not reached", NaN with fewer than three runs of the baseline.
        iterations: at which the baseline's best is surpassed, paired; for the baseline, at which it is first reached.
        baseline_best, baseline_iterations: that best, paired, and where the baseline first reaches it.
        final, final_sd: mean and sample standard deviation over seeds at the last validation.
        difference: of the final values to the baseline's, mean of the paired differences; difference_low,
            difference_high: its 95 % interval (Student's t), NaN below three seeds.
        beats: probability that a run of it ends higher than one of the baseline (``probability_of_improvement``),
            paired.
        best, best_iteration: maximum of the mean curve.
        target: a value that every baseline seed reaches (``fixed_target``); the same for every sampler. NaN, as is what
            follows from it, where that value is not above 0: every run would reach it at once.
        target_seeds: how many of its seeds reach the target.
        target_iterations: median over its seeds of the iterations to the target; infinite if half of them miss it.
        target_speedup: that median of the baseline over its own, minus 1, both of the paired runs; NaN if its own is
            infinite there, and for the baseline.
        target_low, target_high: 95 % interval of that (``target_interval``, paired); −1 is "not reached", NaN below
            five seeds.
        seconds: training seconds of the mean curve at ``iterations``, paired, validation left out; of the clock that
            ``attrs["clock"]`` names (``clock_of``).
        wall_clock_speedup: the baseline's seconds at ``baseline_iterations`` over these, minus 1; NaN unless reached.
        seconds_per_run: mean training seconds of a whole run.
        ess: effective sample size of the scores over N at the last validation, mean over seeds.
    """
    curves = {sampler: runs.curve(metric, sampler).reindex(runs.grid) for sampler in runs.samplers}
    curves = {sampler: c for sampler, c in curves.items() if not c.mean(axis=1, skipna=False).isna().all()}
    baseline = curves.get(BASELINE)
    clock_name = clock_of(runs)
    clocks = {sampler: runs.curve(clock_name, sampler) for sampler in curves}
    rows = []
    for sampler, curve in curves.items():
        mean = curve.mean(axis=1, skipna=False)
        clock, ess = clocks[sampler].mean(axis=1, skipna=False), runs.mean_curve(ESS, sampler)
        row: dict[str, object] = {
            "sampler": sampler,
            "seeds": curve.shape[1],
            "pairs": curve.shape[1],
            "reached": False,
            "final": mean.iloc[-1],
            "final_sd": curve.iloc[-1].std(),
            "best": mean.max(),
            "best_iteration": best_iteration(mean),
            "seconds_per_run": clock.iloc[-1] if len(clock) else math.nan,
            "ess": ess.iloc[-1] if len(ess) else math.nan,
        }
        if baseline is not None:
            row |= _to_target(baseline, curve)
            if sampler == BASELINE:
                best = {"iterations": row["best_iteration"], "baseline_iterations": row["best_iteration"]}
                row |= {**best, "baseline_best": row["best"], "seconds": _seconds_at(clock, best_iteration(mean))}
            else:
                row |= _compared_with_baseline(baseline, curve, clocks[BASELINE], clocks[sampler])
        rows.append(row)
    table = pd.DataFrame(rows, columns=["sampler", *COLUMNS]).set_index("sampler")
    table.attrs |= {"metric": metric, "clock": clock_name}
    if baseline is not None:
        _add_null_intervals(table, baseline)
    if is_flat(table):
        table[[*SPEED_COLUMNS]] = math.nan
        table["reached"] = False
    return table


def clock_of(runs: Runs) -> str:
    """Return the metric whose seconds compare best: processor time where every run has it, else wall-clock time.

    Trials of a sweep run beside different neighbours, which cost them wall-clock time that is not theirs.
    """
    points = {
        name: [runs.curve(name, sampler).count().sum() for sampler in runs.samplers] for name in (SECONDS, CPU_SECONDS)
    }
    return CPU_SECONDS if points[CPU_SECONDS] == points[SECONDS] else SECONDS


def is_flat(table: pd.DataFrame) -> bool:
    """Return whether the baseline never rises above 0, so that there is no speed-up."""
    return BASELINE in table.index and not table["best"].to_dict()[BASELINE] > 0


def is_short_of_pairs(table: pd.DataFrame) -> pd.Series:
    """Return, by sampler, whether it or the baseline has finished runs of seeds that the other one does not have."""
    return (table["pairs"] < table["seeds"]) | (table["pairs"] < table["seeds"].get(BASELINE, 0))


def _compared_with_baseline(
    baseline: pd.DataFrame, curve: pd.DataFrame, baseline_clock: pd.DataFrame, clock: pd.DataFrame
) -> dict[str, object]:
    """Return the columns that compare a sampler with the baseline; all arguments are [iteration × seed]."""
    a, b, pairs = of_the_same_seeds(baseline, curve)
    ours, theirs = (seeds.mean(axis=1, skipna=False) for seeds in (a, b))
    gain, passed, first = None, None, best_iteration(ours)
    if rises := ours.max() > 0:  # else any sampler that rises would "surpass" it late, and be called slower
        gain, passed = speedup(ours, theirs), passing_iteration(ours, theirs)
    clocks = [
        seconds.reindex(columns=seeds.columns).mean(axis=1, skipna=False)
        for seconds, seeds in zip((baseline_clock, clock), (a, b), strict=True)
    ]
    seconds_to_best, seconds = _seconds_at(clocks[0], first), _seconds_at(clocks[1], passed)
    interval = chance = None
    if pairs and rises:
        curves = a.to_numpy().T, b.to_numpy().T, baseline.index.to_numpy()
        interval, chance = bootstrap_interval(*curves), chance_of(*curves)
    differences = (b.iloc[-1] - a.iloc[-1]).dropna().to_numpy()  # pandas takes them seed by seed
    around = difference_interval(differences)
    ends = [seeds.iloc[-1].dropna().to_numpy() for seeds in (a, b)]
    return {
        "pairs": pairs,
        "reached": gain is not None,
        "speedup": math.nan if gain is None else gain,
        "interval_low": interval.low if interval else math.nan,
        "interval_high": interval.high if interval else math.nan,
        "chance": math.nan if chance is None else chance,
        "iterations": math.nan if passed is None else passed,
        "baseline_best": ours.max(),
        "baseline_iterations": first,
        "seconds": seconds,
        "wall_clock_speedup": math.nan if gain is None or seconds == 0 else seconds_to_best / seconds - 1,
        "difference": differences.mean() if len(differences) else math.nan,
        "difference_low": around.low if around else math.nan,
        "difference_high": around.high if around else math.nan,
        "beats": probability_of_improvement(ends[0], ends[1]) if min(map(len, ends)) else math.nan,
    }


def _add_null_intervals(table: pd.DataFrame, baseline: pd.DataFrame) -> None:
    """Fill in the null interval of each row; the baseline is [iteration × seed]."""
    table["null_seeds"] = table["pairs"].where(table["pairs"] > 0, table["seeds"].clip(upper=baseline.shape[1]))
    for number in table["null_seeds"].unique():
        if null := null_interval(baseline.to_numpy().T, baseline.index.to_numpy(), seeds=int(number)):
            table.loc[table["null_seeds"] == number, ["null_low", "null_high"]] = null.low, null.high


def _to_target(baseline: pd.DataFrame, curve: pd.DataFrame) -> dict[str, object]:
    """Return the columns about the fixed target; both arguments are [iteration × seed]."""
    grid, of_seeds = baseline.index.to_numpy(), baseline.to_numpy().T
    target = fixed_target(of_seeds)
    if not target > 0:
        return {"target": math.nan, "target_iterations": math.nan, "target_seeds": 0}
    theirs = iterations_to(curve.to_numpy().T, target, grid)
    row: dict[str, object] = {
        "target": target,
        "target_seeds": int(np.isfinite(theirs).sum()),
        "target_iterations": float(np.median(theirs)),
    }
    if curve is baseline:
        return row
    *same, pairs = of_the_same_seeds(baseline, curve)
    ours, theirs = (iterations_to(seeds.to_numpy().T, target, grid) for seeds in same)
    gain = ratio_minus_one(np.median(ours), np.median(theirs))
    interval = target_interval(ours, theirs) if pairs else None
    return row | {
        "target_speedup": math.nan if np.isinf(np.median(theirs)) else float(gain),
        "target_low": interval.low if interval else math.nan,
        "target_high": interval.high if interval else math.nan,
    }


def _seconds_at(clock: pd.Series, iteration: int | None) -> float:
    """Return the clock's seconds at an iteration; NaN where there is none."""
    return float(clock.get(iteration, math.nan))
