"""The headline table: one row per sampler, as a DataFrame and as text for a terminal."""

from __future__ import annotations

import math

import pandas as pd

from isod.results.intervals import NOT_REACHED, Interval, bootstrap_interval, null_interval
from isod.results.runs import BASELINE, HEADLINE, Runs
from isod.results.speedup import best_iteration, passing_iteration, speedup


def speedup_table(runs: Runs, metric: str = HEADLINE) -> pd.DataFrame:
    """What each sampler saves and where it ends, from mean curves over seeds.

    Index: sampler, the baseline first. NaN where a value does not exist. Columns:
        seeds: number of finished runs.
        reached: whether the mean curve surpasses the baseline's best (False for the baseline itself).
        speedup: eq. 5.1, fraction; NaN unless reached.
        interval_low, interval_high: its 95 % bootstrap interval over the seeds that both have; −1 is "not reached",
            NaN below three seeds.
        iterations: at which the baseline's best is surpassed; for the baseline, at which it is first reached.
        final, final_sd: mean and sample standard deviation over seeds at the last validation.
        best, best_iteration: maximum of the mean curve.
        seconds: training seconds of the mean curve at ``iterations``, validation left out.
        wall_clock_speedup: the baseline's ``seconds`` over this one's, minus 1.
        seconds_per_run: mean training seconds of a whole run.
        ess: effective sample size of the scores over N at the last validation, mean over seeds.
    """
    baseline = runs.mean_curve(metric, BASELINE) if BASELINE in runs.samplers else None
    seconds_to_best = math.nan
    rows = []
    for sampler in runs.samplers:
        curve, clock = runs.curve(metric, sampler), runs.mean_curve("time/seconds", sampler)
        if curve.empty or curve.isna().all(axis=None):
            continue
        mean, ess = curve.mean(axis=1, skipna=False), runs.mean_curve("sampler/ess", sampler)
        row = {
            "sampler": sampler,
            "seeds": curve.shape[1],
            "reached": False,
            "final": mean.iloc[-1],
            "final_sd": curve.iloc[-1].std(),
            "best": mean.max(),
            "best_iteration": best_iteration(mean),
            "seconds_per_run": clock.iloc[-1] if len(clock) else math.nan,
            "ess": ess.iloc[-1] if len(ess) else math.nan,
        }
        if baseline is not None:
            passed = best_iteration(mean) if sampler == BASELINE else passing_iteration(baseline, mean)
            interval = None if sampler == BASELINE else _paired_interval(runs, metric, sampler)
            gain = speedup(baseline, mean)
            seconds = float(clock.get(passed, math.nan)) if passed is not None else math.nan
            if sampler == BASELINE:  # comes first
                seconds_to_best = seconds
            row |= {
                "reached": gain is not None,
                "speedup": math.nan if gain is None else gain,
                "iterations": math.nan if passed is None else passed,
                "seconds": seconds,
                "wall_clock_speedup": math.nan if gain is None or seconds == 0 else seconds_to_best / seconds - 1,
                "interval_low": interval.low if interval else math.nan,
                "interval_high": interval.high if interval else math.nan,
            }
        rows.append(row)
    columns = ["seeds", "reached", "speedup", "interval_low", "interval_high", "iterations", "final", "final_sd"]
    columns += ["best", "best_iteration", "seconds", "wall_clock_speedup", "seconds_per_run", "ess"]
    return pd.DataFrame(rows, columns=["sampler", *columns]).set_index("sampler")


def baseline_null(runs: Runs, metric: str = HEADLINE) -> Interval | None:
    """Speed-up that the baseline shows over itself by chance; None below three seeds."""
    if BASELINE not in runs.samplers:
        return None
    curve = runs.curve(metric, BASELINE)
    return null_interval(curve.to_numpy().T, curve.index.to_numpy())


def _paired_interval(runs: Runs, metric: str, sampler: str) -> Interval | None:
    ours, theirs = runs.curve(metric, BASELINE), runs.curve(metric, sampler)
    seeds = ours.columns.intersection(theirs.columns)
    return bootstrap_interval(ours[seeds].to_numpy().T, theirs[seeds].to_numpy().T, ours.index.to_numpy())


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


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: text cells, headings with units, index reset."""
    rows = []
    for sampler, row in zip(map(str, table.index), table.to_dict("records"), strict=True):
        own = sampler == BASELINE
        missing = "–" if own or BASELINE not in table.index else "not reached"
        sd = "" if math.isnan(row["final_sd"]) else f" ± {row['final_sd']:.3f}"
        rows.append(
            {
                "sampler": sampler,
                "seeds": str(row["seeds"]),
                "speed-up": percent(row["speedup"]) if row["reached"] else missing,
                "95 % interval": "–" if own else interval_text(row["interval_low"], row["interval_high"]),
                "iterations": f"{row['iterations']:.0f}" if not math.isnan(row["iterations"]) else "–",
                "final mAP": f"{row['final']:.3f}{sd}",
                "best": f"{row['best']:.3f}",
                "in time": percent(row["wall_clock_speedup"]),
                "s/run": _seconds(row["seconds_per_run"]),
                "ESS/N": "–" if math.isnan(row["ess"]) else f"{row['ess']:.2f}",
            }
        )
    return pd.DataFrame(rows)


def format_table(runs: Runs, columns: int = 100) -> str:
    """The headline table for a terminal that many columns wide, with what one needs to read it."""
    table = speedup_table(runs)
    cells = printable(table)
    for column in (None, "best", "s/run", "seeds"):  # what the report also has goes first where space is short
        cells = cells.drop(columns=column) if column else cells
        widths = {c: max(len(c), *cells[c].str.len()) for c in cells.columns}
        if sum(widths.values()) + 2 * (len(widths) - 1) <= columns:
            break
    lines = ["  ".join(c.ljust(w) for c, w in widths.items()).rstrip()]
    lines += ["  ".join(row[c].ljust(w) for c, w in widths.items()).rstrip() for _, row in cells.iterrows()]
    lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join([*lines, "", *notes(runs, table)])


def notes(runs: Runs, table: pd.DataFrame) -> list[str]:
    """Sentences below the table, each at most 100 characters."""
    out = []
    if runs.is_demo:
        out.append("DEMO data: a stand-in made by isod; these numbers say nothing about real images.")
    if BASELINE in table.index:
        row = table.loc[[BASELINE]].to_dict("records")[0]
        best = f"{row['best']:.3f} at iteration {row['iterations']:.0f}"
        out.append(f"Speed-up: iterations to surpass the baseline's best mean mAP, {best}.")
        null = baseline_null(runs)
        out.append(
            f"Noise alone, baseline against itself: {interval_text(null.low, null.high)}."
            if null
            else "Intervals need three seeds or more: with fewer, read a speed-up as an anecdote."
        )
    else:
        out.append("No baseline run has finished, so there is no speed-up.")
    if len(runs.left_out):
        out.append(f"{len(runs.left_out)} run(s) of this sweep left out: failed, unfinished or repeated.")
    return out


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"
