"""The contact sheet of the most drawn examples: one HTML page that stands alone, and a CSV for annotators."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import simplejpeg
import torch
from PIL import Image

import isod
from isod.config import DetectorConfig
from isod.data.dataset import Fault
from isod.data.store import CropStore
from isod.detector import Detector, detect
from isod.errors import InputError
from isod.evaluation.label_problems import PROBLEMS, Guess, guess_problems, precision_at

NONE_SEEN = "none seen"  # the guess where the predictions contradict no label
MEANINGS = {
    "overlooked": "an object predicted where nothing is annotated",
    "swapped": "an object predicted where one of another class is annotated",
    "badly placed": "the annotated class predicted, with a box that overlaps the annotated one by less than half",
    NONE_SEEN: "the predictions contradict no label",
}
THESIS_K = 100  # how many examples the thesis looked at (§6.1.1)
BATCH = 16  # crops that go through the network at once
WIDEST = 960  # pixels of a picture in the page: 500 of them stay below some 30 MB
JPEG_QUALITY = 80


Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes [n, 4] xyxy crop pixels, labels [n], scores [n]


@dataclass(frozen=True)
class Mark:
    """A box as the page draws it."""

    x: float  # crop pixels, as are y, width and height
    y: float
    width: float
    height: float
    words: str
    kind: str  # truth, dont-care, prediction, contradiction (one that a guess rests on) or fault

    def text_y(self, size: tuple[int, int]) -> float:
        """Baseline of the words in a crop of (height, width): above the box for labels, below it for what is guessed.

        Where there is no room, on the other side; inside, where a box fills the crop.
        """
        line = size[1] / 36  # the page's font size
        above, below = self.y - 0.25 * line, self.y + self.height + 0.95 * line
        first, second = (below, above) if self.kind in ("prediction", "contradiction") else (above, below)
        for y in (first, second):
            if 0.8 * line <= y <= size[0] - 0.2 * line:
                return round(y, 2)
        return round(self.y + self.height - 0.3 * line, 2)

    def ends_right(self, size: tuple[int, int]) -> bool:
        """Whether the words end at the right side of the box, as they would leave the crop otherwise."""
        return self.x + 0.6 * size[1] / 36 * len(self.words) > size[1]


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
    faults: list[str] | None  # label errors that the store knows, in words; None where it does not know

    @property
    def problems(self) -> list[str]:
        """Every kind of guess that it has, or that there is none."""
        return [p for p in PROBLEMS if p in {finding.problem for finding in self.findings}] or [NONE_SEEN]

    @property
    def guess(self) -> str:
        """The most confident finding's problem."""
        return self.findings[0].problem if self.findings else NONE_SEEN


@dataclass(frozen=True)
class Sheet:
    """Everything that the page, the CSV and the terminal say."""

    run: str  # "UIS-seed0 of thesis-grid"
    store: str
    demo: bool
    examples: int  # readable ones of the train split
    drawn: int  # how many of them were drawn at least once
    alike: bool  # whether all drawn ones were drawn equally often
    threshold: float | None  # least score of the predictions shown; None without predictions
    cards: list[Card]
    wrong_share: float | None  # of all readable examples; None where the store does not know its label errors
    precision: list[tuple[int, float]]  # k → share of the k most drawn with a label error; empty where not known

    @property
    def tally(self) -> list[tuple[str, int, int]]:
        """(guess, cards that have one, those of them with a known label error); empty without predictions."""
        if self.threshold is None:
            return []
        groups = [(p, [card for card in self.cards if p in card.problems]) for p in (*PROBLEMS, NONE_SEEN)]
        return [(name, len(cards), sum(bool(card.faults) for card in cards)) for name, cards in groups]


def most_drawn(examples: pd.DataFrame) -> np.ndarray:
    """Rows of examples.parquet that were drawn at all: the most drawn first, of equals the more important."""
    importance = examples["mean_importance"].fillna(-np.inf).to_numpy()
    order = np.lexsort((examples["index"], -importance, -examples["draw_count"].to_numpy()))
    return order[examples["draw_count"].to_numpy()[order] > 0]


