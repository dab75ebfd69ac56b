"""What got worse: the guard that thesis §6.3.3 asks for, class by class and size by size.

Drawing by importance moves training time from one kind of object to another, and a mean over classes can rise while a
class that matters falls. So every stratum is compared with the baseline's own seed-to-seed spread.

**The rule.** With n baseline seeds and m of the sampler, both at the last validation, a stratum is worse when

    mean of the sampler < mean of the baseline − sd · max(1, t · √(1/n + 1/m)),

both over the seeds that they share, or over all where they share none; sd is the baseline's sample standard deviation
over its seeds and t the 97.5 % quantile of Student's distribution with n − 1 degrees of freedom. The first of the two
limits says that the loss is as large as the spread; the second that seeds alone do not explain it: an equal sampler
falls below it in at most 2.5 % of strata (normal values, seeds independent; fewer if a seed moves both samplers alike).
At the thesis's ten seeds the two are the same (1.01 sd); at five the limit is 1.8 sd, at three 3.5 sd, at two 12.7 sd:
few seeds can only show a large loss. With one baseline seed there is no spread and no verdict. Where all of its seeds
end at the same value, as in a stratum of few objects, the tolerance is one object instead, 1 over their number. There
is no correction for the number of strata, as a false alarm costs less than a loss that nobody sees: ``guard_sentence``
gives the number of strata that chance alone would mark.
"""

from __future__ import annotations

import math

import pandas as pd
from scipy.special import stdtrit

from isod.tracking.runs import Runs, of_the_same_seeds
from isod.vocabulary import BASELINE, HEADLINE, STRATA, metric_key

CHANCE = 0.025  # one-sided: share of equal strata that the rule marks
COLUMNS = (
    "sampler", "metric", "class", "size", "ground_truth", "seeds", "baseline", "baseline_sd", "other", "difference",
    "tolerance", "worse",
)  # fmt: skip


def guard_table(runs: Runs) -> pd.DataFrame:
    """Compare every stratum of every sampler with the baseline, at the last validation, by the rule above.

    Returns:
        One row per sampler (the baseline has none) and stratum that has ground truth, in the order of samplers, then
        the mean over classes and the classes (most objects first), then all sizes, small, medium, large:
            sampler; metric (``mAP_small``, ``AP_large/Animal`` …); class and size ("all" where they are not split);
            ground_truth: objects behind it in the validation set;
            seeds: of the sampler, that have a value and are compared;
            baseline, baseline_sd, other: mean and sample standard deviation over seeds; difference = other − baseline;
            tolerance: how far below the baseline's mean is still its own spread; NaN with one baseline seed;
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
            sd = ours.std()
            difference = theirs.mean() - ours.mean()
            tolerance = 1 / count if sd == 0 else sd * spreads_tolerated(len(ours), len(theirs))
            row = (sampler, metric, class_name, size, count, len(theirs), ours.mean(), sd, theirs.mean(), difference)
            rows.append((*row, tolerance, bool(difference < -tolerance)))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"ground_truth": int, "seeds": int, "worse": bool})


def spreads_tolerated(baseline_seeds: int, other_seeds: int) -> float:
    """Return the tolerance below the baseline's mean, in its standard deviations; NaN with one baseline seed."""
    if baseline_seeds < 2:
        return math.nan
    chance = stdtrit(baseline_seeds - 1, 1 - CHANCE) * math.sqrt(1 / baseline_seeds + 1 / other_seeds)
    return max(1.0, float(chance))


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
        return "Guard: n/a, as no sampler but the baseline has finished runs."
    if not judged:
        return "Guard: n/a, as the baseline needs two seeds or more for a seed-to-seed spread."
    return (
        f"Guard: {int(table['worse'].sum())} of {judged} strata ended lower than the baseline by more than its "
        f"seed-to-seed spread; chance alone would mark up to about {CHANCE * judged:.1f}."
    )


def _strata(runs: Runs) -> list[tuple[str, str, str, int]]:
    """Return (metric, class, size, objects) of every stratum that has ground truth."""
    counts = {
        (name, size): runs.last(metric_key("GT", stratum, name))
        for name in runs.class_names
        for stratum, size in enumerate(STRATA)
    }
    out = []
    for name in (None, *runs.class_names):
        for stratum, size in enumerate(STRATA):
            of_classes = [counts[c, size] for c in runs.class_names if name in (None, c)]
            count = int(sum(c for c in of_classes if c > 0))  # NaN: never logged
            if count:
                metric = metric_key(HEADLINE if name is None else "AP", stratum, name)
                out.append((metric, name or "all", size, count))
    return out
