"""How sure a speed-up is: bootstrap over seeds, and what two equal samplers would show.

Misses ("not reached") enter as infinitely many iterations, that is a speed-up of −1, so that they are part of the
interval and not dropped from it (AlgoPerf's way).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_SEEDS = 3  # below it a bootstrap over seeds says nothing
NOT_REACHED = -1.0  # speed-up of infinitely many iterations


@dataclass(frozen=True)
class Interval:
    """95 % percentile interval of a speed-up, as fractions; an end of −1 means "not reached"."""

    low: float
    high: float


def speedups(baseline: np.ndarray, other: np.ndarray, iterations: np.ndarray) -> np.ndarray:
    """Eq. 5.1 for many pairs of curves at once; ``isod.results.speedup`` is the one-pair form.

    Args:
        baseline, other: [R, T] metric at each of the T iterations; a row of NaN in baseline is not allowed.
        iterations: [T], increasing, not negative.
    Returns:
        [R] float64; NOT_REACHED where the other never surpasses.
    """
    baseline = np.where(np.isnan(baseline), -np.inf, baseline)
    best = baseline.max(axis=1, keepdims=True)
    surpasses = other > best  # [R, T]; False for NaN
    ours, theirs = iterations[baseline.argmax(axis=1)], iterations[surpasses.argmax(axis=1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(ours == theirs, 0.0, ours / theirs - 1)
    return np.where(surpasses.any(axis=1), gain, NOT_REACHED)


def bootstrap_interval(
    baseline: np.ndarray, other: np.ndarray, iterations: np.ndarray, *, resamples: int = 4000, seed: int = 0
) -> Interval | None:
    """Interval of the speed-up of the mean curve when seeds are drawn anew, in pairs.

    One seed gives all samplers the same initial weights, so a resample takes the same seeds for both.

    Args:
        baseline, other: [S, T]; row s of both is the same seed.
    Returns:
        None with fewer than MIN_SEEDS seeds.
    """
    if len(baseline) < MIN_SEEDS:
        return None
    share = _resample(len(baseline), resamples, np.random.default_rng(seed))
    return _interval(speedups(_mean(share, baseline), _mean(share, other), iterations))


def null_interval(
    baseline: np.ndarray, iterations: np.ndarray, *, resamples: int = 4000, seed: int = 0
) -> Interval | None:
    """Interval of the speed-up of the baseline over itself: two independent draws of its seeds, [S, T] as above.

    A speed-up inside it is what noise alone shows.
    """
    if len(baseline) < MIN_SEEDS:
        return None
    rng = np.random.default_rng(seed)
    one, two = (_mean(_resample(len(baseline), resamples, rng), baseline) for _ in range(2))
    return _interval(speedups(one, two, iterations))


def _resample(seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """[resamples, seeds] weights of a mean over seeds drawn with replacement."""
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds


def _mean(share: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """[resamples, T] mean curves, rounded so that equal curves stay equal: surpassing is strict."""
    return np.round(share @ curves, 12)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return Interval(float(low), float(high))
