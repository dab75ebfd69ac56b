"""How good a trained model is on annotated frames: isod's metrics, COCO's, curves and confusions."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isod.data.objects import Annotation
from isod.data.prepare.crop import crop_geometry
from isod.data.prepare.region import Region, clip
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.coco import CocoFile
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.evaluation.confusion import count_confusions
from isod.evaluation.evaluator import DetectionEvaluator
from isod.inference.prediction import Predictor
from isod.inference.sources import AnnotatedFiles, Broken, NamedFrame, Source, StoreCrops, is_store
from isod.inference.tiles import Detections
from isod.objects import Objects
from isod.vocabulary import Split

COCO_METRICS = ("COCO_AP50-95", "COCO_AP50", "COCO_AP75")  # in the order of COCOeval.stats
IMAGE_FOLDER = "images"  # beside a json, where its images are looked for first


@dataclass(frozen=True)
class AnnotatedData:
    """Frames with their objects."""

    name: str  # for people
    source: Source
    demo: bool = False
    notes: Sequence[str] = ()
    category_ids: Mapping[int, int | str] | None = None  # label → category id of a COCO json; None: the label itself


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    data: AnnotatedData
    metrics: dict[str, float]  # of DetectionEvaluator, and COCO_METRICS
    class_names: tuple[str, ...]
    curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # of each class: recall, precision, score
    confusion: np.ndarray  # [C + 1, C + 1], see count_confusions
    threshold: float  # least score of the detections in it
    predictions: list[dict[str, Any]]  # COCO's results format
    images: int
    objects: int  # don't-care ones not counted
    broken: Broken = field(default_factory=Broken)


def open_annotated(
    data: str, class_names: Sequence[str], *, images: Path | None = None, split: Split | None = None
) -> AnnotatedData:
    """Open what a model is evaluated on.

    Args:
        data: a crop store, or a COCO json.
        class_names: of the model.
        images: folder of the json's images; by default the folder ``images`` beside it, or else its own.
        split: of the store; "val" by default.
    Raises:
        InputError: it is neither, is damaged, or has classes that the model does not know; images of a store, or a
            split of a json.
    """
    if is_store(data):
        if images is not None:
            raise InputError(f"{data} is a crop store, which has its images: leave out --images")
        split = split or "val"
        store = CropStore.open(data)
        store.meta.require_classes(class_names, store.uri, advice=": evaluate it on data with the same classes")
        return AnnotatedData(f"split {split} of {store.uri}", StoreCrops(store.split(split)), store.meta.demo)
    path = Path(data)
    if not path.exists():
        raise InputError(f"{data} does not exist: name a crop store or a COCO json")
    if path.is_dir():
        raise InputError(
            f"{data} is no crop store: name one, or a COCO json with --images and the folder of its images"
        )
    if split is not None:
        raise InputError(f"{data} is no crop store, whose parts --split names: leave it out")
    beside = path.parent / IMAGE_FOLDER
    file = CocoFile(images or (beside if beside.is_dir() else path.parent), path)
    labels = {name: label for label, name in enumerate(class_names, 1)}
    categories = file.used_categories()
    for name in categories.values():
        if name not in labels:
            raise InputError(
                f"{path} has the class {name!r}, which the model does not know; it knows {', '.join(class_names)}"
            )
    refs = file.frames(labels)
    ids = {labels[name]: key for key, name in file.categories.items() if name in labels}
    ids |= {labels[name]: key for key, name in categories.items()}  # of two of one name the one that has objects
    free = max((key for key in ids.values() if isinstance(key, int)), default=0)
    ids |= {label: free + label for label in labels.values() if label not in ids}  # ids that no category has
    return AnnotatedData(str(path), AnnotatedFiles(refs), notes=file.notes(), category_ids=ids)


def evaluate(
    predictor: Predictor,
    data: AnnotatedData,
    *,
    threshold: float | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Predict on every frame and compare with its objects.

    Of whole frames, only the region of interest that the model was trained on counts: objects are clipped to it, and
    those that keep too little of their box are left out, as in a store. Sizes are shares of that region; on a store, of
    the crop, as in training.

    Args:
        predictor: with a confidence at the model's ``score_floor``, as AP needs the whole curve.
        threshold: least score of the detections in the confusion matrix and in ``FP``; by default the model's
            own, ``shown_from``.
        advance: called with the number of frames just finished.
    Raises:
        InputError: no frame can be read.
    """
    names = predictor.class_names
    threshold = predictor.description.shown_from if threshold is None else threshold
    evaluator = DetectionEvaluator(names, predictor.description.crop_size, display_threshold=threshold)
    confusion = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    broken, every, results = Broken(), [], []
    for item, found in predictor.predict(data.source, broken):
        assert item.truth is not None
        region = _region(item, None if data.source.cropped else predictor.preparation.roi)
        truth = clip(item.truth, region, predictor.preparation.min_visible)
        offset = np.array([region.x0, region.y0] * 2, np.float32)
        moved = Detections(found.boxes - offset, found.scores, found.labels)
        evaluator.update(
            [{name: torch.from_numpy(getattr(moved, name)) for name in ("boxes", "scores", "labels")}],
            Objects.from_lists([truth.boxes], [truth.labels], [truth.dont_care]),
            image_sizes=np.array([[region.height, region.width]]),
        )
        shown = moved[moved.scores >= threshold]
        count_confusions(confusion, shown.boxes, shown.labels, truth.boxes, truth.labels, truth.dont_care)
        every.append((moved, truth, (region.height, region.width)))
        results += coco_results(item, found, data.category_ids)
        advance(1)
    if not every:
        raise InputError(f"no frame of {data.name} can be read; the first one: {next(iter(broken.reasons.values()))}")
    return Evaluation(
        data=data,
        metrics=evaluator.compute() | coco_metrics(every, len(names)),
        class_names=names,
        curves=[evaluator.curve(label) for label in range(1, len(names) + 1)],
        confusion=confusion,
        threshold=threshold,
        predictions=results,
        images=len(every),
        objects=int(confusion[1:].sum()),
        broken=broken,
    )


