"""Speed-up in iterations (thesis eq. 5.1)."""

from __future__ import annotations

import numpy as np
import pandas as pd


def speedup(baseline: pd.Series, other: pd.Series) -> float | None:
    """Return the iterations to the baseline's maximum over the iterations at which the other surpasses it, minus 1.

    The baseline's iteration is the *first* at its maximum; the other's is the first that is *strictly* above that
    maximum. +1.0 is +100 %: half the iterations. NaN is a validation without a value: it is never a maximum and never
    surpasses. A validation at iteration 0 counts like any other; passing there is a speed-up of infinity.

    Args:
        baseline, other: a metric for which more is better, indexed by iteration; both on the same grid.
    Returns:
        The speed-up as a fraction, or None for "not reached".
    Raises:
        ValueError: grids that differ, are empty, unsorted, repeated or negative; a baseline that is NaN throughout.
    """
    ours, theirs = best_iteration(baseline), passing_iteration(baseline, other)
    if theirs is None:
        return None
    if theirs == 0:
        return 0.0 if ours == 0 else float("inf")
    return ours / theirs - 1


def best_iteration(curve: pd.Series) -> int:
    """Return the first iteration at the curve's maximum."""
    _require_grid(curve)
    values = curve.to_numpy(dtype=float)
    if np.isnan(values).all():
        raise ValueError("the baseline has no value at any iteration")
    return int(curve.index[int(np.nanargmax(values))])


def passing_iteration(baseline: pd.Series, other: pd.Series) -> int | None:
    """Return the first iteration at which the other is strictly above the baseline's maximum; None if there is none."""
    _require_grid(other)
    best_iteration(baseline)  # raises for a baseline without values
    if not np.array_equal(baseline.index.to_numpy(), other.index.to_numpy()):
        raise ValueError(
            f"both curves must be validated at the same iterations, got {_grid_text(baseline)} and {_grid_text(other)}"
        )
    surpasses = other.to_numpy(dtype=float) > np.nanmax(baseline.to_numpy(dtype=float))
    return int(other.index[int(np.argmax(surpasses))]) if surpasses.any() else None


def _require_grid(curve: pd.Series) -> None:
    index = curve.index
    if len(index) == 0:
        raise ValueError("a curve needs at least one validation")
    if not (index.is_monotonic_increasing and index.is_unique) or index[0] < 0:
        raise ValueError(f"iterations must be increasing, different and not negative, got {_grid_text(curve)}")


def _grid_text(curve: pd.Series) -> str:
    index = list(curve.index)
    shown = ", ".join(map(str, index if len(index) <= 6 else [*index[:3], "…", *index[-2:]]))
    return f"{len(index)} iterations [{shown}]"
