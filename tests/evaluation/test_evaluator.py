"""The evaluator by hand, by law, and at its door."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isod.evaluation.average_precision import average_precision
from isod.evaluation.evaluator import DetectionEvaluator
from isod.objects import Objects
from isod.vocabulary import size_codes

CLASSES = ("car", "deer")
IMAGE_SIZE = (100, 100)  # small below 33 px², large above 300 px²


def prediction(*detections):
    """Each detection is (x0, y0, x1, y1, label, score)."""
    rows = torch.tensor(detections, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "scores": rows[:, 5]}


def target(*objects, dont_care=()):
    """Each object is (x0, y0, x1, y1, label), each don't-care box (x0, y0, x1, y1)."""
    rows = torch.tensor([*objects, *[(*box, 0) for box in dont_care]], dtype=torch.float32).reshape(-1, 5)
    forgiven = torch.tensor([False] * len(objects) + [True] * len(dont_care), dtype=torch.bool)
    return {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "dont_care": forgiven}


def metrics_of(*images, **options):
    evaluator = DetectionEvaluator(CLASSES, IMAGE_SIZE, **options)
    sizes = np.array([truth.get("image_size", IMAGE_SIZE) for _, truth in images])
    evaluator.update([p for p, _ in images], Objects.from_targets([t for _, t in images]), image_sizes=sizes)
    return evaluator.compute()


def random_images(seed, images=20, classes=2):
    rng = np.random.default_rng(seed)

    def boxes(n):
        corner, extent = rng.integers(0, 80, (n, 2)), rng.integers(2, 25, (n, 2))
        return np.concatenate([corner, corner + extent], axis=1)

    out = []
    for _ in range(images):
        objects = boxes(rng.integers(0, 6))
        found = np.concatenate([objects + rng.integers(-2, 2, objects.shape), boxes(rng.integers(0, 6))])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        labels = rng.integers(1, classes + 1, len(objects))
        scores = rng.integers(1, 20, len(found)) / 20  # many ties
        out.append(
            (
                {
                    "boxes": torch.tensor(found, dtype=torch.float32),
                    "labels": torch.tensor(np.resize(labels, len(found)) if len(labels) else np.ones(len(found), int)),
                    "scores": torch.tensor(scores, dtype=torch.float32),
                },
                {
                    "boxes": torch.tensor(objects, dtype=torch.float32),
                    "labels": torch.tensor(labels),
                    "dont_care": torch.tensor(rng.random(len(objects)) < 0.2),
                },
            )
        )
    return out


def test_average_precision_by_hand():
    # Ranks: hit, miss, hit, miss, miss, hit; 4 objects. Precision at the hits 1, 2/3, 3/6; the fourth is never found.
    assert average_precision(np.array([1, 0, 1, 0, 0, 1], bool), 4) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)
    # Miss, hit, hit: precision 1/2 then 2/3, and the envelope lifts the first to 2/3.
    assert average_precision(np.array([0, 1, 1], bool), 2) == pytest.approx(2 / 3)
    assert average_precision(np.array([], bool), 3) == 0
    assert math.isnan(average_precision(np.array([], bool), 0))


def test_sizes_meet_at_their_borders():
    boxes = np.array([[0, 0, 3.2, 10], [0, 0, 3.3, 10], [0, 0, 30, 10], [0, 0, 30.1, 10]])  # 32, 33, 300, 301 px²
    assert size_codes(boxes, IMAGE_SIZE).tolist() == [0, 1, 1, 2]


def test_one_image_by_hand():
    """A medium car found, a small one missed, a deer called a car, and no deer found."""
    found = prediction((0, 0, 10, 10, 1, 0.9), (50, 50, 70, 70, 1, 0.8))
    truth = target((0, 0, 10, 10, 1), (20, 20, 24, 24, 1), (50, 50, 70, 70, 2))
    m = metrics_of((found, truth))

    assert m["AP/car"] == pytest.approx(1 / 2)  # one of two, at precision 1
    assert m["AP/deer"] == 0
    assert m["mAP"] == pytest.approx(1 / 4)
    assert m["AP_medium/car"] == 1
    assert m["AP_small/car"] == 0
    assert m["binary_AP"] == pytest.approx(2 / 3)  # class ignored, the large box is right
    assert m["binary_AP_large"] == 1
    assert (m["FP/car"], m["FP_small/car"], m["FP_medium/car"], m["FP_large/car"]) == (1, 0, 0, 1)
    assert m["FP/deer"] == 0
    assert (m["GT/car"], m["GT_small/car"], m["GT_medium/car"], m["GT_large/deer"]) == (2, 1, 1, 1)


