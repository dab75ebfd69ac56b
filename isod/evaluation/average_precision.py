"""Area under the precision envelope over all recall values."""

from __future__ import annotations

import numpy as np


def average_precision(is_true_positive: np.ndarray, num_ground_truth: int) -> float:
    """AP with interpolated precision at every recall value, not at 11 or 101 of them (spec §8).

    Each true positive raises recall by 1/num_ground_truth; over that step the envelope is the best precision reached
    there or at any higher recall. Recall never reached counts as precision 0.

    Args:
        is_true_positive: [n] bool, one per detection that counts (ignored ones left out), highest score first.
        num_ground_truth: objects that could have been found.
    Returns:
        AP in [0, 1]; NaN if there is no ground truth.
    """
    if num_ground_truth == 0:
        return float("nan")
    hits = np.flatnonzero(is_true_positive)  # [k] ranks of the true positives
    precision = np.arange(1, len(hits) + 1) / (hits + 1)  # precision at each recall step; between them it only falls
    envelope = np.maximum.accumulate(precision[::-1])
    return float(envelope.sum() / num_ground_truth)