def _region(item: NamedFrame, roi: Region | None) -> Region:
    height, width = item.frame.image.size
    return crop_geometry(roi or Region(0, 0, width, height), (height, width), PrepareSettings())[0]


def coco_results(
    item: NamedFrame, found: Detections, category_ids: Mapping[int, int | str] | None = None
) -> list[dict[str, Any]]:
    """Return the detections of a frame in COCO's results format, with the frame's file name besides.

    Args:
        category_ids: label → category id; None: the label itself, 1…C.
    """
    return [
        {
            "image_id": item.image_id,
            "category_id": label if category_ids is None else category_ids[label],
            "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(score, 6),
            "file_name": item.file_name,
        }
        for (x0, y0, x1, y1), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        )
    ]


def coco_metrics(frames: Sequence[tuple[Detections, Annotation, tuple[int, int]]], classes: int) -> dict[str, float]:
    """Return COCO's own three numbers, by pycocotools; NaN without ground truth.

    A don't-care object is a crowd of every class.

    Args:
        frames: detections, objects and (height, width) of each.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, (found, truth, _) in enumerate(frames, 1):
        for box, label, dont_care in zip(truth.boxes, truth.labels, truth.dont_care, strict=True):
            bbox = _xywh(box)
            annotations += [
                {"id": 0, "image_id": image_id, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3],
                 "iscrowd": int(dont_care)}
                for category in (range(1, classes + 1) if dont_care else [int(label)])
            ]  # fmt: skip
        results += [
            {"image_id": image_id, "category_id": int(label), "bbox": _xywh(box), "score": float(score)}
            for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
        ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    images = [{"id": i, "height": height, "width": width} for i, (_, _, (height, width)) in enumerate(frames, 1)]
    categories = [{"id": c, "name": str(c)} for c in range(1, classes + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set, found_set = COCO(), COCO()
        truth_set.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        found_set.dataset = truth_set.dataset | {"annotations": []}
        truth_set.createIndex()
        found_set.createIndex()
        evaluation = COCOeval(truth_set, truth_set.loadRes(results) if results else found_set, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(COCO_METRICS, evaluation.stats, strict=False)
    }


def _xywh(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write predictions.json and metrics.json into a folder; null where a metric has no ground truth."""
    metrics = {name: None if np.isnan(value) else value for name, value in evaluation.metrics.items()}
    (out / "predictions.json").write_text(json.dumps(evaluation.predictions) + "\n", encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