def test_strata_without_ground_truth_are_nan_and_left_out_of_the_mean():
    m = metrics_of((prediction((0, 0, 10, 10, 1, 0.9)), target((0, 0, 10, 10, 1))))
    assert m["mAP"] == 1
    assert all(math.isnan(m[k]) for k in ("AP/deer", "mAP_small", "AP_small/car", "binary_AP_small", "AP_large/deer"))
    assert m["GT/deer"] == 0
    assert all(math.isnan(v) for k, v in DetectionEvaluator(CLASSES, IMAGE_SIZE).compute().items() if "AP" in k)


def test_dont_care_forgives_every_class_and_any_number():
    inside = prediction((10, 10, 20, 20, 1, 0.9), (11, 11, 21, 21, 2, 0.8), (12, 10, 22, 20, 1, 0.7))
    m = metrics_of((inside, target((60, 60, 80, 80, 1), dont_care=[(0, 0, 40, 40)])))
    assert m["FP/car"] == m["FP/deer"] == 0
    assert m["GT/car"] == 1
    # Half of the detection lies inside: forgiven. A little less: not. IoU with the box plays no part.
    for x1, forgiven in ((20, True), (20.5, False)):
        m = metrics_of((prediction((0, 0, x1, 10, 1, 0.9)), target(dont_care=[(0, 0, 10, 90)])))
        assert m["FP/car"] == (0 if forgiven else 1)


def test_an_object_comes_before_the_dont_care_box_around_it():
    m = metrics_of(
        (prediction((10, 10, 20, 20, 1, 0.9)), target((10, 10, 22, 20, 1), dont_care=[(0, 0, 40, 40)])),
    )
    assert m["AP/car"] == 1


def test_the_better_scored_detection_takes_the_object():
    m = metrics_of((prediction((0, 0, 10, 9, 1, 0.6), (0, 0, 10, 10, 1, 0.7)), target((0, 0, 10, 10, 1))))
    assert m["AP/car"] == 1
    assert m["FP/car"] == 1
    assert metrics_of((prediction((0, 0, 10, 5, 1, 0.6)), target((0, 0, 10, 10, 1))))["AP/car"] == 1  # IoU exactly 0.5


def test_of_equal_overlaps_the_object_listed_last_is_found():
    # The first detection lies midway between two objects; the second overlaps only the right one.
    found = prediction((2, 0, 12, 10, 1, 0.9), (5, 0, 15, 10, 1, 0.8))
    left, right = (0, 0, 10, 10, 1), (4, 0, 14, 10, 1)
    assert metrics_of((found, target(left, right)))["AP/car"] == pytest.approx(1 / 2)  # right is taken, nothing is left
    assert metrics_of((found, target(right, left)))["AP/car"] == 1


def test_false_positives_count_from_the_display_threshold():
    found = prediction((0, 0, 10, 10, 1, 0.5), (20, 20, 30, 30, 1, 0.49), (40, 40, 44, 44, 2, 0.9))
    m = metrics_of((found, target()))
    assert (m["FP/car"], m["FP_medium/car"], m["FP_small/deer"]) == (1, 1, 1)
    assert metrics_of((found, target()), display_threshold=0.3)["FP/car"] == 2


