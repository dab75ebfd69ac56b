"""The metrics of a validation: feed predictions and targets batch by batch, read every stratum at once (spec §8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isod.evaluation.average_precision import average_precision
from isod.evaluation.matching import (
    BINARY,
    CLASS_AWARE,
    FALSE_POSITIVE,
    IGNORED,
    NUM_STRATA,
    TRUE_POSITIVE,
    match_images,
    verdict_of,
)
from isod.objects import Objects
from isod.vocabulary import SIZES, metric_key, size_codes


class DetectionEvaluator:
    """mAP, AP per class × size, binary AP, and false positives, over all images seen since the last ``reset``.

    What it keeps is 13 bytes per detection: score, class, size, and the verdict in each stratum. Boxes are forgotten
    as soon as their image is matched, and detections below ``score_floor`` never enter.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_size: tuple[int, int],
        iou_threshold: float = 0.5,
        display_threshold: float = 0.5,
        score_floor: float = 0.0,
    ) -> None:
        """
        Args:
            class_names: the C classes; label c is ``class_names[c - 1]``.
            image_size: (H, W) in pixels of every image that does not say otherwise; sizes are shares of its area.
            iou_threshold: least IoU between a detection and the object it finds, in (0, 1].
            display_threshold: score from which a detection is shown to people; ``FP…`` counts those.
            score_floor: detections with a lower score are left out of everything.
        Raises:
            ValueError: class names missing or repeated, a size or threshold out of range.
        """
        if not class_names or len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must be one or more different names, got {list(class_names)}")
        if len(image_size) != 2 or min(image_size) <= 0:
            raise ValueError(f"image_size must be (height, width) in pixels, both positive, got {image_size}")
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold must be in (0, 1], got {iou_threshold}")
        self.class_names = tuple(class_names)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.iou_threshold = iou_threshold
        self.display_threshold = display_threshold
        self.score_floor = score_floor
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.num_images = 0
        self._scores: list[np.ndarray] = []  # float64, one array per update; likewise below
        self._labels: list[np.ndarray] = []  # uint16
        self._sizes: list[np.ndarray] = []  # uint8
        self._verdicts: list[np.ndarray] = []  # uint16, as match_images packs them
        self._ground_truth = np.zeros((len(self.class_names), len(SIZES)), dtype=np.int64)  # [C, size]
        self._shown_on_empty = 0

    def update(
        self,
        predictions: Sequence[Mapping[str, Tensor]],
        objects: Objects,
        *,
        image_sizes: NDArray[np.int64] | None = None,
    ) -> None:
        """Add a batch of images.

        Args:
            predictions: one dict an image, on any device: ``boxes`` [n, 4] xyxy pixels, ``labels`` [n] 1…C, ``scores``
                [n].
            objects: of the same images, numpy; ``Objects.from_targets`` makes them of torchvision's target dicts.
            image_sizes: [B, 2] (H, W) of each image, pixels; the evaluator's image_size by default.
        Raises:
            ValueError: lengths or shapes that do not fit, values not finite, labels out of range, boxes with corners
                exchanged, objects without area. Nothing of the batch has then been added.
        """
        if len(predictions) != len(objects):
            raise ValueError(f"got predictions for {len(predictions)} images but objects of {len(objects)}")
        if not predictions:
            return
        detections = _Boxes.of_predictions(predictions)
        truth = _Boxes.of_objects(objects)
        detections.check(len(self.class_names))
        truth.check(len(self.class_names))

        # By image, then from the highest score, equal scores in the order given: lexsort is stable.
        order = np.lexsort((-detections.extra, detections.image))
        order = order[detections.extra[order] >= self.score_floor]
        boxes, labels, scores = detections.boxes[order], detections.labels[order], detections.extra[order]
        of_image = self._image_sizes(len(objects), image_sizes)
        sizes = size_codes(boxes, of_image[detections.image[order]])
        true_sizes = size_codes(truth.boxes, of_image[truth.image])
        dont_care = truth.extra.astype(bool)
        images = np.arange(len(objects) + 1)
        verdicts = match_images(
            boxes,
            labels,
            sizes,
            np.searchsorted(detections.image[order], images),
            truth.boxes,
            truth.labels,
            true_sizes,
            dont_care,
            np.searchsorted(truth.image, images),
            float(self.iou_threshold),
        )
        self._scores.append(scores)
        self._labels.append(labels.astype(np.uint16))
        self._sizes.append(sizes)
        self._verdicts.append(verdicts)
        on_empty = np.bincount(truth.image, minlength=len(objects))[detections.image[order]] == 0
        self._shown_on_empty += int((on_empty & (scores >= self.display_threshold)).sum())
        np.add.at(self._ground_truth, (truth.labels[~dont_care] - 1, true_sizes[~dont_care]), 1)
        self.num_images += len(objects)

    def _image_sizes(self, images: int, sizes: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return [B, 2] (H, W) of each image, pixels."""
        if sizes is None:
            return np.tile(np.array(self.image_size, np.int64), (images, 1))
        sizes = np.asarray(sizes, np.int64)
        if sizes.shape != (images, 2) or sizes.min(initial=1) <= 0:
            raise ValueError(f"image_sizes must be [{images}, 2] (height, width), all positive, got {sizes.tolist()}")
        return sizes

    def compute(self) -> dict[str, float]:
        """All metrics under their stable names; every value a float.

        ``mAP``, ``mAP_small|medium|large``: mean AP over the classes that have ground truth in the stratum.
        ``AP/<class>``, ``AP_small/<class>``…: AP of one class. ``binary_AP``, ``binary_AP_small``…: class ignored.
        ``FP/<class>``, ``FP_small/<class>``…: detections with score ≥ ``display_threshold`` that found nothing, by
        their own class and size; ``FP_empty``: those in images without an object and without a don't-care box.
        ``GT``, ``GT_small``…, ``GT/<class>``, ``GT_small/<class>``…: objects of all classes and of one, don't-care
        ones not counted. An AP over no ground truth is NaN.
        ``F1``: the highest 2·TP / (detections + objects) of all classes together over the scores from which detections
        count; ``F1_threshold``: that score, the highest of equal ones. Both are NaN where nothing is found.
        """
        scores, labels = _joined(self._scores, np.float64), _joined(self._labels, np.uint16)
        sizes, verdicts = _joined(self._sizes, np.uint8), _joined(self._verdicts, np.uint16)
        metrics: dict[str, float] = {}

        order = np.argsort(-scores, kind="stable")  # equal scores: by image, then as given
        for stratum in range(NUM_STRATA):
            count = int(self._objects_in(stratum).sum())
            metrics[metric_key("binary_AP", stratum)] = _ap(verdicts[order], BINARY, stratum, count)
        metrics["F1"], metrics["F1_threshold"] = _best_f1(verdicts[order], scores[order], int(self._ground_truth.sum()))

        order = order[np.argsort(labels[order], kind="stable")]  # now by class, then score
        bounds = np.searchsorted(labels[order], np.arange(1, len(self.class_names) + 2))
        for stratum in range(NUM_STRATA):
            counts = self._objects_in(stratum)
            for c, name in enumerate(self.class_names):
                of_class = order[bounds[c] : bounds[c + 1]]
                metrics[metric_key("AP", stratum, name)] = _ap(verdicts[of_class], CLASS_AWARE, stratum, int(counts[c]))
                metrics[metric_key("GT", stratum, name)] = float(counts[c])
            metrics[metric_key("GT", stratum)] = float(counts.sum())
            per_class = [metrics[metric_key("AP", stratum, name)] for name in self.class_names]
            known = [ap for ap in per_class if not np.isnan(ap)]
            metrics[metric_key("mAP", stratum)] = float(np.mean(known)) if known else float("nan")

        false_positive = (verdict_of(verdicts, CLASS_AWARE, 0) == FALSE_POSITIVE) & (scores >= self.display_threshold)
        by_size = np.zeros((len(self.class_names), len(SIZES)))
        np.add.at(by_size, (labels[false_positive].astype(np.int64) - 1, sizes[false_positive]), 1)
        for stratum in range(NUM_STRATA):
            for c, name in enumerate(self.class_names):
                found_nothing = by_size[c].sum() if stratum == 0 else by_size[c, stratum - 1]
                metrics[metric_key("FP", stratum, name)] = float(found_nothing)
        metrics["FP_empty"] = float(self._shown_on_empty)
        return metrics

    def curve(self, label: int, stratum: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the precision-recall curve of one class.

        Args:
            label: 1…C.
        Returns:
            recall, precision and score, each [n]: of the detections from the highest score down to that one. NaN recall
            if there is no ground truth.
        """
        scores, labels = _joined(self._scores, np.float64), _joined(self._labels, np.uint16)
        verdict = verdict_of(_joined(self._verdicts, np.uint16), CLASS_AWARE, stratum)
        counts = (labels == label) & (verdict != IGNORED)
        scores, verdict = scores[counts], verdict[counts]
        order = np.argsort(-scores, kind="stable")
        hits = np.cumsum(verdict[order] == TRUE_POSITIVE)
        objects = self._objects_in(stratum)[label - 1]
        recall = hits / objects if objects else np.full(len(hits), np.nan)
        return recall, hits / np.arange(1, len(hits) + 1), scores[order]

    def _objects_in(self, stratum: int) -> np.ndarray:
        """[C] int64: ground truth per class in the stratum."""
        return self._ground_truth.sum(axis=1) if stratum == 0 else self._ground_truth[:, stratum - 1]


def _ap(verdicts: np.ndarray, mode: int, stratum: int, num_ground_truth: int) -> float:
    """AP of detections in score order."""
    verdict = verdict_of(verdicts, mode, stratum)
    return average_precision(verdict[verdict != IGNORED] == TRUE_POSITIVE, num_ground_truth)


def _best_f1(verdicts: np.ndarray, scores: np.ndarray, objects: int) -> tuple[float, float]:
    """F1 and threshold of detections in score order."""
    verdict = verdict_of(verdicts, CLASS_AWARE, 0)
    scores, hits = scores[verdict != IGNORED], np.cumsum(verdict[verdict != IGNORED] == TRUE_POSITIVE)
    if not len(hits) or not hits[-1]:
        return float("nan"), float("nan")
    last_of_equals = np.append(scores[1:] != scores[:-1], True)
    f1 = np.where(last_of_equals, 2 * hits / (np.arange(1, len(hits) + 1) + objects), 0)
    best = int(np.argmax(f1))
    return float(f1[best]), float(scores[best])


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


class _Boxes:
    """The boxes of a batch of images end to end: one transfer from the device per key, not one per image."""

    def __init__(self, name: str, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, extra: np.ndarray) -> None:
        self.name = name  # "predictions" or "objects", for messages
        self.image = image  # [n] int64, non-decreasing
        self.boxes = boxes  # [n, 4] float64
        self.labels = labels  # [n] int64
        self.extra = extra  # [n] float64: scores or dont_care

    @classmethod
    def of_predictions(cls, images: Sequence[Mapping[str, Tensor]]) -> _Boxes:
        """Join the dicts of a batch; ValueError names the image whose tensors do not fit together."""
        boxes, labels, scores, counts = [], [], [], []
        for i, entry in enumerate(images):
            if missing := sorted({"boxes", "labels", "scores"} - set(entry)):
                raise ValueError(f"predictions[{i}] lacks {', '.join(missing)}")
            box, label, score = (torch.as_tensor(entry[key]) for key in ("boxes", "labels", "scores"))
            n = len(label) if label.ndim == 1 else -1
            if box.numel() == 0 and n == 0:
                box = box.reshape(0, 4)  # torchvision accepts [0] for no boxes
            if box.shape != (n, 4) or score.shape != (n,):
                raise ValueError(
                    f"predictions[{i}]: boxes, labels and scores must have shapes [n, 4], [n] and [n], "
                    f"got {list(box.shape)}, {list(label.shape)} and {list(score.shape)}"
                )
            boxes.append(box)
            labels.append(label)
            scores.append(score)
            counts.append(n)
        return cls(
            "predictions",
            np.repeat(np.arange(len(images)), counts),
            torch.cat(boxes).detach().to("cpu", torch.float64).numpy(),
            torch.cat(labels).detach().to("cpu", torch.int64).numpy(),
            torch.cat(scores).detach().to("cpu", torch.float64).numpy(),
        )

    @classmethod
    def of_objects(cls, objects: Objects) -> _Boxes:
        """Take the padding out."""
        valid = objects.valid
        image = np.repeat(np.arange(len(objects)), objects.counts)
        boxes, dont_care = objects.boxes[valid].astype(np.float64), objects.dont_care[valid].astype(np.float64)
        return cls("objects", image, boxes, objects.labels[valid], dont_care)

    def check(self, num_classes: int) -> None:
        """ValueError names the first box that breaks a rule."""
        x0, y0, x1, y1 = self.boxes.T
        known = np.ones(len(self.labels), dtype=bool) if self.name == "predictions" else self.extra == 0
        self._refuse(~np.isfinite(self.boxes).all(axis=1), "boxes must be finite")
        self._refuse(~np.isfinite(self.extra), "scores must be finite")
        self._refuse((x1 < x0) | (y1 < y0), "boxes must be xyxy with x1 ≥ x0 and y1 ≥ y0")
        self._refuse(known & ((self.labels < 1) | (self.labels > num_classes)), f"labels must be in 1…{num_classes}")
        if self.name == "objects":
            self._refuse(known & ((x1 == x0) | (y1 == y0)), "objects must have an area")

    def _refuse(self, broken: np.ndarray, rule: str) -> None:
        if broken.any():
            n = int(np.argmax(broken))
            image = int(self.image[n])
            position = n - int(np.searchsorted(self.image, image))
            raise ValueError(
                f"{rule}; {self.name}[{image}] has box {self.boxes[n].tolist()} with label {self.labels[n]} "
                f"and {'score' if self.name == 'predictions' else 'dont_care'} {self.extra[n]:g} at position {position}"
            )
