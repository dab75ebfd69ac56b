"""The uncertainty of a speed-up: bootstrap over seeds, and what two equal samplers would show.

Misses ("not reached") enter as infinitely many iterations, that is a speed-up of −1, so that they are part of the
interval and not dropped from it, as AlgoPerf counts them (Dahl et al. 2023, arXiv:2306.07179).

**Why the bootstrap is scaled.** Means of n seeds drawn anew from n seeds spread by √((n − 1)/n) too little, and the
spread itself is only estimated: with three or five seeds the plain percentile interval of two equal samplers misses 0
in 10 to 20 % of studies instead of 5 %. So each resampled mean curve is moved away from the observed mean curve by the
factor √(n/(n − 1)) · √((n − 1)/χ²), with χ² drawn anew for each resample with n − 1 degrees of freedom. The mean of a
single validation is then distributed as in Student's t interval (up to the seeds being few distinct numbers). Nothing
is fitted to a simulation; ``tests/results/test_coverage.py`` measures the coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

MIN_SEEDS = 3  # for a bootstrap over seeds
NOT_REACHED = -1.0  # speed-up of infinitely many iterations
MIN_SEEDS_OF_MEDIAN = 5  # three medians of three seeds are hardly a distribution
ALL_SWAPS = 12  # seeds up to which every one of the 2ⁿ exchanges is tried
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """95 % interval; of a speed-up, as fractions, where an end of −1 means "not reached"."""

    low: float
    high: float


def speedups(baseline: np.ndarray, other: np.ndarray, iterations: np.ndarray) -> np.ndarray:
    """Return eq. 5.1 for many pairs of curves at once; ``speedup`` is the form for one pair.

    Args:
        baseline, other: [R, T] metric at each of the T iterations; a row of NaN in baseline is not allowed.
        iterations: [T], increasing, not negative.
    Returns:
        [R] float64; NOT_REACHED where the other never surpasses.
    """
    baseline = np.where(np.isnan(baseline), -np.inf, baseline)
    best = baseline.max(axis=1, keepdims=True)
    surpasses = other > best  # [R, T]; False for NaN
    theirs = np.where(surpasses.any(axis=1), iterations[surpasses.argmax(axis=1)], np.inf)
    return ratio_minus_one(iterations[baseline.argmax(axis=1)], theirs)


def ratio_minus_one(baseline: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the speed-up from iterations of the baseline (finite) and the other; NOT_REACHED for infinite ones."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(baseline == other, 0.0, baseline / other - 1)


def bootstrap_interval(
    baseline: np.ndarray, other: np.ndarray, iterations: np.ndarray, *, resamples: int = 4000, seed: int = 0
) -> Interval | None:
    """Return the interval of the mean curve's speed-up when seeds are drawn anew, in pairs and scaled as said above.

    One seed gives all samplers the same initial weights, so a resample takes the same seeds, and the same scale, for
    both.

    Args:
        baseline, other: [S, T]; row s of both is the same seed.
    Returns:
        None with fewer than MIN_SEEDS seeds.
    """
    if len(baseline) < MIN_SEEDS:
        return None
    ours, theirs = resampled_means(baseline, other, resamples=resamples, seed=seed)
    return _interval(speedups(ours, theirs, iterations))


def resampled_means(*curves: np.ndarray, resamples: int = 4000, seed: int = 0) -> list[np.ndarray]:
    """Return [resamples, T] mean curves of each sampler when seeds are drawn anew, scaled as said above; the same
    seeds and scale for all. Each of ``curves`` is [S, T], row s the same seed in all."""
    share = _scaled_resample(len(curves[0]), resamples, np.random.default_rng(seed))
    return [_mean(share, of_sampler) for of_sampler in curves]


def null_interval(
    baseline: np.ndarray, iterations: np.ndarray, *, seeds: int | None = None, resamples: int = 4000, seed: int = 0
) -> Interval | None:
    """Return the interval of the speed-up of the baseline over itself, with other seeds.

    It is the distribution of the speed-up between two independent mean curves of ``seeds`` runs each (as many as the
    baseline has, by default), drawn from the baseline's and scaled as the module says; [S, T] as above. All runs of the
    baseline enter the spread of single runs, also where fewer are compared, and means of fewer spread further. Of two
    equal samplers each has the higher maximum with probability one half, so half of this distribution lies at "not
    reached"; that is the low end, and the 5 % outside of the interval are all at the high end, at its 95 % quantile. So
    a speed-up above the high end is what noise alone shows in one of twenty studies. If a seed moves both samplers
    alike, noise shows less than that, and the interval is too wide rather than too narrow; ``chance_of`` takes the
    pairs into account. Where curves jump late, as a rare class found late makes them, three or five runs of the
    baseline cannot tell how far noise reaches: the interval then holds 90 to 91 % in place of 95 %, and ``chance_of``
    still holds its level.
    """
    if len(baseline) < MIN_SEEDS:
        return None
    rng = np.random.default_rng(seed)
    one, two = (_mean(_scaled_resample(len(baseline), resamples, rng, seeds), baseline) for _ in range(2))
    high = np.quantile(speedups(one, two, iterations), CONFIDENCE, method="inverted_cdf")
    return Interval(NOT_REACHED, float(high))


def chance_of(
    baseline: np.ndarray, other: np.ndarray, iterations: np.ndarray, *, swaps: int = 4095, seed: int = 0
) -> float | None:
    """Return how often chance alone gives at least this speed-up: a permutation test over seed pairs.

    If the two samplers are equal, it does not matter which of the two runs of a seed is called the baseline's. So the
    names are exchanged within the seeds in all 2ⁿ ways (beyond ALL_SWAPS seeds: in ``swaps`` random ways and the one
    observed), and the answer is the share of ways in which eq. 5.1 is at least what was observed. For equal samplers it
    is 0.05 or lower in at most 5 % of studies, whatever the curves look like. With n seeds it cannot be lower than
    1/2ⁿ: 0.125 with three.

    Args:
        baseline, other: [S, T]; row s of both is the same seed.
    Returns:
        In (0, 1]; None with fewer than MIN_SEEDS seeds.
    """
    seeds = len(baseline)
    if seeds < MIN_SEEDS:
        return None
    if seeds <= ALL_SWAPS:
        swapped = (np.arange(2**seeds)[:, None] >> np.arange(seeds)) & 1  # row 0: as observed
    else:
        swapped = np.random.default_rng(seed).integers(2, size=(swaps + 1, seeds))
        swapped[0] = 0
    share = swapped / seeds
    one = _mean(share, other) + _mean(1 / seeds - share, baseline)
    two = _mean(share, baseline) + _mean(1 / seeds - share, other)
    gains = speedups(np.round(one, 12), np.round(two, 12), iterations)
    return float((gains >= gains[0]).mean())


def fixed_target(baseline: np.ndarray) -> float:
    """Return a value that every baseline seed reaches: the lowest of their best values; [S, T], NaN ignored.

    AlgoPerf fixes a workload's target from repeated runs of a reference, and times every submission to it (Dahl et al.
    2023, arXiv:2306.07179). Its target is one that half of the reference's runs reach; ours is one that all of them do,
    as few seeds leave no room for misses of the baseline's own.
    """
    return float(np.nanmax(baseline, axis=1).min())


def iterations_to(curves: np.ndarray, target: float, iterations: np.ndarray) -> np.ndarray:
    """Return [S], the first iteration at which each run reaches the target; infinite for a miss. Curves are [S, T]."""
    there = curves >= target  # False for NaN
    return np.where(there.any(axis=1), iterations[there.argmax(axis=1)].astype(float), np.inf)


def target_interval(ours: np.ndarray, theirs: np.ndarray, *, resamples: int = 4000, seed: int = 0) -> Interval | None:
    """Return the percentile interval of the speed-up to a fixed target when seeds are drawn anew, in pairs.

    The speed-up is the baseline's median iterations over the other's, minus 1. The target stays as it is.

    Args:
        ours, theirs: [S] iterations to the target, of the baseline (finite) and the other, by seed.
    Returns:
        None with fewer than MIN_SEEDS_OF_MEDIAN seeds.
    """
    if len(ours) < MIN_SEEDS_OF_MEDIAN:
        return None
    drawn = np.random.default_rng(seed).integers(len(ours), size=(resamples, len(ours)))
    return _interval(ratio_minus_one(np.median(ours[drawn], axis=1), np.median(theirs[drawn], axis=1)))


def difference_interval(differences: np.ndarray) -> Interval | None:
    """Return Student's t interval of the mean of paired differences [S]; None with fewer than MIN_SEEDS seeds."""
    seeds = len(differences)
    if seeds < MIN_SEEDS:
        return None
    half = stdtrit(seeds - 1, (1 + CONFIDENCE) / 2) * differences.std(ddof=1) / np.sqrt(seeds)
    return Interval(float(differences.mean() - half), float(differences.mean() + half))


def probability_of_improvement(baseline: np.ndarray, other: np.ndarray) -> float:
    """Return the probability that a run of the other ends higher than one of the baseline: share of pairs, ties half.

    Agarwal et al. 2021 (arXiv:2108.13264), the Mann-Whitney statistic over its maximum; 0.5 for equal samplers. Both
    arguments are [S] without NaN; they need not have the same seeds.
    """
    return float(np.mean((np.sign(other[:, None] - baseline[None, :]) + 1) / 2))


def _scaled_resample(seeds: int, resamples: int, rng: np.random.Generator, number: int | None = None) -> np.ndarray:
    """Return [resamples, seeds] scaled weights of a mean over ``number`` seeds drawn with replacement, by default all;
    each row sums to 1."""
    number = number or seeds
    drawn = rng.multinomial(number, np.full(seeds, 1 / seeds), size=resamples) / number
    scale = np.sqrt(seeds / rng.chisquare(seeds - 1, size=(resamples, 1)))
    return 1 / seeds + scale * (drawn - 1 / seeds)


def _mean(share: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Return [resamples, T] mean curves, rounded so that equal curves stay equal: surpassing is strict."""
    return np.round(share @ curves, 12)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf")
    return Interval(float(low), float(high))
