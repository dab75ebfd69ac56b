"""The speed-up table as people read it: on a terminal, in the report, and in files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from isod.errors import InputError
from isod.results.report.fonts import missing_font
from isod.results.statistics.intervals import NOT_REACHED
from isod.results.statistics.speedup_table import is_flat, is_short_of_pairs, speedup_table
from isod.tracking.runs import Runs
from isod.vocabulary import BASELINE, CPU_SECONDS, HEADLINE, SECONDS

AVERAGE_PRECISIONS = ("mAP", "AP", "binary_AP")  # what the names of metrics begin with of which more is better
# The two tables that are printed under one another, as one row would be too long
SPEED = ("sampler", "seeds", "speed-up", "95 % interval", "chance", "iterations", "to target", "in time")
LEVEL = ("sampler", "final", "difference (95 %)", "beats", "best", "ESS/N", "s/run")
CLOCKS = {
    SECONDS: "In time, s/run: seconds of training, which other runs on the same machine make longer.",
    CPU_SECONDS: "In time, s/run: processor time of the training process, without its neighbours' and its data's.",
}
MISSABLE = ("speedup", "wall_clock_speedup", "target_speedup")  # NaN of these, beside a baseline, is "not reached"
ENDS = ("interval_low", "interval_high", "null_low", "null_high", "target_low", "target_high")  # −1 is "not reached"


def as_written(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for files: "not reached" where a curve never surpasses the baseline, None where NaN."""
    out = table.astype(object).where(table.notna(), None)
    compared = (table.index != BASELINE) & (table["baseline_best"] > 0)
    missed = dict.fromkeys(MISSABLE, ~table["reached"])
    missed["target_speedup"] = table["target"].notna() & table["target_speedup"].isna()
    for column, rows in missed.items():
        out.loc[compared & rows, column] = "not reached"
    out["target_iterations"] = out["target_iterations"].where(~np.isinf(table["target_iterations"]), "not reached")
    for column in ENDS:
        out[column] = out[column].where(table[column] != NOT_REACHED, "not reached")
    return out


def percent(fraction: float) -> str:
    """Return +95 %, −20 %; "not reached" for NOT_REACHED, "–" for NaN."""
    if math.isnan(fraction):
        return "–"
    if fraction == NOT_REACHED:
        return "not reached"
    if math.isinf(fraction):
        return "+∞ %"
    rounded = round(100 * fraction)
    return f"{rounded:+d} %".replace("-", "−") if rounded else "0 %"


def interval_text(low: float, high: float) -> str:
    """Return −8 … +26 %; "n/a" for NaN, the interval of too few seeds."""
    if math.isnan(low):
        return "n/a"
    if low == high:
        return percent(low)
    return f"{percent(low).removesuffix(' %')} … {percent(high)}"


def difference_text(mean: float, low: float, high: float) -> str:
    """Return +0.013 (−0.002 … +0.028); "n/a" for the interval of too few seeds; "–" for a mean of NaN."""
    if math.isnan(mean):
        return "–"
    ends = "n/a" if math.isnan(low) else f"{low:+.3f} … {high:+.3f}"
    return f"{mean:+.3f} ({ends})".replace("-", "−")