def test_the_best_f1_and_the_score_that_reaches_it():
    """Three objects. From 0.9 on, 2·1/(1 + 3) = 0.5; from 0.8, 0.4; from 0.7, 4/6; from 0.6, where a hit and a miss
    are equal, 6/8; from 0.2, 6/9. The don't-care box takes the last detection out."""
    a, b, c = (0, 0, 20, 20), (30, 30, 50, 50), (60, 0, 80, 20)
    miss, ignored = (60, 60, 90, 90), (0, 80, 20, 100)
    found = prediction(
        (*a, 1, 0.9), (*miss, 1, 0.8), (*b, 2, 0.7), (*miss, 2, 0.6), (*c, 1, 0.6), (*a, 2, 0.2), (*ignored, 1, 0.95)
    )
    m = metrics_of((found, target((*a, 1), (*b, 2), (*c, 1), dont_care=[ignored])))
    assert (m["F1"], m["F1_threshold"]) == (0.75, pytest.approx(0.6))


@pytest.mark.parametrize("found", [prediction(), prediction((60, 60, 90, 90, 1, 0.9))])
@pytest.mark.parametrize("objects", [(), ((0, 0, 20, 20, 1),)])
def test_there_is_no_best_f1_where_nothing_is_found(found, objects):
    m = metrics_of((found, target(*objects)))
    assert math.isnan(m["F1"])
    assert math.isnan(m["F1_threshold"])


def test_false_positives_in_images_without_an_object():
    """Two of the first image are shown; the second has a don't-care box, the third an object."""
    far = (60, 60, 80, 80)
    m = metrics_of(
        (prediction((*far, 1, 0.9), (10, 10, 30, 30, 2, 0.5), (0, 0, 9, 9, 1, 0.4)), target()),
        (prediction((*far, 1, 0.9)), target(dont_care=[(0, 0, 20, 20)])),
        (prediction((*far, 1, 0.9)), target((0, 0, 20, 20, 1))),
        (prediction(), target()),
    )
    assert m["FP_empty"] == 2
    assert m["FP/car"] + m["FP/deer"] == 4


@given(st.integers(0, 2**31), st.permutations(range(20)))
@settings(max_examples=25)
def test_order_of_images_does_not_matter_without_ties(seed, order):
    rng = np.random.default_rng(seed)
    images = random_images(seed)
    for found, _ in images:
        found["scores"] = torch.tensor(rng.random(len(found["scores"])))
    assert metrics_of(*images) == pytest.approx(metrics_of(*[images[i] for i in order]), nan_ok=True)


@given(st.integers(0, 2**31), st.sampled_from([lambda s: s**3, lambda s: s / 7, lambda s: torch.log1p(s)]))
@settings(max_examples=25)
def test_only_the_order_of_scores_matters_to_ap(seed, rescale):
    images = random_images(seed)
    rescaled = [({**found, "scores": rescale(found["scores"].double())}, truth) for found, truth in images]
    before, after = metrics_of(*images), metrics_of(*rescaled)
    assert {k: v for k, v in before.items() if "AP" in k} == pytest.approx(
        {k: v for k, v in after.items() if "AP" in k}, nan_ok=True
    )


def test_batches_add_up_and_reset_forgets():
    images = random_images(3)
    evaluator = DetectionEvaluator(CLASSES, IMAGE_SIZE)
    for found, truth in images:
        evaluator.update([found], Objects.from_targets([truth]))
        evaluator.compute()  # reading in between changes nothing
    evaluator.update([], Objects.from_targets([]))
    assert evaluator.num_images == 20
    assert evaluator.compute() == pytest.approx(metrics_of(*images), nan_ok=True)
    evaluator.reset()
    assert evaluator.compute()["GT/car"] == 0


def test_false_positives_of_the_sizes_add_up():
    m = metrics_of(*random_images(5))
    for name in CLASSES:
        assert m[f"FP/{name}"] == sum(m[f"FP_{size}/{name}"] for size in ("small", "medium", "large"))
        assert m[f"GT/{name}"] == sum(m[f"GT_{size}/{name}"] for size in ("small", "medium", "large"))


def test_objects_of_all_classes_are_counted_once():
    m = metrics_of(*random_images(5))
    for stratum in ("", "_small", "_medium", "_large"):
        assert m[f"GT{stratum}"] == sum(m[f"GT{stratum}/{name}"] for name in CLASSES)
    assert m["GT"] > 0


