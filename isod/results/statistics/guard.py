"""What got worse: the guard that thesis §6.3.3 asks for, class by class and size by size.

Drawing by importance moves training time from one kind of object to another, and a mean over classes can rise while a
class that matters falls. So every stratum is compared with the baseline's own seed-to-seed spread.

**The rule.** With n baseline seeds and m of the sampler, both at the last validation, a stratum is worse when

    mean of the sampler < mean of the baseline − max(s, t · √(s²/n + r²/m)),

both over the seeds that they share, or over all where they share none; s and r are the sample standard deviations over
seeds of the baseline and of the sampler, and t the 97.5 % quantile of Student's distribution with the degrees of
freedom of Welch (1947). The first of the two limits says that the loss is as large as the baseline's spread; the second
that seeds alone do not explain it, also where the sampler's spread is another one. Of equal strata it marks 0.7 to 3 %
with equally many seeds, three to ten, whatever the ratio of the spreads from ¼ to 4 (normal values, seeds independent;
fewer if a seed moves both samplers alike, and with more seeds, where the first limit decides). Ten seeds beside two are
the worst case, up to 6 %. Few seeds can only show a large loss: at equal spreads the limit is 1 standard deviation at
ten seeds, 1.5 at five, 2.3 at three and 4.3 at two. With one seed of either there is no spread and no verdict. Where
all seeds of the baseline end at the same value, as in a stratum of few objects, the first limit is one object instead,
1 over their number. There is no correction for the number of strata, as a false alarm costs less than a loss that
nobody sees: ``guard_sentence`` gives the number of strata that chance alone would mark.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from isod.tracking.runs import Runs, of_the_same_seeds
from isod.vocabulary import BASELINE, HEADLINE, STRATA, metric_key

CHANCE = 0.025  # one-sided: share of equal strata that the rule marks
COLUMNS = (
    "sampler", "metric", "class", "size", "ground_truth", "seeds", "baseline", "baseline_sd", "other", "other_sd",
    "difference", "tolerance", "worse",
)  # fmt: skip


def guard_table(runs: Runs) -> pd.DataFrame:
    """Compare every stratum of every sampler with the baseline, at the last validation, by the rule above.

    Returns:
        One row per sampler (the baseline has none) and stratum that has ground truth, in the order of samplers, then
        the mean over classes and the classes (most objects first), then all sizes, small, medium, large:
            sampler; metric (``mAP_small``, ``AP_large/Animal`` …); class and size ("all" where they are not split);
            ground_truth: objects behind it in the validation set;
            seeds: of the sampler, that have a value and are compared;
            baseline, baseline_sd, other, other_sd: mean and sample standard deviation over seeds;
            difference: other − baseline;
            tolerance: how far below the baseline's mean is still what seeds explain; NaN with one seed of either;
            worse: whether difference < −tolerance; False where there is no tolerance.
        Empty without a baseline.
    """
    rows = []
    for sampler in runs.samplers if BASELINE in runs.samplers else []:
        for metric, class_name, size, count in _strata(runs) if sampler != BASELINE else []:
            ours, theirs = runs.final(metric, BASELINE).dropna(), runs.final(metric, sampler).dropna()
            if ours.empty or theirs.empty:
                continue
            ours, theirs, _ = of_the_same_seeds(ours, theirs)
            row = (sampler, metric, class_name, size, count, len(theirs), ours.mean(), ours.std(), theirs.mean())
            difference, limit = theirs.mean() - ours.mean(), tolerance(ours.to_numpy(), theirs.to_numpy(), 1 / count)
            rows.append((*row, theirs.std(), difference, limit, bool(difference < -limit)))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"ground_truth": int, "seeds": int, "worse": bool})


def tolerance(baseline: np.ndarray, other: np.ndarray, least: float) -> float:
    """Return how far below the baseline's mean a sampler's mean may end, by the rule above.

    Args:
        baseline: [n] values of its seeds; other: [m] of the sampler's.
        least: the spread of a baseline whose seeds all end alike.
    Returns:
        In the unit of the values; NaN if n or m is 1.
    """
    n, m = len(baseline), len(other)
    if min(n, m) < 2:
        return math.nan
    limit = float(baseline.std(ddof=1)) if np.ptp(baseline) else least
    one, two = (float(values.var(ddof=1)) / len(values) for values in (baseline, other))  # variances of the means
    if np.ptp(baseline) or np.ptp(other):
        freedom = (one + two) ** 2 / (one**2 / (n - 1) + two**2 / (m - 1))
        limit = max(limit, float(stdtrit(freedom, 1 - CHANCE)) * math.sqrt(one + two))
    return limit


def regressions(table: pd.DataFrame) -> list[str]:
    """Return one line for each stratum of ``guard_table`` that is worse, the largest loss first."""
    worse = table[table["worse"]].sort_values("difference", kind="stable")
    return [
        f"{row['sampler']}: {row['metric']} ended at {row['other']:.3f}, the baseline at {row['baseline']:.3f} ± "
        f"{row['baseline_sd']:.3f} (−{-row['difference']:.3f}; −{row['tolerance']:.3f} is tolerated; "
        f"{row['ground_truth']} objects)"
        for row in worse.to_dict("records")
    ]


def guard_sentence(table: pd.DataFrame) -> str:
    """Return how many strata got worse and how many chance alone would mark, or what is missing for a verdict."""
    judged = int(table["tolerance"].notna().sum())
    if table.empty:
        return "Guard: n/a, as the baseline, or every sampler beside it, has no finished runs."
    if not judged:
        return "Guard: n/a, as the baseline and a sampler need two seeds each for a seed-to-seed spread."
    text = (
        f"Guard: {int(table['worse'].sum())} of {judged} strata ended lower than the baseline by more than the "
        f"seed-to-seed spread; chance alone would mark about {CHANCE * judged:.1f}."
    )
    missing = unjudged(table)
    return text + (f" Not judged, as it needs two seeds that the baseline has: {', '.join(missing)}." * bool(missing))


def unjudged(table: pd.DataFrame) -> list[str]:
    """Return the samplers of a ``guard_table`` of which no stratum has a tolerance."""
    judged = set(table.loc[table["tolerance"].notna(), "sampler"])
    return [str(sampler) for sampler in table["sampler"].unique() if sampler not in judged]


def _strata(runs: Runs) -> list[tuple[str, str, str, int]]:
    """Return (metric, class, size, objects) of every stratum that has ground truth."""
    out = []
    for name in (None, *runs.class_names):
        for stratum, size in enumerate(STRATA):
            count = runs.objects(stratum, name)
            if count > 0:  # NaN: never logged
                metric = metric_key(HEADLINE if name is None else "AP", stratum, name)
                out.append((metric, name or "all", size, int(count)))
    return out
