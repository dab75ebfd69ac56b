"""Every stratum of a validation: our evaluator beside pycocotools, faster-coco-eval and torchmetrics.

    python -m benchmarks.evaluation [--images 10000] [--turns 3]

The same for all: the images, 8 objects each (one in 20 don't-care) and 50 detections, 4 classes, IoU ≥ 0.5, no limit on
detections; asked for: AP of each class and mean AP, over all sizes and for small, medium and large, and the same four
of the binary task. Ours is timed whole, from the detections of a batch as tensors to the dictionary of metrics, and
counts false positives besides. pycocotools and faster-coco-eval are timed from ``evaluate`` to ``accumulate`` alone, at
COCO's 101 recall points: their index of the annotations is built beforehand. Before anything is timed, their numbers
are held against ours at 4000 recall points. torchmetrics (with faster-coco-eval inside) has no limits of size of its
own choice and no AP of class × size: it is asked for what it has, AP by class and by COCO's sizes, and binary AP.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import comparison, installed, seconds, take_turns
from isod.evaluation.evaluator import DetectionEvaluator
from isod.objects import Objects
from isod.vocabulary import LARGE_ABOVE, SIZES, SMALL_BELOW, metric_key

HEIGHT, WIDTH = 384, 1280
CLASSES = ("Vehicle", "Pedestrian", "VulnerableVehicle", "Animal")
OBJECTS, DETECTIONS = 8, 50  # of an image, mean
BATCH = 128  # images that reach our evaluator together
CHECKED = 1000  # images on which the numbers are compared
AGREES = 5e-4  # recall points in place of the area

Images = list[dict[str, Tensor]]


def random_images(count: int) -> tuple[Images, Images]:
    """Predictions and targets: four shifted copies of every object, and boxes that mean nothing for the rest."""
    rng = np.random.default_rng(0)

    def boxes(n: int) -> np.ndarray:
        extent = np.exp(rng.normal(np.log(40), 0.9, (n, 1)) + rng.normal(0, 0.3, (n, 2))).clip(4, (WIDTH, HEIGHT))
        corner = rng.uniform(0, 1, (n, 2)) * ((WIDTH, HEIGHT) - extent)
        return np.concatenate([corner, corner + extent], axis=1)

    predictions, targets = [], []
    for _ in range(count):
        true = boxes(rng.poisson(OBJECTS))
        labels = rng.choice(4, len(true), p=[0.8, 0.12, 0.07, 0.01]) + 1
        size = np.tile(true[:, 2:] - true[:, :2], 2)
        copies = np.repeat(true, 4, axis=0) + rng.normal(0, 0.08, (4 * len(true), 4)) * np.repeat(size, 4, axis=0)
        copies[:, 2:] = np.maximum(copies[:, 2:], copies[:, :2] + 1)
        strays = boxes(rng.poisson(DETECTIONS - 4 * OBJECTS))
        guesses = np.concatenate([np.repeat(labels, 4), rng.integers(1, 5, len(strays))])
        scores = np.concatenate([rng.beta(2, 2, len(copies)), rng.beta(1, 6, len(strays))])
        found = torch.from_numpy(np.concatenate([copies, strays])).float()
        predictions.append(
            {"boxes": found, "labels": torch.from_numpy(guesses), "scores": torch.from_numpy(scores).float()}
        )
        dont_care = torch.from_numpy(rng.random(len(true)) < 0.05)
        targets.append(
            {"boxes": torch.from_numpy(true).float(), "labels": torch.from_numpy(labels), "dont_care": dont_care}
        )
    return predictions, targets


def ours(predictions: Images, targets: Images) -> dict[str, float]:
    """All metrics, batch by batch as a validation does it."""
    evaluator = DetectionEvaluator(CLASSES, (HEIGHT, WIDTH))
    for first in range(0, len(targets), BATCH):
        evaluator.update(predictions[first : first + BATCH], Objects.from_targets(targets[first : first + BATCH]))
    return evaluator.compute()


@dataclass(frozen=True)
class Library:
    """pycocotools, or something with its interface."""

    index: type  # COCO
    evaluation: type  # COCOeval


def pycocotools() -> Library:
    """Raises NotRun where it is not installed."""
    installed("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return Library(COCO, COCOeval)


def faster_coco_eval() -> Library:
    """Raises NotRun where it is not installed."""
    installed("faster-coco-eval")
    from faster_coco_eval import COCO, COCOeval_faster

    return Library(COCO, COCOeval_faster)


class CocoTask:
    """The class-aware task or the binary one, as pycocotools' interface takes it."""

    def __init__(self, library: Library, predictions: Images, targets: Images, *, binary: bool) -> None:
        self._library = library
        categories = [1] if binary else list(range(1, len(CLASSES) + 1))
        annotations: list[dict[str, Any]] = []
        results = []
        for image, (found, truth) in enumerate(zip(predictions, targets, strict=True), 1):
            for box, label, ignored in zip(
                to_xywh(truth["boxes"]), truth["labels"].tolist(), truth["dont_care"].tolist(), strict=True
            ):
                for category in categories if ignored or binary else [label]:  # a crowd of every class
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": image,
                            "category_id": category,
                            "bbox": box,
                            "area": box[2] * box[3],
                            "iscrowd": int(ignored),
                        }
                    )
            for box, label, score in zip(
                to_xywh(found["boxes"]), found["labels"].tolist(), found["scores"].tolist(), strict=True
            ):
                results.append({"image_id": image, "category_id": 1 if binary else label, "bbox": box, "score": score})
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = library.index()
            self._truth.dataset = {
                "info": {},
                "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(len(targets))],
                "annotations": annotations,
                "categories": [{"id": category, "name": str(category)} for category in categories],
            }
            self._truth.createIndex()
            self._found = self._truth.loadRes(results)

    def run(self, recall_points: int) -> np.ndarray:
        """[stratum, class] AP; −1 where there is no ground truth."""
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._library.evaluation(self._truth, self._found, "bbox")
            low, high = SMALL_BELOW * HEIGHT * WIDTH, LARGE_ABOVE * HEIGHT * WIDTH
            evaluation.params.iouThrs = np.array([0.5])
            evaluation.params.maxDets = [100_000]
            evaluation.params.recThrs = (np.arange(recall_points) + 0.5) / recall_points
            evaluation.params.areaRng = [
                [0, 1e10],
                [0, np.nextafter(low, 0)],
                [low, high],
                [np.nextafter(high, 1e10), 1e10],
            ]
            evaluation.params.areaRngLbl = ["all", *SIZES]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"][0, :, :, :, 0].mean(axis=0).T


