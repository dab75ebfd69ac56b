"""The headline table: one row per sampler, as a DataFrame and as text for a terminal."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd

from isod.errors import InputError
from isod.results.report.fonts import missing_font
from isod.results.statistics.intervals import (
    NOT_REACHED,
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
from isod.tracking.sweep_reader import Runs, of_the_same_seeds
from isod.vocabulary import BASELINE, HEADLINE

COLUMNS = (
    "seeds", "pairs", "reached", "speedup", "interval_low", "interval_high", "chance",
    "null_seeds", "null_low", "null_high", "iterations", "baseline_best", "baseline_iterations",
    "final", "final_sd", "difference", "difference_low", "difference_high", "beats", "best", "best_iteration",
    "target", "target_seeds", "target_iterations", "target_speedup", "target_low", "target_high",
    "seconds", "wall_clock_speedup", "seconds_per_run", "ess",
)  # fmt: skip
AVERAGE_PRECISIONS = ("mAP", "AP", "binary_AP")  # what the names of metrics begin with of which more is better
MISSABLE = ("speedup", "wall_clock_speedup", "target_speedup")  # NaN of these, beside a baseline, is "not reached"
FAST = (
    "speedup", "interval_low", "interval_high", "chance", "null_low", "null_high",
    "iterations", "baseline_best", "baseline_iterations",
    "target", "target_seeds", "target_iterations", "target_speedup", "target_low", "target_high",
    "seconds", "wall_clock_speedup",
)  # fmt: skip  # columns that say how fast the baseline's level is reached
ENDS = ("interval_low", "interval_high", "null_low", "null_high", "target_low", "target_high")  # −1 of these likewise


def speedup_table(runs: Runs, metric: str = HEADLINE) -> pd.DataFrame:
    """What each sampler saves and where it ends, by any metric for which more is better.

    Index: sampler, the baseline first; a sampler without a value of the metric has no row. NaN where a value does not
    exist; in all that tells how fast, where the baseline never rises above 0. "Paired" is over the seeds that sampler
    and baseline both have: a seed gives all samplers the same initial weights, and some seeds end higher than others.
    Where they share none, what is no interval, chance or difference is over all runs of each. Columns:
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
        seconds: training seconds of the mean curve at ``iterations``, paired, validation left out.
        wall_clock_speedup: the baseline's seconds at ``baseline_iterations`` over these, minus 1; NaN unless reached.
        seconds_per_run: mean training seconds of a whole run.
        ess: effective sample size of the scores over N at the last validation, mean over seeds.
    """
    curves = {sampler: runs.curve(metric, sampler).reindex(runs.grid) for sampler in runs.samplers}
    curves = {sampler: c for sampler, c in curves.items() if not c.mean(axis=1, skipna=False).isna().all()}
    baseline = curves.get(BASELINE)
    clocks = {sampler: runs.curve("time/seconds", sampler) for sampler in curves}
    rows = []
    for sampler, curve in curves.items():
        mean = curve.mean(axis=1, skipna=False)
        clock, ess = clocks[sampler].mean(axis=1, skipna=False), runs.mean_curve("sampler/ess", sampler)
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
                row |= {**best, "baseline_best": row["best"], "seconds": _at(clock, best_iteration(mean))}
            else:
                row |= _beside(baseline, curve, clocks[BASELINE], clocks[sampler])
        rows.append(row)
    table = pd.DataFrame(rows, columns=["sampler", *COLUMNS]).set_index("sampler")
    table.attrs["metric"] = metric
    if baseline is not None:
        _tell_noise(table, baseline)
    if is_flat(table):
        table[[*FAST]] = math.nan
        table["reached"] = False
    return table


def is_flat(table: pd.DataFrame) -> bool:
    """Whether the baseline never rises above 0, so that there is no speed-up to tell."""
    return BASELINE in table.index and not table["best"].to_dict()[BASELINE] > 0


def is_short_of_pairs(table: pd.DataFrame) -> pd.Series:
    """By sampler: whether the baseline, or the sampler, has finished runs of seeds that the other one has not."""
    return (table["pairs"] < table["seeds"]) | (table["pairs"] < table["seeds"].get(BASELINE, 0))


def _beside(
    baseline: pd.DataFrame, curve: pd.DataFrame, baseline_clock: pd.DataFrame, clock: pd.DataFrame
) -> dict[str, object]:
    """What a row of the table says about the sampler beside the baseline; all [iteration × seed]."""
    a, b, pairs = of_the_same_seeds(baseline, curve)
    ours, theirs = (seeds.mean(axis=1, skipna=False) for seeds in (a, b))
    gain, passed, first = None, None, best_iteration(ours)
    if rises := ours.max() > 0:  # whoever rises at all would "surpass" it late, and be called slower
        gain, passed = speedup(ours, theirs), passing_iteration(ours, theirs)
    clocks = [
        seconds.reindex(columns=seeds.columns).mean(axis=1, skipna=False)
        for seconds, seeds in zip((baseline_clock, clock), (a, b), strict=True)
    ]
    seconds_to_best, seconds = _at(clocks[0], first), _at(clocks[1], passed)
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


def _tell_noise(table: pd.DataFrame, baseline: pd.DataFrame) -> None:
    """Fills in the null interval of each row; the baseline is [iteration × seed]."""
    table["null_seeds"] = table["pairs"].where(table["pairs"] > 0, table["seeds"].clip(upper=baseline.shape[1]))
    for number in table["null_seeds"].unique():
        if null := null_interval(baseline.to_numpy().T, baseline.index.to_numpy(), seeds=int(number)):
            table.loc[table["null_seeds"] == number, ["null_low", "null_high"]] = null.low, null.high


def _to_target(baseline: pd.DataFrame, curve: pd.DataFrame) -> dict[str, object]:
    """What a row of the table says about the fixed target; both [iteration × seed]."""
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


def _at(clock: pd.Series, iteration: int | None) -> float:
    """The clock's seconds at an iteration; NaN where there is none."""
    return float(clock.get(iteration, math.nan))


