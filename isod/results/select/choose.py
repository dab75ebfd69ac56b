"""Which crops to keep, given an order or features of all of them; and the order that finished runs give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isod.errors import InputError
from isod.sampling.core_set import k_centre
from isod.sampling.priors import Labels


def keep_count(keep: float, examples: int) -> int:
    """Return how many of the examples a share keeps, at least 1."""
    return max(1, round(keep * examples))


def floor_of(order: NDArray[np.int64], labels: Labels, least: int) -> list[int]:
    """Return crops such that each class has ``least`` of them, or all that it has: of each class, from the rarest on,
    the first in the order that are still missing.

    Args:
        order: [M] indices of crops, the most wanted first.
    """
    images, classes = labels.occurrences
    place = np.full(len(labels), len(order))
    place[order] = np.arange(len(order))
    kept: dict[int, None] = {}
    for label in np.argsort(np.bincount(classes, minlength=labels.num_classes + 1)[1:], kind="stable") + 1:
        with_class = images[(classes == label) & (place[images] < len(order))]
        have = sum(int(index) in kept for index in with_class)
        ranked = with_class[np.argsort(place[with_class], kind="stable")]
        missing = [int(index) for index in ranked if int(index) not in kept]
        kept |= dict.fromkeys(missing[: max(0, least - have)])
    return list(kept)


def keep_first(order: NDArray[np.int64], count: int, labels: Labels, least: int) -> NDArray[np.int64]:
    """Return the floor of each class and, up to ``count``, the first of the order; ascending.

    Raises:
        InputError: the floor alone has more than ``count`` crops.
    """
    floor = checked_floor(order, count, labels, least)
    rest = order[~np.isin(order, floor)][: count - len(floor)]
    return np.sort(np.concatenate([np.array(floor, np.int64), rest]))


def keep_centres(
    features: NDArray[np.float32],
    order: NDArray[np.int64],
    count: int,
    labels: Labels,
    least: int,
    advance: Callable[[int], None] = lambda count: None,
) -> NDArray[np.int64]:
    """Return the floor of each class and, from there on, k-centre's choice; ascending.

    Args:
        features: [M, D] of the crops in ``order``; the first one is a centre where there is no floor.
    """
    floor = checked_floor(order, count, labels, least)
    given = np.flatnonzero(np.isin(order, floor)) if floor else (0,)
    return np.sort(order[k_centre(features, count, given=given, advance=advance)])


def checked_floor(order: NDArray[np.int64], count: int, labels: Labels, least: int) -> list[int]:
    """Return ``floor_of``. Raises InputError if it has more than ``count`` crops."""
    floor = floor_of(order, labels, least) if least else []
    if len(floor) > count:
        raise InputError(
            f"--min-per-class {least} needs {len(floor)} crops, more than the {count} that --keep leaves: lower it, or "
            f"keep at least {math.ceil(1000 * len(floor) / len(order)) / 1000:g}"
        )
    return floor


def order_by(scores: NDArray[np.float64], readable: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the readable crops, the highest score first; of equals the one with the lower index; NaN last."""
    values = np.where(np.isnan(scores), -np.inf, scores)[readable]
    return readable[np.argsort(-values, kind="stable")]


def mean_rank(runs: Sequence[pd.DataFrame], column: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Return [N], the mean over runs of the rank of each example in a column of examples.parquet, 0 … 1.

    A run that never scored an example, such as one that was held out from it, gives it the lowest rank.

    Args:
        runs: with the column and ``last_step``, which is below 0 where there was no score.
    Raises:
        InputError: a run has one value for all of its examples that have a score.
    """
    ranks = []
    for frame, name in zip(runs, names, strict=True):
        scored = frame["last_step"] >= 0
        if frame.loc[scored, column].nunique() < 2:
            raise InputError(
                f"run {name} has the same {column} for every example, so it says nothing about which to keep: name a "
                "run of a sampler that scores"
            )
        ranks.append(frame[column].where(scored, -np.inf).rank(pct=True).to_numpy())
    return np.mean(ranks, axis=0)
