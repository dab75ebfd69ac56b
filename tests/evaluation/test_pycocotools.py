"""The evaluator against pycocotools, on random data with ties, don't-care boxes, empty images and empty classes."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from isod.evaluation.evaluator import DetectionEvaluator
from isod.objects import Objects
from isod.vocabulary import LARGE_ABOVE, SIZES, SMALL_BELOW, metric_key

HEIGHT, WIDTH = 96, 160


def random_set(rng, images, classes, ties):
    """Boxes on a quarter-pixel grid, so that both sides compute the same overlaps to the last bit."""

    def boxes(n):
        corner = rng.integers(0, (4 * WIDTH - 200, 4 * HEIGHT - 200), (n, 2)) / 4
        extent = np.round(4 * np.exp(rng.uniform(np.log(1), np.log(50), (n, 2)))) / 4
        return np.concatenate([corner, corner + extent], axis=1)

    predictions, targets = [], []
    for _ in range(images):
        true = boxes(rng.integers(0, 7))
        between = true[: rng.integers(0, 3)]  # as far from each of two objects: equal overlaps
        aside = np.array([0.5, 0, 0.5, 0])
        true = np.concatenate([true[len(between) :], between - aside, between + aside])
        true = true[rng.permutation(len(true))]
        labels = rng.integers(1, max(classes, 2), len(true))  # the last class has no ground truth (if there are two)
        copies = np.repeat(true, rng.integers(0, 4, len(true)), axis=0)
        copies += rng.integers(-6, 7, copies.shape) / 4
        copies[:, 2:] = np.maximum(copies[:, 2:], copies[:, :2] + 0.25)
        found = np.concatenate([copies, between, boxes(rng.integers(0, 5))])
        found = found[rng.permutation(len(found))]
        near = np.abs(found[:, None] - true[None]).sum(-1).argmin(1) if len(true) else np.zeros(len(found), int)
        guess = labels[near] if len(true) else np.ones(len(found), int)
        guess = np.where(rng.random(len(found)) < 0.2, rng.integers(1, classes + 1, len(found)), guess)
        scores = rng.integers(1, 8, len(found)) / 8 if ties else rng.random(len(found))
        predictions.append(
            {"boxes": torch.tensor(found), "labels": torch.tensor(guess), "scores": torch.tensor(scores)}
        )
        targets.append(
            {
                "boxes": torch.tensor(true),
                "labels": torch.tensor(labels),
                "dont_care": torch.tensor(rng.random(len(true)) < 0.25),
            }
        )
    return predictions, targets


def coco_ap(predictions, targets, classes):
    """[stratum, class] AP of COCOeval with dense recall thresholds and our sizes; −1 where it has no ground truth."""
    annotations, results = [], []
    for i, (found, truth) in enumerate(zip(predictions, targets, strict=True)):
        for box, label, dont_care in zip(*(truth[k].tolist() for k in ("boxes", "labels", "dont_care")), strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            for category in range(1, classes + 1) if dont_care else [label]:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": category,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": int(dont_care),
                    }
                )
        for box, label, score in zip(*(found[k].tolist() for k in ("boxes", "labels", "scores")), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": i + 1, "category_id": label, "bbox": bbox, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(len(targets))],
            "annotations": annotations,
            "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
        low, high = SMALL_BELOW * HEIGHT * WIDTH, LARGE_ABOVE * HEIGHT * WIDTH
        p = evaluation.params
        p.imgIds, p.catIds = list(range(1, len(targets) + 1)), list(range(1, classes + 1))
        p.iouThrs, p.maxDets = np.array([0.5]), [100_000]
        p.recThrs = (np.arange(8000) + 0.5) / 8000  # the mean over midpoints is the integral to 1/16000
        p.areaRng = [[0, 1e10], [0, np.nextafter(low, 0)], [low, high], [np.nextafter(high, 1e10), 1e10]]
        p.areaRngLbl = ["all", *SIZES]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, :, 0].mean(axis=0).T


def assert_agrees(predictions, targets, classes):
    names = [f"class{c}" for c in range(1, classes + 1)]
    evaluator = DetectionEvaluator(names, (HEIGHT, WIDTH))
    for i in range(0, len(targets), 7):
        evaluator.update(predictions[i : i + 7], Objects.from_targets(targets[i : i + 7]))
    ours = evaluator.compute()

    per_class = coco_ap(predictions, targets, classes)
    one_class = [{**found, "labels": torch.ones_like(found["labels"])} for found in predictions]
    one_truth = [{**truth, "labels": torch.ones_like(truth["labels"])} for truth in targets]
    binary = coco_ap(one_class, one_truth, 1)
    for stratum in range(4):
        rows = [(metric_key("binary_AP", stratum), binary[stratum, 0])]
        rows += [(metric_key("AP", stratum, name), per_class[stratum, c]) for c, name in enumerate(names)]
        known = per_class[stratum][per_class[stratum] >= 0]
        rows += [(metric_key("mAP", stratum), known.mean() if len(known) else -1)]
        for key, coco in rows:
            if coco < 0:
                assert np.isnan(ours[key]), key
            else:
                assert ours[key] == pytest.approx(coco, abs=1e-4), key


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 30), classes=st.integers(1, 4), ties=st.booleans())
@settings(max_examples=60)
def test_agrees_with_pycocotools(seed, images, classes, ties):
    assert_agrees(*random_set(np.random.default_rng(seed), images, classes, ties), classes)


def test_agrees_with_pycocotools_on_a_larger_set():
    assert_agrees(*random_set(np.random.default_rng(0), images=300, classes=5, ties=True), 5)


def test_agrees_where_nothing_is_detected():
    predictions, targets = random_set(np.random.default_rng(1), images=5, classes=2, ties=False)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    one = [*[none] * (len(targets) - 1), predictions[-1]]
    assert_agrees(one, targets, 2)