def spoken(table: pd.DataFrame) -> pd.DataFrame:
    """The table as files keep it: "not reached" spelled out wherever a curve never surpasses, None for what is not."""
    out = table.astype(object).where(table.notna(), None)
    beside = (table.index != BASELINE) & (table["baseline_best"] > 0)
    missed = dict.fromkeys(MISSABLE, ~table["reached"])
    missed["target_speedup"] = table["target"].notna() & table["target_speedup"].isna()
    for column, rows in missed.items():
        out.loc[beside & rows, column] = "not reached"
    out["target_iterations"] = out["target_iterations"].where(~np.isinf(table["target_iterations"]), "not reached")
    for column in ENDS:
        out[column] = out[column].where(table[column] != NOT_REACHED, "not reached")
    return out


def percent(fraction: float) -> str:
    """+95 %, −20 %; "not reached" for NOT_REACHED, "–" for NaN."""
    if math.isnan(fraction):
        return "–"
    if fraction == NOT_REACHED:
        return "not reached"
    if math.isinf(fraction):
        return "+∞ %"
    rounded = round(100 * fraction)
    return f"{rounded:+d} %".replace("-", "−") if rounded else "0 %"


def interval_text(low: float, high: float) -> str:
    """−8 … +26 %; "n/a" for NaN, which is what too few seeds leave."""
    if math.isnan(low):
        return "n/a"
    if low == high:
        return percent(low)
    return f"{percent(low).removesuffix(' %')} … {percent(high)}"


