"""Whether runs of one sampler agree on which examples matter (thesis §6.2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TOP = 100  # most drawn examples of a run, as in the thesis


@dataclass(frozen=True)
class Agreement:
    """Over all pairs of runs."""

    mean: float
    low: float
    high: float


def importance_by_seed(examples: pd.DataFrame, sampler: str) -> pd.DataFrame:
    """Return mean importance, [example × seed]; NaN where a run never drew the example; no columns for a sampler that
    scores nothing."""
    return _by_seed(examples, sampler, "mean_importance").pipe(lambda wide: wide.loc[:, (wide.fillna(0) != 0).any()])


def rank_correlation(wide: pd.DataFrame) -> Agreement:
    """Return Spearman's correlation of every pair of columns, over the examples that both have; NaN below two columns.

    Each column is sorted once, and the ranks of a pair come from counting. pandas sorts again for every pair, which
    takes several times as long.
    """
    known = wide.notna().to_numpy()  # [examples, runs]
    ordinals = np.zeros(wide.shape, dtype=np.int64)
    for run, seed in enumerate(wide):
        ordinals[:, run] = np.unique(wide[seed], return_inverse=True)[1]
    found = []
    for a, b in combinations(range(wide.shape[1]), 2):
        both = known[:, a] & known[:, b]
        one, two = (_ranks(ordinals[both, run]) for run in (a, b))
        with np.errstate(invalid="ignore"):  # 0 / 0 where all are equal
            found.append(np.corrcoef(one, two)[0, 1] if both.sum() > 1 else np.nan)
    return _agreement(np.array(found))


def _ranks(ordinals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ranks from 0; the values are ordinals, and equal ones share their mean rank."""
    counts = np.bincount(ordinals)
    return (np.cumsum(counts) - counts + (counts - 1) / 2)[ordinals]


def consistency_table(examples: pd.DataFrame) -> pd.DataFrame:
    """Return how alike the runs of each sampler are.

    Args:
        examples: as ``load_examples`` gives them, with ``draw_count`` and ``mean_importance``.
    Returns:
        Index: sampler, of those that score. Columns:
            runs: how many have statistics.
            importance, importance_low, importance_high: rank correlation of mean importance between two runs, mean
                over the pairs and the extremes; NaN for one run.
            top_shared: share of the ``TOP`` most drawn examples of a run (of equally often drawn ones, those of the
                highest mean importance) that are also among another's, mean over the pairs; what chance alone shares
                is ``TOP`` over the number of examples.
            uniform: draws per example that was drawn at all.
            most_drawn: draws of the most drawn example, mean over the runs.
    """
    rows = []
    for sampler in examples["sampler"].unique():
        wide = importance_by_seed(examples, sampler)
        if wide.empty:
            continue
        draws = _by_seed(examples, sampler, "draw_count")
        top = [_top(draws[seed], wide[seed]) for seed in wide]
        shared = [len(one & two) / max(1, min(len(one), len(two))) for one, two in combinations(top, 2)]
        rho = rank_correlation(wide)
        rows.append({
            "sampler": str(sampler), "runs": wide.shape[1],
            "importance": rho.mean, "importance_low": rho.low, "importance_high": rho.high,
            "top_shared": float(np.mean(shared)) if shared else np.nan,
            "uniform": float(np.nanmean(draws.to_numpy())), "most_drawn": float(draws.max().mean()),
        })  # fmt: skip
    columns = ["runs", "importance", "importance_low", "importance_high", "top_shared", "uniform", "most_drawn"]
    return pd.DataFrame(rows, columns=["sampler", *columns]).set_index("sampler")


def _top(draws: pd.Series, importance: pd.Series) -> set[int]:
    ranked = pd.DataFrame({"draws": draws, "importance": importance}).dropna(subset="draws")
    return set(ranked.nlargest(TOP, ["draws", "importance"]).index)


def _by_seed(examples: pd.DataFrame, sampler: str, column: str) -> pd.DataFrame:
    """Return a statistic, [example × seed], over the examples that the run drew."""
    rows = examples.loc[(examples["sampler"] == sampler) & (examples["draw_count"] > 0), ["index", "seed", column]]
    seeds, column_of = np.unique(rows["seed"], return_inverse=True)
    size = int(rows["index"].max()) + 1 if len(rows) else 0
    values = np.full((size, len(seeds)), np.nan)
    values[rows["index"], column_of] = rows[column]
    return pd.DataFrame(values, columns=[int(seed) for seed in seeds]).dropna(how="all")


def _agreement(values: np.ndarray) -> Agreement:
    known = values[~np.isnan(values)]
    if not len(known):
        return Agreement(np.nan, np.nan, np.nan)
    return Agreement(float(known.mean()), float(known.min()), float(known.max()))
