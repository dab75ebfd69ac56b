"""What a crop store is like, and whether a study of samplers is worth its cost: everything but the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.files import atomic_write
from isod.results.probe.ceilings import RULE, label_ceilings, verdict
from isod.results.probe.duplicates import MOST, Fingerprints, fingerprints, group_count, near_identical
from isod.results.probe.labels import ClassCount, Suspect, boxes_of, count_classes, find_suspects
from isod.results.probe.scores import GRADIENT, ScoreRow, Scores, most_steps, run_and_score, score_rows
from isod.training.examples import labels_of
from isod.version import source_commit

MANY_DUPLICATES = 0.05  # of the crops: above it, a note
FEW_OBJECTS = 20  # of a class in validation: below it, a note
NAMED = ("LIS", "UIS")  # scoring samplers that the sentence may name

Progress = Callable[[str, str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Duplicates:
    """Near-identical training crops, and validation crops that nearly are one of training."""

    compared: int
    repeats: int  # crops with an earlier one that is nearly the same
    pairs: list[tuple[int, int]]  # (earlier, later), indices of training crops
    val_compared: int
    leaks: int  # validation crops with a near-identical training crop
    leak_pairs: list[tuple[int, int]]  # (training, validation)


@dataclass(frozen=True)
class Sequences:
    """Training frames by the name of their sequence."""

    count: int
    frames: int
    longest: int
    effective: float  # (Σn)²/Σn²: equally long sequences that are as uneven


@dataclass(frozen=True)
class Probe:
    """What was found."""

    store: CropStore
    readable: int  # training crops
    lost: int
    empty: float  # share of the readable training crops without an object of known class
    val: int  # readable validation crops
    classes: list[ClassCount]  # the rarest last
    suspects: dict[str, list[Suspect]]  # by problem
    objects: int  # of known class in training
    duplicates: Duplicates
    sequences: Sequences
    label_ceilings: dict[str, tuple[float, float]]
    scores: Scores | None
    rows: list[ScoreRow]  # empty without training
    samplers: list[str]  # of a study, baseline and uniform left out; empty if it is not worth its cost
    sentence: str

    @property
    def notes(self) -> list[str]:
        """What else should be known before a study."""
        found, copies = [], self.duplicates
        if copies.compared and copies.repeats > MANY_DUPLICATES * copies.compared:
            found.append(
                f"{copies.repeats} of {copies.compared} training crops are nearly the same picture as an earlier one, "
                "or show the same scene without anything large in it."
            )
        if copies.leaks:
            found.append(
                f"{copies.leaks} of {copies.val_compared} validation crops are nearly the same picture as a training "
                "crop: look at them, as mAP would reward learning by heart."
            )
        rare = [row for row in self.classes if row.images and row.val_objects < FEW_OBJECTS]
        if rare and self.val:
            names = ", ".join(f"{row.name} ({row.val_objects})" for row in rare)
            found.append(f"Fewer than {FEW_OBJECTS} validation objects: {names}. Their AP, a part of mAP, is noise.")
        if unseen := [row.name for row in self.classes if row.val_objects and not row.images]:
            found.append(f"In validation only, so that no sampler can raise their AP: {', '.join(unseen)}.")
        if self.scores is not None and self.scores.last_loss > 0.9 * self.scores.first_loss:
            found.append("The short run's loss hardly fell, so its scores say little: give it more time (--minutes).")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything but pictures, for strict JSON: null for NaN."""
        scores = self.scores
        run = None if scores is None else {
            "steps": scores.steps, "batch_size": scores.batch_size, "first_loss": scores.first_loss,
            "last_loss": scores.last_loss, "seconds": scores.seconds, "scored": len(scores.indices),
        }  # fmt: skip
        content = {
            "store": self.store.uri,
            "contents": self.store.meta.contents,
            "demo": self.store.meta.demo,
            "commit": source_commit(),
            "sentence": self.sentence,
            "worth_a_study": bool(self.samplers),
            "samplers": self.samplers,
            "rule": RULE,
            "notes": self.notes,
            "crops": {"readable": self.readable, "lost": self.lost, "empty": self.empty, "val": self.val},
            "classes": [asdict(row) for row in self.classes],
            "suspect_boxes": {name: [asdict(item) for item in items] for name, items in self.suspects.items()},
            "duplicates": asdict(self.duplicates),
            "sequences": asdict(self.sequences),
            "label_only_ceilings": self.label_ceilings,
            "run": run,
            "scores": [asdict(row) for row in self.rows],
        }
        return _finite(content)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def probe_store(
    store: CropStore, *, seconds: float | None, device: torch.device, threads: int, progress: Progress
) -> Probe:
    """Look at a store's labels and pictures, train for a short while, and judge whether a study is worth its cost.

    Args:
        seconds: of training and scoring; None for neither.
        progress: given what is done, the unit, and how many there are, a context that yields a function to call with
            the number just done.
    Raises:
        InputError: no training crop can be read, or, with training, a split has no object; a damaged store.
    """
    split, names = store.split("train"), store.meta.class_names
    if not len(split.readable):
        raise InputError(f"the crop store {store.uri} has no training crop that can be read")
    val = store.split("val") if store.meta.rows.get("val") else None
    boxes, frame_ids = boxes_of(split)
    val_boxes = None if val is None else boxes_of(val)[0]
    labels = labels_of(split, split.readable)
    ceilings = label_ceilings(labels) if not labels.empty.all() else {"empties": (0.0, 0.0)}
    parts = [split] if val is None else [split, val]
    with progress("hashing", "crops", sum(min(len(part.readable), MOST) for part in parts)) as advance:
        train_prints, *val_prints = [fingerprints(part, advance=advance) for part in parts]
    duplicates = find_duplicates(train_prints, *val_prints)
    scores, rows = None, []
    if seconds is not None:
        with progress("training", "steps", most_steps(len(split.readable))) as advance:
            scores = run_and_score(store, labels, seconds=seconds, device=device, threads=threads, advance=advance)
        rows = score_rows(scores, labels)
    ess = {row.name: row.ess for row in rows}
    samplers, sentence = verdict(ceilings, ess.get(GRADIENT), {name: ess[name] for name in NAMED if name in ess})
    return Probe(
        store=store,
        readable=len(split.readable),
        lost=len(split.lost),
        empty=float(labels.empty[split.readable].mean()),
        val=0 if val is None else len(val.readable),
        classes=count_classes(boxes, val_boxes, names, len(split.readable)),
        suspects=find_suspects(boxes, frame_ids, names),
        objects=len(boxes.labels),
        duplicates=duplicates,
        sequences=count_sequences(labels.segments, store.meta.tiles[0] * store.meta.tiles[1]),
        label_ceilings=ceilings,
        scores=scores,
        rows=rows,
        samplers=samplers,
        sentence=sentence,
    )