def make_sheet(
    run: str, examples: pd.DataFrame, store: CropStore, detector: Detector | None, config: DetectorConfig, *, top: int
) -> Sheet:
    """Read the ``top`` most drawn examples, let the detector look at them, and compare it with their labels.

    Args:
        examples: one row per row of the store's train split, in its order, with a column ``margin``.
        detector: in evaluation mode; None leaves out predictions and guesses.
    """
    split = store.split("train")
    readable = np.zeros(len(split), dtype=bool)
    readable[split.readable] = True
    order = most_drawn(examples)
    order = order[readable[order]]
    if not len(order):
        raise InputError(f"{run} has drawn no example that {store.uri} can show")
    wrong, faults = split.wrong_examples(), split.known_faults()
    shown = order[:top]
    counts = examples["draw_count"].to_numpy()[order]
    return Sheet(
        run=run,
        store=store.uri,
        demo=store.meta.demo,
        examples=int(readable.sum()),
        drawn=len(order),
        alike=bool((counts == counts[0]).all()),
        threshold=None if detector is None else config.display_threshold,
        cards=list(_cards(examples, store, shown, detector, config, faults)),
        wrong_share=None if wrong is None else float(wrong[readable].mean()),
        precision=[] if wrong is None else [
            (k, precision_at(k, order, wrong)) for k in sorted({min(k, len(order)) for k in (THESIS_K, top)})
        ],
    )  # fmt: skip


def _cards(
    examples: pd.DataFrame,
    store: CropStore,
    shown: np.ndarray,
    detector: Detector | None,
    config: DetectorConfig,
    faults: list[Fault] | None,
) -> Iterator[Card]:
    """A card for each of the examples shown, in their order."""
    split, names = store.split("train"), ("don't care", *store.meta.class_names)
    rows = split.annotations()
    for start in range(0, len(shown), BATCH):
        batch = shown[start : start + BATCH]
        images = [_decode(data) for data in split.read_encoded(batch)]
        predictions = _predict(detector, config, images, store.meta.crop_size)
        for place, (index, image, predicted) in enumerate(zip(batch.tolist(), images, predictions, strict=True)):
            boxes, labels, dont_care = rows.boxes[index], rows.labels[index], rows.dont_care[index]
            guesses = [] if predicted is None else guess_problems(*predicted, boxes, labels, dont_care)
            known = None if faults is None else [fault for fault in faults if fault.index == index]
            row = examples.iloc[index]
            yield Card(
                rank=start + place + 1,
                index=index,
                frame_id=rows.frame_ids[index],
                tile=None if store.meta.tiles == (1, 1) else (int(rows.tiles[index, 0]), int(rows.tiles[index, 1])),
                draw_count=int(row["draw_count"]),
                mean_importance=float(row["mean_importance"]),
                margin=float(row["margin"]),
                size=store.meta.crop_size if image is None else (image.shape[0], image.shape[1]),
                picture=None if image is None else _data_uri(image),
                objects=len(labels),
                marks=_marks(boxes, labels, dont_care, predicted, guesses, known or [], names),
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
    """Every box to draw: annotated ones, predictions, label errors that the store knows."""
    marks = [
        _mark(box, names[label], "dont-care" if unclear else "truth")
        for box, label, unclear in zip(boxes, labels, dont_care, strict=True)
    ]
    contradicting = {guess.prediction for guess in guesses}
    for number, (box, label, score) in enumerate(zip(*(predicted or ((), (), ())), strict=True)):
        kind = "contradiction" if number in contradicting else "prediction"
        marks.append(_mark(box, f"{names[label]} {score:.2f}", kind))
    return marks + [_mark(np.array(fault.box), _fault_words(fault), "fault") for fault in faults]


def _predict(
    detector: Detector | None, config: DetectorConfig, images: Sequence[np.ndarray | None], crop_size: tuple[int, int]
) -> list[Prediction | None]:
    """What the detector shows to people on each image; None for one that did not decode, or without a detector."""
    if detector is None:
        return [None] * len(images)
    batch = torch.zeros(len(images), 3, *crop_size, dtype=torch.uint8)
    for place, image in zip(batch, images, strict=True):
        if image is not None:  # smaller crops lie top left on black, as in training
            place[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    with torch.inference_mode():
        logits, offsets = detector(batch)
        found = detect(logits, offsets, crop_size, config)
    out: list[Prediction | None] = []
    for image, item in zip(images, found, strict=True):
        keep = item["scores"] >= config.display_threshold
        kept = tuple(item[name][keep].numpy() for name in ("boxes", "labels", "scores"))
        out.append(None if image is None else (kept[0], kept[1], kept[2]))
    return out


def _decode(data: bytes) -> np.ndarray | None:
    """[H, W, 3] uint8 RGB; None for bytes that do not decode."""
    try:
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


def _data_uri(image: np.ndarray) -> str:
    """The picture as the page carries it."""
    picture = Image.fromarray(image)
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, max(1, round(picture.height * WIDEST / picture.width))))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _mark(box: np.ndarray, words: str, kind: str) -> Mark:
    x0, y0, x1, y1 = (round(float(value), 2) for value in box)
    return Mark(x0, y0, round(x1 - x0, 2), round(y1 - y0, 2), words, kind)


