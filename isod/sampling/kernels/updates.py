"""What an update makes of an example's scores, and which updates are rejected."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import math

import numpy as np

from isod.sampling.kernels import INELIGIBLE
from isod.sampling.kernels.compiled import compiled
from isod.sampling.kernels.ranks import count_key, rank_key

HIGHEST = 1e15  # of a score: sums of its square over all visits stay finite in float32
LEAST = 1e-30  # what a difference of 0 is kept as
LATEST, MOMENTUM, MEAN, VARIANCE, CLOSENESS, FORGETTING = range(6)  # histories: what an example's scores add up to


@compiled
def count_draws(indices, draw_count):
    for i in indices:
        draw_count[i] += 1


@compiled
def first_fault(indices, scores, last_step):
    """(code, position) of the first pair that an update must reject; code 0 if there is none."""
    for j in range(len(indices)):
        i = indices[j]
        if i < 0 or i >= len(last_step):
            return 1, j
        if last_step[i] == INELIGIBLE:
            return 2, j
        if not np.isfinite(scores[j]):
            return 3, j
        if scores[j] < 0:
            return 4, j
        if scores[j] > HIGHEST:
            return 5, j
    return 0, 0


@compiled
def apply_scores(
    history, momentum, indices, scores, step, score, last_step, score_count, mean, extra, offset, key_counts
):  # fmt: skip
    """Fold new scores into the table one after the other, so that of duplicates the last wins.

    ``offset`` (or length 0 if there is none) is subtracted from each score except 0. A score of 0 means that nothing
    can be learnt from the example: it has no object, or its image does not decode. It stays 0, and no difference
    becomes 0: strategies that accept negative scores take 0 for the lowest.
    ``mean`` becomes the running mean per example of what is left (over the last 65535 at most), ``last_step`` the step,
    ``score`` what the history makes of it. ``key_counts`` is kept up to date (length 0 if there are no ranks).
    """
    for j in range(len(indices)):
        i, x = indices[j], scores[j]
        if len(offset) and x > 0:
            x -= offset[i]
            if x == 0:
                x = LEAST
        if len(key_counts):
            count_key(key_counts, rank_key(score[i], last_step[i]), -1)
        first = last_step[i] < 0
        if score_count[i] < 65535:
            score_count[i] += 1
        step_up = x - mean[i]
        mean[i] += step_up / score_count[i]
        last_step[i] = step
        if history == LATEST:
            value = x
        elif history == MOMENTUM:
            value = x if first else momentum * score[i] + (1 - momentum) * x
        elif history == MEAN:
            value = np.float64(mean[i])
        elif history == VARIANCE:
            extra[i] += step_up * (x - mean[i])  # Welford's sum of squared deviations
            n = np.float64(score_count[i])
            variance = max(extra[i], 0.0) / (n - 1) if n > 1 else 0.0
            value = math.sqrt(variance + variance * variance / max(n - 1, 1.0))
        elif history == CLOSENESS:
            p = min(max(np.float64(mean[i]), 0.0), 1.0)
            value = p * (1 - p)
        else:  # FORGETTING; extra: 0 never right so far, 1 right at the last visit, 2 forgotten since
            value = 1.0 if first else np.float64(score[i])
            wrong = x >= 0.5
            if wrong and extra[i] != 2:
                value += 1.0
            if not wrong:
                extra[i] = 1
            elif extra[i] == 1:
                extra[i] = 2
        score[i] = value
        if len(key_counts):
            count_key(key_counts, rank_key(score[i], last_step[i]), 1)