def to_xywh(boxes: Tensor) -> list[list[float]]:
    """COCO's boxes of xyxy ones."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().tolist()


def disagreement(library: Library, predictions: Images, targets: Images) -> float:
    """The largest difference between our AP and theirs, over every class, size, and the binary task."""
    metrics = ours(predictions, targets)
    by_class = CocoTask(library, predictions, targets, binary=False).run(4000)
    binary = CocoTask(library, predictions, targets, binary=True).run(4000)
    differences = [0.0]
    for stratum in range(1 + len(SIZES)):
        pairs = [(metrics[metric_key("binary_AP", stratum)], binary[stratum, 0])]
        pairs += [(metrics[metric_key("AP", stratum, name)], by_class[stratum, c]) for c, name in enumerate(CLASSES)]
        differences += [abs(own - theirs) for own, theirs in pairs if theirs >= 0]
    return max(differences)


def torchmetrics(predictions: Images, targets: Images) -> None:
    """What it has: AP by class and by COCO's sizes, then the binary AP."""
    from torchmetrics.detection import MeanAveragePrecision

    settings: dict[str, Any] = {
        "iou_thresholds": [0.5],
        "max_detection_thresholds": [1, 10, 100_000],
        "backend": "faster_coco_eval",
    }
    for metric in (
        MeanAveragePrecision(class_metrics=True, **settings),
        MeanAveragePrecision(average="micro", **settings),
    ):
        for first in range(0, len(targets), BATCH):
            truth = [
                {"boxes": item["boxes"], "labels": item["labels"], "iscrowd": item["dont_care"].long()}
                for item in targets[first : first + BATCH]
            ]
            metric.update(predictions[first : first + BATCH], truth)
        metric.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, metavar="N")
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictions, targets = random_images(options.images)
    contenders: dict[str, Callable[[], float]] = {"isod": lambda: seconds(lambda: ours(predictions, targets))}
    agreement = []

    def peer(name: str, make: Callable[[], Library]) -> Callable[[], float]:
        tasks: list[CocoTask] = []

        def turn() -> float:
            if not tasks:
                library = make()
                difference = disagreement(library, predictions[:CHECKED], targets[:CHECKED])
                if difference > AGREES:
                    raise RuntimeError(f"{name} and isod differ by {difference:.2g} in AP: nothing to compare")
                agreement.append(f"{name} by at most {difference:.1g}")
                tasks.extend(CocoTask(library, predictions, targets, binary=binary) for binary in (False, True))
            return seconds(lambda: [task.run(101) for task in tasks])

        return turn

    def metrics() -> float:
        installed("torchmetrics")
        installed("faster-coco-eval")
        return seconds(lambda: torchmetrics(predictions, targets))

    contenders["pycocotools"] = peer("pycocotools", pycocotools)
    contenders["faster-coco-eval"] = peer("faster-coco-eval", faster_coco_eval)
    contenders["torchmetrics, fewer strata"] = metrics
    ours(predictions[:BATCH], targets[:BATCH])  # numba compiles
    figures = take_turns(contenders, options.turns)
    objects = sum(len(item["labels"]) for item in targets)
    detections = sum(len(item["labels"]) for item in predictions)
    print(
        f"The same for all: {len(targets)} images, {objects} objects, {detections} detections, {len(CLASSES)} classes, "
        f"all sizes and each, and the binary task; one thread. APs differ from ours: {', '.join(agreement)}.\n"
    )
    targets_met = {"pycocotools": 10.0, "faster-coco-eval": 1.0, "torchmetrics, fewer strata": 1.0}
    print(comparison(figures, "seconds", less_is_better=True, targets=targets_met))


if __name__ == "__main__":
    main()