def _fault_words(fault: Fault) -> str:
    return (
        f"{fault.class_name} {'not annotated' if fault.annotated_as is None else f'annotated as {fault.annotated_as}'}"
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


def write_sheet(sheet: Sheet, out: Path) -> Path:
    """Write triage.html and triage.csv into a folder, which is made if need be; the path of the page.

    Raises InputError if the folder cannot be written.
    """
    page = render(sheet)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "triage.csv").open("w", newline="", encoding="utf-8") as file:
            lines = [_csv_line(sheet, card) for card in sheet.cards]
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        (out / "triage.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the sheet into {out}: {error.strerror or error}") from error
    return out / "triage.html"


def _csv_line(sheet: Sheet, card: Card) -> dict[str, object]:
    """One row of triage.csv; the columns of the guess are empty where there is none."""
    first = card.findings[0] if card.findings else None
    x0, y0, x1, y1 = (round(value, 1) for value in first.box) if first else ("",) * 4
    line: dict[str, object] = {
        "rank": card.rank,
        "index": card.index,
        "frame_id": _as_text(card.frame_id),
        "tile_column": "" if card.tile is None else card.tile[0],
        "tile_row": "" if card.tile is None else card.tile[1],
        "draw_count": card.draw_count,
        "mean_importance": f"{card.mean_importance:.6g}",
        "margin": "" if math.isnan(card.margin) else f"{card.margin:.6g}",
        "guess": "" if sheet.threshold is None else card.guess,
        "score": f"{first.score:.3f}" if first else "",
        "predicted_class": _as_text(first.predicted_class) if first else "",
        "annotated_class": _as_text(first.annotated_class) if first else "",
        "x0": x0, "y0": y0, "x1": x1, "y1": y1,
        "all_guesses": _as_text("; ".join(f"{f.problem}: {f.words}" for f in card.findings)),
    }  # fmt: skip
    if sheet.demo:
        line["demo_planted_error"] = "unknown" if card.faults is None else _as_text("; ".join(card.faults))
    return line


def _as_text(value: str) -> str:
    """A name from the data as a cell that no spreadsheet takes for a formula."""
    return "'" + value if value[:1] in tuple("=+-@\t\r") and value else value


def summary(sheet: Sheet) -> str:
    """What the terminal says."""
    lines = [lead(sheet)]
    if sheet.threshold is None:
        lines.append("The run left no model.pt, so there are no predictions and no guesses.")
    else:
        width = max(len(name) for name, _, _ in sheet.tally)
        known = sheet.wrong_share is not None
        lines.append(f"{'guess'.ljust(width)}  examples" + ("  of them with a planted error" if known else ""))
        lines += [f"{name.ljust(width)}  {cards:>8}" + (f"  {wrong:>28}" if known else "")
                  for name, cards, wrong in sheet.tally]  # fmt: skip
    return "\n".join([*lines, *precision_lines(sheet)])


def lead(sheet: Sheet) -> str:
    """Which examples these are, in a sentence."""
    data = "demo data, a synthetic stand-in" if sheet.demo else ""
    of = f"{sheet.drawn} that were drawn, {sheet.examples} in all" if sheet.drawn < sheet.examples else sheet.examples
    equal = "; all were drawn equally often, so these have the highest mean importance" if sheet.alike else ""
    return f"The {len(sheet.cards)} most drawn examples of {sheet.run} (of {of}{equal})" + (f", {data}" if data else "")


def precision_lines(sheet: Sheet) -> list[str]:
    """How many of the most drawn examples have a label error that is known, beside chance; empty if none is known."""
    if sheet.wrong_share is None:
        return []
    at = ", ".join(f"{value:.0%} of the {k} most drawn examples" for k, value in sheet.precision).replace("%", " %")
    return [f"Planted label errors (demo data): {at}, {100 * sheet.wrong_share:.1f} % of all."]


def render(sheet: Sheet) -> str:
    """The page."""
    template = resources.files("isod.results").joinpath("triage.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"short": short, "number": lambda value: "" if math.isnan(value) else repr(float(value))}
    return environment.from_string(template).render(
        sheet=sheet,
        lead=lead(sheet),
        precision=precision_lines(sheet),
        meanings=MEANINGS,
        version=isod.__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def short(value: float) -> str:
    """Three digits; a dash for what there is not."""
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−")