def text_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text: headings with units, index reset."""
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
                "final": f"{row['final']:.3f}{sd}",
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


class TableText(str):
    """Tables and their footnotes as text, which a notebook shows as HTML.

    Args:
        text: the whole, for a terminal.
        tables: the cells, as text.
        notes: the footnotes.
    """

    _html: str

    def __new__(cls, text: str, tables: Sequence[pd.DataFrame], notes: Sequence[str]) -> TableText:
        self = super().__new__(cls, text)
        shown = [table.to_html(index=False, border=0, escape=True) for table in tables]
        self._html = "\n".join([*shown, *(f"<p>{escape(note)}</p>" for note in notes)])
        return self

    def _repr_html_(self) -> str:
        return self._html


def format_table(runs: Runs, columns: int = 100, metric: str = HEADLINE) -> str:
    """Return the speed-up table and its footnotes for a terminal that is so many columns wide.

    It is two tables under one another, how fast and how high; each drops its last columns where space is short. As the
    last line of a notebook's cell it is shown as HTML, with all columns.

    Raises:
        InputError: no run has a value of the metric, or it is not an average precision: for a loss, less is better, so
            "surpasses" would mean the opposite.
    """
    if not metric.startswith(AVERAGE_PRECISIONS):
        raise InputError(f"a speed-up needs a metric of which more is better (mAP…, AP…, binary_AP…), got {metric!r}")
    table = speedup_table(runs, metric)
    if table.empty:
        raise InputError(f"no finished run logged {metric!r}; the runs have: {', '.join(runs.metrics)}")
    cells = text_cells(table)
    speed, level = cells[[*SPEED]], cells[[*LEVEL]].rename(columns={"final": f"final {metric}"})
    notes = footnotes(runs, table)
    text = "\n".join([*_lines(speed, columns), "", *_lines(level, columns), "", *notes])
    return TableText(text, [speed, level], notes)


def _lines(cells: pd.DataFrame, columns: int) -> list[str]:
    widths = {c: max(len(c), *cells[c].str.len()) for c in cells.columns}
    while sum(widths.values()) + 2 * (len(widths) - 1) > columns and len(widths) > 2:
        widths.popitem()
    lines = ["  ".join(c.ljust(w) for c, w in widths.items()).rstrip()]
    lines += ["  ".join(row[c].ljust(w) for c, w in widths.items()).rstrip() for _, row in cells.iterrows()]
    lines.insert(1, "─" * max(map(len, lines)))
    return lines


def footnotes(runs: Runs, table: pd.DataFrame) -> list[str]:
    """Return the sentences below the table, each at most 100 characters."""
    out = []
    if runs.is_demo:
        out.append("DEMO data, synthetic and made by isod: these numbers say nothing about real images.")
    metric = table.attrs.get("metric", HEADLINE)
    if is_flat(table):
        out.append(f"The baseline's mean {metric} never rises above 0, so there is no speed-up.")
    elif BASELINE in table.index:
        row = table.loc[[BASELINE]].to_dict("records")[0]
        best = f"{row['best']:.3f} at iteration {row['iterations']:.0f}"
        out.append(f"Speed-up: iterations to surpass the baseline's best mean {metric}, {best}.")
        short = table[is_short_of_pairs(table)]
        if (short["pairs"] > 0).any():
            out.append("A sampler with other seeds than the baseline is compared over the seeds that both have.")
        if (short["pairs"] == 0).any():
            out.append("A sampler that shares no seed with the baseline is compared over all runs of each.")
        if not math.isnan(row["null_high"]):
            out += _noise_alone(table)
            out.append("Chance: how often equal samplers would show at least this speed-up (permutation over seeds).")
        else:
            out.append("Intervals need three seeds or more. With fewer, a speed-up is an anecdote.")
        if math.isnan(row["target"]):
            out.append(f"To target: there is no target, as a baseline run never has a {metric} above 0.")
        else:
            target = f"{metric} {row['target']:.3f}, which every baseline run reaches"
            out.append(f"To target: median iterations of single runs to {target}.")
        out.append("Beats: probability that a run of the sampler ends higher than a run of the baseline.")
        if held := runs.with_holdout:
            out.append(f"Iterations and seconds leave out the training of the hold-out model: {', '.join(held)}."[:100])
        out.append(CLOCKS[table.attrs["clock"]])
        if len(devices := runs.devices) > 1:
            out.append("The runs trained on different devices, so seconds (in time, s/run) are hardly comparable:")
            out += [f"  {count} on {device}"[:100] for device, count in devices.items()]
    else:
        out.append("No baseline run has finished, so there is no speed-up.")
    if lost := missing_font(runs.names):
        out.append(lost)
    if len(runs.left_out):
        out.append(f"{len(runs.left_out)} run(s) of this sweep are left out: failed, unfinished or repeated.")
    return out


def _noise_alone(table: pd.DataFrame) -> list[str]:
    """Return what noise alone shows, by the number of seeds where samplers differ in it."""
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