def difference_text(mean: float, low: float, high: float) -> str:
    """+0.013 (−0.002 … +0.028); without the interval where too few seeds leave none; "–" for NaN."""
    if math.isnan(mean):
        return "–"
    ends = "n/a" if math.isnan(low) else f"{low:+.3f} … {high:+.3f}"
    return f"{mean:+.3f} ({ends})".replace("-", "−")


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: text cells, headings with units, index reset."""
    rows = []
    for sampler, row in zip(map(str, table.index), table.to_dict("records"), strict=True):
        own = sampler == BASELINE
        alone = own or not row["baseline_best"] > 0  # NaN without a baseline that rises
        sd = "" if math.isnan(row["final_sd"]) else f" ± {row['final_sd']:.3f}"
        rows.append(
            {
                "sampler": sampler,
                "seeds": str(row["seeds"]),
                "speed-up": percent(row["speedup"]) if row["reached"] else "–" if alone else "not reached",
                "95 % interval": "–" if own else interval_text(row["interval_low"], row["interval_high"]),
                "chance": "–" if own else "n/a" if math.isnan(row["chance"]) else f"{row['chance']:.3f}",
                "iterations": f"{row['iterations']:.0f}" if not math.isnan(row["iterations"]) else "–",
                "to target": _to_target_text(row, alone),
                f"final {table.attrs.get('metric', HEADLINE)}": f"{row['final']:.3f}{sd}",
                "difference (95 %)": difference_text(row["difference"], row["difference_low"], row["difference_high"]),
                "beats": "–" if math.isnan(row["beats"]) else f"{row['beats']:.2f}",
                "best": f"{row['best']:.3f}",
                "in time": percent(row["wall_clock_speedup"]),
                "ESS/N": "–" if math.isnan(row["ess"]) else f"{row['ess']:.2f}",
                "s/run": _seconds(row["seconds_per_run"]),
            }
        )
    return pd.DataFrame(rows)


def _to_target_text(row: dict, alone: bool) -> str:
    if alone or math.isnan(row["target"]):
        return "–"
    return "not reached" if math.isnan(row["target_speedup"]) else percent(row["target_speedup"])


def format_table(runs: Runs, columns: int = 100, metric: str = HEADLINE) -> str:
    """The headline table for a terminal that many columns wide, with what one needs to read it.

    It is two tables under one another, how fast and how high; each leaves out its last column where space is short.

    Raises:
        InputError: no run has a value of the metric, or it is not an average precision: of a loss less is better, and
            "surpasses" would mean the opposite.
    """
    if not metric.startswith(AVERAGE_PRECISIONS):
        raise InputError(f"a speed-up needs a metric of which more is better (mAP…, AP…, binary_AP…), got {metric!r}")
    table = speedup_table(runs, metric)
    if table.empty:
        raise InputError(f"no finished run logged {metric!r}; the runs have: {', '.join(runs.metrics)}")
    cells = printable(table)
    fast = ["sampler", "seeds", "speed-up", "95 % interval", "chance", "iterations", "to target", "in time"]
    high = ["sampler", f"final {metric}", "difference (95 %)", "beats", "best", "ESS/N", "s/run"]
    return "\n".join([*_lines(cells[fast], columns), "", *_lines(cells[high], columns), "", *notes(runs, table)])


def _lines(cells: pd.DataFrame, columns: int) -> list[str]:
    widths = {c: max(len(c), *cells[c].str.len()) for c in cells.columns}
    while sum(widths.values()) + 2 * (len(widths) - 1) > columns and len(widths) > 2:
        widths.popitem()
    lines = ["  ".join(c.ljust(w) for c, w in widths.items()).rstrip()]
    lines += ["  ".join(row[c].ljust(w) for c, w in widths.items()).rstrip() for _, row in cells.iterrows()]
    lines.insert(1, "─" * max(map(len, lines)))
    return lines


def notes(runs: Runs, table: pd.DataFrame) -> list[str]:
    """Sentences below the table, each at most 100 characters."""
    out = []
    if runs.is_demo:
        out.append("DEMO data: a stand-in made by isod; these numbers say nothing about real images.")
    metric = table.attrs.get("metric", HEADLINE)
    if is_flat(table):
        out.append(f"The baseline's mean {metric} never rises above 0: there is no speed-up to tell.")
    elif BASELINE in table.index:
        row = table.loc[[BASELINE]].to_dict("records")[0]
        best = f"{row['best']:.3f} at iteration {row['iterations']:.0f}"
        out.append(f"Speed-up: iterations to surpass the baseline's best mean {metric}, {best}.")
        short = table[is_short_of_pairs(table)]
        if (short["pairs"] > 0).any():
            out.append("A sampler with other seeds than the baseline is compared over those that both have.")
        if (short["pairs"] == 0).any():
            out.append("A sampler that shares no seed with the baseline is compared over all runs of each.")
        if not math.isnan(row["null_high"]):
            out += _noise_alone(table)
            out.append("Chance: how often equal samplers would show at least this speed-up (seeds' names exchanged).")
        else:
            out.append("Intervals need three seeds or more: with fewer, read a speed-up as an anecdote.")
        if math.isnan(row["target"]):
            out.append(f"To target: there is none, as a baseline run never has a {metric} above 0.")
        else:
            target = f"{metric} {row['target']:.3f}, which every baseline run reaches"
            out.append(f"To target: median iterations of single runs to {target}.")
        out.append("Beats: probability that a run of it ends higher than a run of the baseline.")
        if held := runs.with_holdout:
            out.append(f"Training a hold-out model is in neither iterations nor seconds: {', '.join(held)}."[:100])
        if len(devices := runs.devices) > 1:
            out.append("Not all runs trained on the same device, so that seconds (in time, s/run) compare little:")
            out += [f"  {count} on {device}"[:100] for device, count in devices.items()]
    else:
        out.append("No baseline run has finished, so there is no speed-up.")
    if lost := missing_font(runs.names):
        out.append(lost)
    if len(runs.left_out):
        out.append(f"{len(runs.left_out)} run(s) of this sweep left out: failed, unfinished or repeated.")
    return out


def _noise_alone(table: pd.DataFrame) -> list[str]:
    """What the baseline shows over itself: a sentence; where samplers differ in their number of seeds, by that."""
    others = table[table.index != BASELINE]
    highs = (others if len(others) else table).groupby("null_seeds")["null_high"].first().sort_index(ascending=False)
    if len(highs) == 1:
        shown = interval_text(NOT_REACHED, highs.iloc[0])
        return [f"Noise alone, baseline against itself: {shown} in 95 % of studies."]
    counts = ["1 seed" if seeds == 1 else f"{seeds} seeds" for seeds in highs.index]
    each = ", ".join(f"{percent(high)} with {count}" for count, high in zip(counts, highs, strict=True))
    return [
        'Noise alone, baseline against itself, in 95 % of studies: from "not reached" to',
        *textwrap.wrap(each, 100, initial_indent="  ", subsequent_indent="  "),
    ]


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"
