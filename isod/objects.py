"""The annotated objects of a batch of images, padded to one block; without torch, as decode workers use it too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pad_objects(
    boxes: Sequence[NDArray], labels: Sequence[NDArray], dont_care: Sequence[NDArray]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Pads one [n_i, 4], one [n_i] and one [n_i] array per image to the largest n_i (at least 1), called M.

    Returns:
        boxes [B, M, 4] float32, labels [B, M] int64, dont_care [B, M] bool, and counts n_i [B] int64; what lies beyond
        an image's count is 0.
    """
    counts = np.array([len(item) for item in labels], np.int64)
    size = (len(counts), max(1, int(counts.max(initial=0))))
    all_boxes = np.zeros((*size, 4), np.float32)
    all_labels, all_dont_care = np.zeros(size, np.int64), np.zeros(size, bool)
    for b, n in enumerate(counts):
        all_boxes[b, :n], all_labels[b, :n], all_dont_care[b, :n] = boxes[b], labels[b], dont_care[b]
    return all_boxes, all_labels, all_dont_care, counts
