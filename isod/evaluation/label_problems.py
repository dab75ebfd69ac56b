"""What may be wrong with the labels of an example, guessed from what the model predicts there.

Three kinds, named as in Tkachenko et al. 2023 ("ObjectLab"): an object that the annotation overlooked, a class that was
swapped, a box that is badly placed. A guess is a place to look at, not a verdict: the model may be the one that is
wrong, and a model that was trained on a wrong label may have learnt it by heart, so no guess does not mean no problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import from_numpy
from torchvision.ops import box_iou

Problem = Literal["overlooked", "swapped", "badly placed"]
PROBLEMS: tuple[Problem, ...] = ("overlooked", "swapped", "badly placed")
FOUND = 0.5  # least IoU at which a prediction has found a box, as in the evaluation
NEAR = 0.2  # least IoU at which a prediction means a box without having found it


@dataclass(frozen=True)
class Guess:
    """One prediction that the annotation contradicts."""

    problem: Problem
    prediction: int  # which one
    object: int | None  # the annotated object that it contradicts; None if it is near none
    score: float  # the prediction's confidence
    iou: float  # with that object; 0 without


def guess_problems(
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
    dont_care: np.ndarray,
) -> list[Guess]:
    """What the confident predictions on one example say against its annotation.

    Predictions first take the boxes that they find: in score order, each the free object of its own class with the
    highest IoU ≥ ``FOUND``. Of the others, one is

    * **swapped** if its IoU with an object of another class, which no prediction found, is ≥ ``FOUND``;
    * **badly placed** if its IoU with an object of its own class, which no prediction found, is ≥ ``NEAR``;
    * **overlooked** if its IoU with every object is below ``NEAR``, and less than half of it lies in a don't-care box.

    What remains says nothing: a second prediction on a found object, another class beside it, or a don't-care object.

    Args:
        boxes, labels, scores: [n, 4] xyxy pixels, [n] in 1…C, [n]; the predictions that people are shown.
        true_boxes, true_labels, dont_care: [m, 4], [m], [m] bool; the annotation.
    Returns:
        The contradictions, most confident first; at most one per prediction.
    """
    order = np.argsort(-scores, kind="stable")
    iou = box_ious(boxes, true_boxes)  # [n, m]
    known = np.logical_not(dont_care)  # [m]
    forgiven = share_inside(boxes, true_boxes[dont_care]).max(axis=1, initial=0.0) >= FOUND  # [n]
    same = (labels[:, None] == true_labels[None]) & known  # [n, m]
    found = np.zeros(len(true_boxes), dtype=bool)
    finder = np.zeros(len(boxes), dtype=bool)
    for p in order:
        overlap = np.where(same[p] & ~found, iou[p], 0.0)
        if overlap.size and overlap.max() >= FOUND:
            found[overlap.argmax()] = finder[p] = True

    guesses = []
    for p in order:
        if finder[p]:
            continue
        missed = known & ~found
        swapped = np.where(missed & ~same[p], iou[p], 0.0)
        placed = np.where(missed & same[p], iou[p], 0.0)
        if swapped.size and swapped.max() >= FOUND:
            at = int(swapped.argmax())
            guesses.append(Guess("swapped", int(p), at, float(scores[p]), float(iou[p, at])))
        elif placed.size and placed.max() >= NEAR:
            at = int(placed.argmax())
            guesses.append(Guess("badly placed", int(p), at, float(scores[p]), float(iou[p, at])))
        elif not forgiven[p] and iou[p].max(initial=0.0) < NEAR:
            guesses.append(Guess("overlooked", int(p), None, float(scores[p]), 0.0))
    return guesses


def precision_at(k: int, order: Sequence[int] | np.ndarray, wrong: np.ndarray) -> float:
    """Share of the first k examples of an order that are wrong (thesis §6.1.1: 30 % for LIS and 4 % for UIS at 100).

    Args:
        k: ≥ 1; an order of fewer examples is counted whole.
        order: indices into ``wrong``, each once.
        wrong: [N] bool, the examples with a label error.
    Returns:
        0…1; NaN for an empty order.
    """
    if k < 1:
        raise ValueError(f"k must be ≥ 1, got {k}")
    first = np.asarray(order[:k], dtype=np.int64)
    return float(wrong[first].mean()) if len(first) else float("nan")


def box_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU [n, m] of boxes [n, 4] and [m, 4]."""
    return box_iou(from_numpy(np.float64(boxes)), from_numpy(np.float64(others))).numpy()


def share_inside(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share [n, m] of each box [n, 4] that lies inside each other one [m, 4]."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = np.maximum(np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner, 0)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return sides.prod(axis=2) / np.maximum(area, 1e-9)[:, None]
