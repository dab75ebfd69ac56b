"""The contact sheet of triage: the most drawn examples with boxes, predictions, and guesses at label errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import simplejpeg
import torch
from PIL import Image

from isod.data.faults import Fault
from isod.data.store.split import CropStore
from isod.detector.model import DetectorModel
from isod.errors import InputError
from isod.evaluation.label_problems import PROBLEMS, Guess, guess_problems, precision_at
from isod.inference.marks import Mark, place_words
from isod.results.photo import jpeg_uri

NONE_SEEN = "none seen"  # the guess where the predictions contradict no label
THESIS_K = 100  # how many examples the thesis looked at (§6.1.1)
BATCH = 16  # crops in one forward pass
WIDEST = 960  # pixels of a picture in the page: 500 of them stay below some 30 MB
JPEG_QUALITY = 80

Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes [n, 4] xyxy crop pixels, labels [n], scores [n]


@dataclass(frozen=True)
class Finding:
    """A guess in words, and where."""

    problem: str
    words: str
    score: float
    iou: float
    predicted_class: str
    annotated_class: str  # "" for an overlooked object
    box: tuple[float, float, float, float]  # of the prediction, xyxy, crop pixels


@dataclass(frozen=True)
class Card:
    """One example of the sheet."""

    rank: int  # 1 is the most drawn
    index: int
    frame_id: str
    tile: tuple[int, int] | None  # (column, row) where frames are cut into tiles
    draw_count: int
    mean_importance: float
    margin: float  # NaN where it has none
    size: tuple[int, int]  # (height, width) of the crop, pixels
    picture: str | None  # data: URI; None where the crop does not decode
    objects: int  # annotated ones
    marks: list[Mark]
    findings: list[Finding]  # most confident first
    faults: list[str] | None  # known label errors, in words; None where the store has no list of them

    @property
    def problems(self) -> list[str]:
        """Every kind of guess that the example has, or NONE_SEEN."""
        return [p for p in PROBLEMS if p in {finding.problem for finding in self.findings}] or [NONE_SEEN]

    @property
    def guess(self) -> str:
        """The problem of the most confident finding, or NONE_SEEN."""
        return self.findings[0].problem if self.findings else NONE_SEEN


@dataclass(frozen=True)
class Sheet:
    """The content of the page, the CSV and the terminal's summary."""

    run: str  # "UIS-seed0 of thesis-grid"
    store: str
    trained_on: str | None  # the store that the run names
    demo: bool
    examples: int  # readable ones of the train split
    drawn: int  # how many of them were drawn at least once
    equally_drawn: bool  # whether all drawn ones were drawn equally often
    threshold: float | None  # least score of the predictions shown; None without predictions
    cards: list[Card]
    wrong_share: float | None  # of all readable examples; None where the store has no list of its label errors
    precision: list[tuple[int, float]]  # k → share of the k most drawn with a label error; empty where unknown

    @property
    def tally(self) -> list[tuple[str, int, int]]:
        """(guess, cards that have one, those of them with a known label error); empty without predictions."""
        if self.threshold is None:
            return []
        groups = [(p, [card for card in self.cards if p in card.problems]) for p in (*PROBLEMS, NONE_SEEN)]
        return [(name, len(cards), sum(bool(card.faults) for card in cards)) for name, cards in groups]


def most_drawn(examples: pd.DataFrame) -> np.ndarray:
    """Return the rows of examples.parquet that were drawn: the most drawn first, of equals the more important."""
    importance = examples["mean_importance"].fillna(-np.inf).to_numpy()
    order = np.lexsort((examples["index"], -importance, -examples["draw_count"].to_numpy()))
    return order[examples["draw_count"].to_numpy()[order] > 0]


def make_sheet(
    run: str,
    examples: pd.DataFrame,
    store: CropStore,
    detector: DetectorModel | None,
    threshold: float,
    *,
    top: int,
    trained_on: str | None = None,
) -> Sheet:
    """Read the ``top`` most drawn examples, run the detector on them, and compare its predictions with the labels.

    Args:
        examples: one row per row of the store's train split, in its order, with a column ``margin``.
        detector: in evaluation mode; None leaves out predictions and guesses.
        threshold: least score of the predictions that are shown.
        trained_on: the store that the run names, for a note if it was moved.
    """
    split = store.split("train")
    readable = np.zeros(len(split), dtype=bool)
    readable[split.readable] = True
    order = most_drawn(examples)
    order = order[readable[order]]
    if not len(order):
        raise InputError(f"{run} drew no example that can be read from {store.uri}")
    wrong, faults = split.wrong_examples(), split.known_faults()
    shown = order[:top]
    counts = examples["draw_count"].to_numpy()[order]
    return Sheet(
        run=run,
        store=store.uri,
        trained_on=trained_on,
        demo=store.meta.demo,
        examples=int(readable.sum()),
        drawn=len(order),
        equally_drawn=bool((counts == counts[0]).all()),
        threshold=None if detector is None else threshold,
        cards=list(_cards(examples, store, shown, detector, threshold, faults)),
        wrong_share=None if wrong is None else float(wrong[readable].mean()),
        precision=[] if wrong is None else [
            (k, precision_at(k, order, wrong)) for k in sorted({min(k, len(order)) for k in (THESIS_K, top)})
        ],
    )  # fmt: skip