def find_duplicates(train: Fingerprints, val: Fingerprints | None = None) -> Duplicates:
    """Return near-identical training crops, and validation crops that nearly are one of training."""

    def pairs(found: NDArray[np.int64], of: Fingerprints) -> list[tuple[int, int]]:
        here = np.flatnonzero(found >= 0)
        return list(zip(train.indices[found[here]].tolist(), of.indices[here].tolist(), strict=True))

    repeats = pairs(near_identical(train), train)
    leaks = [] if val is None else pairs(near_identical(val, train), val)
    compared = 0 if val is None else len(val.indices)
    return Duplicates(len(train.indices), len(repeats), repeats, compared, len(leaks), leaks)


def count_sequences(segments: NDArray[np.int64], tiles: int) -> Sequences:
    """Return how many training frames each sequence has.

    Args:
        segments: [N], number of the sequence of each crop; see ``isod.training.examples.labels_of``.
        tiles: crops of a frame.
    """
    sizes = np.unique(segments[::tiles], return_counts=True)[1]
    return Sequences(len(sizes), int(sizes.sum()), int(sizes.max()), group_count(sizes))


def write_json(probe: Probe, out: Path) -> None:
    """Write probe.json into a folder. Raises OSError if it cannot be written."""
    with atomic_write(out / "probe.json") as part:
        part.write_text(json.dumps(probe.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