def test_memory_is_13_bytes_per_detection_above_the_floor():
    evaluator = DetectionEvaluator(CLASSES, IMAGE_SIZE, score_floor=0.5)
    low = prediction(*[(0, 0, 10, 10, 1, 0.4)] * 1000)
    evaluator.update([low, prediction((0, 0, 10, 10, 1, 0.5))], Objects.from_targets([target(), target()]))
    kept = [*evaluator._scores, *evaluator._labels, *evaluator._sizes, *evaluator._verdicts]
    assert sum(part.nbytes for part in kept) == 13


def test_targets_without_dont_care_and_empty_shapes_are_welcome():
    evaluator = DetectionEvaluator(CLASSES, IMAGE_SIZE)
    none = {"boxes": torch.empty(0), "labels": torch.empty(0, dtype=torch.int64), "scores": torch.empty(0)}
    truth = {"boxes": torch.tensor([[0, 0, 10, 10]]), "labels": torch.tensor([2])}
    evaluator.update([none], Objects.from_targets([truth]))
    assert evaluator.compute()["GT/deer"] == 1


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        (prediction((0, 0, 9, 9, 3, 0.5)), target(), "labels must be in 1…2.*predictions.0."),
        (prediction((0, 0, 9, 9, 0, 0.5)), target(), "labels must be in 1…2"),
        (prediction(), target((0, 0, 9, 9, 3)), "labels must be in 1…2.*objects.0."),
        (prediction((0, 0, math.nan, 9, 1, 0.5)), target(), "boxes must be finite"),
        (prediction((0, 0, 9, 9, 1, math.nan)), target(), "scores must be finite"),
        (prediction((9, 0, 0, 9, 1, 0.5)), target(), "x1 ≥ x0"),
        (prediction(), target((0, 0, 0, 9, 1)), "objects must have an area"),
        (
            {**prediction((0, 0, 9, 9, 1, 0.5)), "scores": torch.tensor([])},
            target(),
            r"predictions\[0\]: boxes, labels",
        ),
        ({**prediction(), "boxes": torch.zeros(1, 4)}, target(), r"got \[1, 4\], \[0\] and \[0\]"),
        ({"boxes": torch.zeros(0, 4)}, target(), r"predictions\[0\] lacks labels, scores"),
        (prediction(), {"labels": torch.zeros(1)}, r"targets\[0\] lacks boxes"),
        (prediction(), target() | {"dont_care": torch.zeros(2)}, r"targets\[0\]: .* got \[0, 4\], \[0\] and \[2\]"),
    ],
)
def test_wrong_input_is_refused_and_leaves_nothing(found, truth, message):
    evaluator = DetectionEvaluator(CLASSES, IMAGE_SIZE)
    with pytest.raises(ValueError, match=message):
        evaluator.update([found], Objects.from_targets([truth]))
    assert evaluator.num_images == 0
    assert sum(v for k, v in evaluator.compute().items() if k.startswith(("GT", "FP"))) == 0


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="1 images but objects of 2"):
        DetectionEvaluator(CLASSES, IMAGE_SIZE).update([prediction()], Objects.from_targets([target(), target()]))
    for arguments in ([(), IMAGE_SIZE], [("a", "a"), IMAGE_SIZE], [CLASSES, (0, 10)], [CLASSES, IMAGE_SIZE, 0.0]):
        with pytest.raises(ValueError, match="must be"):
            DetectionEvaluator(*arguments)


def test_sizes_are_shares_of_the_box_s_own_image():
    """100 px² are medium in 100×100, where large begins above 300, and large in 50×50, where it begins above 75."""
    here, there = target((0, 0, 10, 10, 1)), target((0, 0, 10, 10, 1)) | {"image_size": torch.tensor([50, 50])}
    missed = prediction((20, 20, 30, 30, 1, 0.9))
    metrics = metrics_of((missed, here), (missed, there))
    assert [metrics[f"GT_{size}/car"] for size in ("small", "medium", "large")] == [0, 1, 1]
    assert [metrics[f"FP_{size}/car"] for size in ("small", "medium", "large")] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"image_sizes must be \[2, 2\]"):
        metrics_of((missed, here), (missed, there | {"image_size": torch.tensor([50, 0])}))