def _cards(
    examples: pd.DataFrame,
    store: CropStore,
    shown: np.ndarray,
    detector: DetectorModel | None,
    threshold: float,
    faults: list[Fault] | None,
) -> Iterator[Card]:
    """Yield a card for each of the examples shown, in their order."""
    split, names = store.split("train"), ("don't care", *store.meta.class_names)
    rows = split.annotations()
    for start in range(0, len(shown), BATCH):
        batch = shown[start : start + BATCH]
        images = [_decode(data) for data in split.read_encoded(batch)]
        predictions = _predict(detector, threshold, images, store.meta.crop_size)
        for place, (index, image, predicted) in enumerate(zip(batch.tolist(), images, predictions, strict=True)):
            boxes, labels, dont_care = rows.boxes[index], rows.labels[index], rows.dont_care[index]
            guesses = [] if predicted is None else guess_problems(*predicted, boxes, labels, dont_care)
            known = None if faults is None else [fault for fault in faults if fault.index == index]
            row = examples.iloc[index]
            size = store.meta.crop_size if image is None else (image.shape[0], image.shape[1])
            yield Card(
                rank=start + place + 1,
                index=index,
                frame_id=rows.frame_ids[index],
                tile=None if store.meta.tiles == (1, 1) else (int(rows.tiles[index, 0]), int(rows.tiles[index, 1])),
                draw_count=int(row["draw_count"]),
                mean_importance=float(row["mean_importance"]),
                margin=float(row["margin"]),
                size=size,
                picture=None if image is None else _data_uri(image),
                objects=len(labels),
                marks=place_words(_marks(boxes, labels, dont_care, predicted, guesses, known or [], names), size),
                findings=[_finding(guess, predicted, labels, names) for guess in guesses if predicted is not None],
                faults=None if known is None else [_fault_words(fault) for fault in known],
            )


def _marks(
    boxes: np.ndarray,
    labels: np.ndarray,
    dont_care: np.ndarray,
    predicted: Prediction | None,
    guesses: Sequence[Guess],
    faults: Sequence[Fault],
    names: Sequence[str],
) -> list[Mark]:
    """Return every box to draw: annotated ones, predictions, known label errors."""
    marks = [
        _mark(box, names[label], "dont-care" if unclear else "truth")
        for box, label, unclear in zip(boxes, labels, dont_care, strict=True)
    ]
    contradicting = {guess.prediction for guess in guesses}
    for number, (box, label, score) in enumerate(zip(*(predicted or ((), (), ())), strict=True)):
        kind = "contradiction" if number in contradicting else "prediction"
        marks.append(_mark(box, f"{names[label]} {score:.2f}", kind))
    return marks + [_mark(np.array(fault.box), "", "fault") for fault in faults]


def _predict(
    detector: DetectorModel | None, threshold: float, images: Sequence[np.ndarray | None], crop_size: tuple[int, int]
) -> list[Prediction | None]:
    """Return the predictions above the display threshold of each image; None without an image or a detector."""
    if detector is None:
        return [None] * len(images)
    batch = torch.zeros(len(images), 3, *crop_size, dtype=torch.uint8)
    for place, image in zip(batch, images, strict=True):
        if image is not None:  # smaller crops lie top left on black, as in training
            place[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    with torch.inference_mode():
        found = detector.detect(batch)
    out: list[Prediction | None] = []
    for image, item in zip(images, found, strict=True):
        keep = item["scores"] >= threshold
        kept = tuple(item[name][keep].numpy() for name in ("boxes", "labels", "scores"))
        out.append(None if image is None else (kept[0], kept[1], kept[2]))
    return out


def _decode(data: bytes) -> np.ndarray | None:
    """Return [H, W, 3] uint8 RGB; None for bytes that do not decode."""
    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


def _data_uri(image: np.ndarray) -> str:
    """Return the picture as a part of the page."""
    picture = Image.fromarray(image)
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, max(1, round(picture.height * WIDEST / picture.width))))
    return jpeg_uri(picture, JPEG_QUALITY)


def _mark(box: np.ndarray, words: str, kind: str) -> Mark:
    x0, y0, x1, y1 = (round(float(value), 2) for value in box)
    return Mark(x0, y0, round(x1 - x0, 2), round(y1 - y0, 2), words, kind)


def _fault_words(fault: Fault) -> str:
    return f"{fault.class_name} " + (
        "not annotated" if fault.annotated_as is None else f"annotated as {fault.annotated_as}"
    )


def _finding(guess: Guess, predicted: Prediction, labels: np.ndarray, names: Sequence[str]) -> Finding:
    seen = names[predicted[1][guess.prediction]]
    annotated = "" if guess.object is None else names[labels[guess.object]]
    words = {
        "overlooked": f"{seen} predicted ({guess.score:.2f}), nothing annotated there",
        "swapped": f"{seen} predicted ({guess.score:.2f}), annotated as {annotated}",
        "badly placed": f"{seen} predicted ({guess.score:.2f}), the annotated box overlaps it by IoU {guess.iou:.2f}",
    }[guess.problem]
    x0, y0, x1, y1 = predicted[0][guess.prediction].tolist()
    return Finding(guess.problem, words, guess.score, guess.iou, seen, annotated, (x0, y0, x1, y1))
