"""The thesis's order of samplers, claim by claim: which claims hold in a sweep, and which noise leaves open."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isod.results.statistics.intervals import CONFIDENCE, MIN_SEEDS, resampled_means, speedups
from isod.tracking.runs import Runs
from isod.vocabulary import BASELINE, HEADLINE


@dataclass(frozen=True)
class Claim:
    """That one sampler has the larger speed-up (eq. 5.1) than another or, with ``at_most``, not a larger one."""

    sampler: str
    other: str  # the baseline stands for a speed-up of 0
    at_most: bool = False

    def __str__(self) -> str:
        other = "0" if self.other == BASELINE else self.other
        return f"{self.sampler} {'≤' if self.at_most else '>'} {other}"


# Fig. 5.1, 5.6, 5.11 and 5.16 of the thesis: UIS-IR is fastest, and nothing that draws by loss helps
THESIS_ORDER = (
    Claim("UIS-IR", "UIS"),
    Claim("UIS", "UIS-RB"),
    Claim("UIS-RB", BASELINE),
    *(Claim(sampler, BASELINE, at_most=True) for sampler in ("LIS", "LIS-RB", "LIS-IR", "LIS-RHO")),
)


def order_table(runs: Runs, claims: tuple[Claim, ...] = THESIS_ORDER, metric: str = HEADLINE) -> pd.DataFrame:
    """Return for each claim whether it holds in these runs.

    The seeds that the two samplers and the baseline have in common are drawn anew, as for the interval of a speed-up
    (``bootstrap_interval``), the same for all three. "Not reached" is a speed-up of −1, so of two samplers that never
    pass the baseline's best neither is the faster.

    Returns:
        One row per claim: claim (text); seeds; share, 0 … 1, of the resamples in which it holds; verdict: "held" where
        that is at least 97.5 %, "not held" where at most 2.5 %, else "undecided". Where nothing can be said, share is
        NaN and the verdict is "not run" (a sampler, or the baseline, has no finished run), "too few seeds" (below
        three), or "flat baseline": its mean never rises above 0, and any curve that rises would pass it.
    """
    rows = []
    for claim in claims:
        share, seeds = math.nan, 0
        verdict = "not run"
        if {BASELINE, claim.sampler, claim.other} <= set(runs.samplers):
            curves = [runs.curve(metric, s).reindex(runs.grid) for s in (BASELINE, claim.sampler, claim.other)]
            common = functools.reduce(pd.Index.intersection, [curve.columns for curve in curves])
            seeds, verdict = len(common), "too few seeds"
            if seeds >= MIN_SEEDS and not curves[0][common].mean(axis=1).max() > 0:
                verdict = "flat baseline"
            elif seeds >= MIN_SEEDS:
                share = _share(claim, [curve[common].to_numpy().T for curve in curves], runs.grid.to_numpy())
                verdict = _verdict(share)
        rows.append((str(claim), seeds, share, verdict))
    return pd.DataFrame(rows, columns=["claim", "seeds", "share", "verdict"])


def _share(claim: Claim, curves: list[np.ndarray], iterations: np.ndarray) -> float:
    """Return the share of resamples that agree; curves of the baseline and the claim's samplers, [seed × iteration]."""
    baseline, sampler, other = resampled_means(*curves)
    first = speedups(baseline, sampler, iterations)
    second = 0.0 if claim.other == BASELINE else speedups(baseline, other, iterations)
    return float(np.mean(first <= second if claim.at_most else first > second))


def _verdict(share: float) -> str:
    tail = (1 - CONFIDENCE) / 2
    return "held" if share >= 1 - tail else "not held" if share <= tail else "undecided"
