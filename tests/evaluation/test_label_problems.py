"""Guesses about labels, each rule by hand, and laws that hold for any boxes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isod.evaluation.label_problems import PROBLEMS, guess_problems, precision_at

CAR, BIKE = 1, 2
# In a row of 10×10 boxes at x and x + d, the IoU is (10 − d)/(10 + d): 1/3 for d = 5, 3/17 for d = 7.
BOX, HALF_OFF, FAR_OFF, ELSEWHERE = [0, 0, 10, 10], [5, 0, 15, 10], [7, 0, 17, 10], [50, 50, 60, 60]


def guesses(predicted, annotated):
    """Of (box, label, score) and (box, label) lists; a label of 0 is don't-care."""
    boxes, labels, scores = ([item[i] for item in predicted] for i in range(3))
    true_boxes, true_labels = ([item[i] for item in annotated] for i in range(2))
    found = guess_problems(
        np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(labels, dtype=np.int64), np.array(scores, float),
        np.array(true_boxes, dtype=np.float32).reshape(-1, 4), np.array(true_labels, dtype=np.int64),
        np.array(true_labels, dtype=np.int64) == 0,
    )  # fmt: skip
    return [(guess.problem, guess.prediction, guess.object, round(guess.iou, 4)) for guess in found]


@pytest.mark.parametrize(
    ("predicted", "annotated", "expected"),
    [
        pytest.param([], [(BOX, CAR)], [], id="nothing predicted"),
        pytest.param([(BOX, CAR, 0.9)], [], [("overlooked", 0, None, 0)], id="nothing annotated"),
        pytest.param([(BOX, CAR, 0.9)], [(BOX, CAR)], [], id="right"),
        pytest.param([(ELSEWHERE, CAR, 0.9)], [(BOX, CAR)], [("overlooked", 0, None, 0)], id="elsewhere"),
        pytest.param([(FAR_OFF, CAR, 0.9)], [(BOX, CAR)], [("overlooked", 0, None, 0)], id="barely touches"),
        pytest.param([(BOX, BIKE, 0.9)], [(BOX, CAR)], [("swapped", 0, 0, 1)], id="another class"),
        pytest.param([(HALF_OFF, CAR, 0.9)], [(BOX, CAR)], [("badly placed", 0, 0, 0.3333)], id="half off"),
        pytest.param([(HALF_OFF, BIKE, 0.9)], [(BOX, CAR)], [], id="another class, half off"),
        pytest.param([(BOX, CAR, 0.9), (HALF_OFF, CAR, 0.8)], [(BOX, CAR)], [], id="found already, predicted twice"),
        pytest.param([(BOX, BIKE, 0.9), (BOX, CAR, 0.6)], [(BOX, CAR)], [], id="the right class was predicted too"),
        pytest.param([(BOX, CAR, 0.9)], [(BOX, 0)], [], id="on a don't-care object"),
        pytest.param([([2, 2, 4, 4], CAR, 0.9)], [(BOX, 0)], [], id="inside a don't-care object"),
        pytest.param([(FAR_OFF, CAR, 0.9)], [(BOX, 0)], [("overlooked", 0, None, 0)], id="beside a don't-care object"),
    ],
)  # fmt: skip
def test_one_rule_at_a_time(predicted, annotated, expected):
    assert guesses(predicted, annotated) == expected


def test_the_most_confident_comes_first():
    predicted = [(ELSEWHERE, CAR, 0.6), (BOX, BIKE, 0.9), ([100, 0, 110, 10], CAR, 0.7)]
    assert guesses(predicted, [(BOX, CAR)]) == [("swapped", 1, 0, 1), ("overlooked", 2, None, 0),
                                                ("overlooked", 0, None, 0)]  # fmt: skip


def test_each_object_is_found_once():
    """Two predictions on two overlapping cars: the second takes the one that is left (IoU 9/11 and 8/12)."""
    assert guesses([(BOX, CAR, 0.9), (BOX, CAR, 0.8)], [([1, 0, 11, 10], CAR), ([2, 0, 12, 10], CAR)]) == []


def objects(min_label):
    box = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))
    box = box.map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    return st.lists(st.tuples(box, st.integers(min_label, 3), st.floats(0.5, 1)), max_size=6)


@given(objects(1), objects(0))
def test_laws(predicted, annotated):
    """At most one guess a prediction, in score order; an annotation that repeats the predictions has no fault."""
    annotated = [item[:2] for item in annotated]
    found = guesses(predicted, annotated)
    scores = [predicted[number][2] for _, number, _, _ in found]
    assert scores == sorted(scores, reverse=True)
    assert len({number for _, number, _, _ in found}) == len(found)
    assert {problem for problem, _, _, _ in found} <= set(PROBLEMS)
    for problem, number, at, iou in found:
        assert (at is None) == (problem == "overlooked")
        if problem == "swapped":
            assert annotated[at][1] not in (0, predicted[number][1])
            assert iou >= 0.5
        if problem == "badly placed":
            assert annotated[at][1] == predicted[number][1]
            assert iou >= 0.2
    assert guesses(predicted, [item[:2] for item in predicted]) == []


def test_precision_by_hand():
    wrong = np.array([True, False, False, True, False])
    order = [3, 1, 0, 2, 4]
    assert [precision_at(k, order, wrong) for k in (1, 2, 3, 4, 5)] == [1, 1 / 2, 2 / 3, 2 / 4, 2 / 5]
    assert precision_at(100, order, wrong) == 2 / 5  # all there are
    assert precision_at(2, np.array([1, 2]), wrong) == 0
    assert math.isnan(precision_at(3, [], wrong))
    with pytest.raises(ValueError, match="k must be ≥ 1"):
        precision_at(0, order, wrong)
