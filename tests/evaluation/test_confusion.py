"""The confusion matrix and the precision-recall curve, by hand."""

import numpy as np
import pytest
import torch

from isod.evaluation.confusion import count_confusions
from isod.evaluation.evaluator import DetectionEvaluator
from isod.objects import Objects

# Objects: a car, a bus, a car that nothing finds, and a don't-care area.
TRUE_BOXES = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 80, 20]], np.float32)
TRUE_LABELS, DONT_CARE = np.array([1, 2, 1, 0]), np.array([False, False, False, True])
# Detections: the car; a second one on it; the bus taken for a car; one inside don't-care; one on nothing (IoU 0.25 with
# the third object).
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [62, 2, 70, 10], [40, 0, 60, 20]], np.float32)
LABELS = np.array([1, 2, 1, 2, 2])


def test_confusions_by_hand():
    matrix = np.zeros((3, 3), np.int64)
    for _ in range(2):
        count_confusions(matrix, BOXES, LABELS, TRUE_BOXES, TRUE_LABELS, DONT_CARE)
    #        nothing, car, bus detected
    assert matrix.tolist() == [[0, 0, 4], [2, 2, 0], [0, 2, 0]]


def test_an_empty_side():
    none, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    matrix = np.zeros((3, 3), np.int64)
    count_confusions(matrix, none, no_labels, TRUE_BOXES, TRUE_LABELS, DONT_CARE)
    assert matrix.tolist() == [[0, 0, 0], [2, 0, 0], [1, 0, 0]]
    count_confusions(matrix, BOXES, LABELS, none, no_labels, np.zeros(0, bool))
    assert matrix.tolist() == [[0, 2, 3], [2, 0, 0], [1, 0, 0]]


def test_a_curve_by_hand():
    """Cars: hit, miss, hit of two objects; the detection in don't-care is no point of the curve."""
    evaluator = DetectionEvaluator(["car", "bus"], (100, 100))
    truth = Objects.from_lists([TRUE_BOXES], [TRUE_LABELS], [DONT_CARE])
    boxes = torch.tensor([[0, 0, 10, 10], [90, 90, 99, 99], [40, 0, 50, 10], [62, 2, 70, 10]])
    evaluator.update(
        [{"boxes": boxes, "labels": torch.ones(4, dtype=torch.int64), "scores": torch.tensor([0.9, 0.8, 0.7, 0.6])}],
        truth,
    )
    recall, precision, score = evaluator.curve(1)
    assert recall.tolist() == [0.5, 0.5, 1.0]
    assert precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert score == pytest.approx([0.9, 0.8, 0.7])
    assert evaluator.compute()["AP/car"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # the area below its envelope
    assert [len(part) for part in evaluator.curve(2)] == [0, 0, 0]
