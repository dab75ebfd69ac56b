"""Which class is taken for which: the confusion matrix of a detector."""

from __future__ import annotations

import numpy as np

from isod.evaluation.label_problems import FOUND, box_ious, share_inside


def count_confusions(
    matrix: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
    dont_care: np.ndarray,
) -> None:
    """Add one image to a confusion matrix.

    In score order each detection takes the free object with the highest IoU ≥ 0.5, whatever their classes. A detection
    that found none counts as one of the background, unless half of it lies in a don't-care box.

    Args:
        matrix: [C + 1, C + 1] int64, true class × predicted class; row 0: nothing is annotated there, column 0: nothing
            was detected.
        boxes, labels: [n, 4] xyxy pixels and [n] in 1…C, highest score first; those that people are shown.
        true_boxes, true_labels, dont_care: [m, 4], [m], [m] bool; the annotation.
    """
    iou = box_ious(boxes, true_boxes)  # [n, m]
    iou[:, dont_care] = 0
    forgiven = share_inside(boxes, true_boxes[dont_care]).max(axis=1, initial=0.0) >= FOUND  # [n]
    free = ~dont_care
    for detection, label in enumerate(labels.tolist()):
        overlap = np.where(free, iou[detection], 0.0)
        if overlap.size and overlap.max() >= FOUND:
            found = int(overlap.argmax())
            free[found] = False
            matrix[true_labels[found], label] += 1
        elif not forgiven[detection]:
            matrix[0, label] += 1
    np.add.at(matrix, (true_labels[free], 0), 1)
