"""A probe as an HTML page without other files, and as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TypeVar

import jinja2
import numpy as np
import simplejpeg
from PIL import Image, ImageDraw

import isod
from isod.data.store.split import CropSplit
from isod.files import atomic_write
from isod.inference.writers import COLOURS
from isod.results.evaluation.page import text_table
from isod.results.photo import jpeg_uri
from isod.results.probe.ceilings import BETAS, DRAWS, RULE, percent
from isod.results.probe.figures import draws_figure, tail_figure
from isod.results.probe.labels import MEANINGS
from isod.results.probe.probe import Probe
from isod.results.report.fonts import missing_font
from isod.results.report.picture import picture_of
from isod.version import source_commit

SHOWN = 8  # pictures of a kind
WIDTH = 320  # pixels to which a smaller picture is enlarged by a whole factor
WIDEST = 640  # pixels to which a larger one is reduced
JPEG_QUALITY = 85
Item = TypeVar("Item")
BY_SCORE = ("LIS", "UIS", "class-max")  # whose highest-score crops are shown


@dataclass(frozen=True)
class Shot:
    """One crop with its boxes."""

    source: str  # data: URI; "" where it does not decode
    words: str


class Pictures:
    """The crops of a split with their boxes, for the page."""

    def __init__(self, split: CropSplit) -> None:
        self._split, self._rows = split, split.annotations()

    def shot(self, index: int, words: str, only: Sequence[float] | None = None) -> Shot:
        """Return a crop with all of its boxes, or with one that is marked.

        Args:
            words: below the picture, before the frame's name.
            only: xyxy, crop pixels.
        """
        tile = "" if self._split.meta.tiles == (1, 1) else " tile {},{}".format(*self._rows.tiles[index])
        words = f"{words} · {self._rows.frame_ids[index]}{tile}".removeprefix(" · ")
        try:
            image = simplejpeg.decode_jpeg(self._split.read_encoded([index])[0])
        except ValueError:
            return Shot("", words)
        boxes, labels = self._rows.boxes[index], np.where(self._rows.dont_care[index], 0, self._rows.labels[index])
        if only is not None:
            boxes, labels = np.array([only]), np.array([2])
        return Shot(crop_uri(image, boxes, labels), words)


def crop_uri(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> str:
    """Return a picture of a crop with its boxes as a part of the page.

    Args:
        image: [H, W, 3] uint8 RGB.
        boxes: [n, 4] xyxy, crop pixels; labels: [n], whose colours are ``COLOURS``, grey for 0.
    """
    frame = Image.fromarray(image)
    scale = max(1, -(-WIDTH // frame.width)) if frame.width < WIDEST else WIDEST / frame.width
    frame = frame.resize((max(1, round(frame.width * scale)), max(1, round(frame.height * scale))))
    pen = ImageDraw.Draw(frame)
    for box, label in zip(np.asarray(boxes) * scale, labels.tolist(), strict=True):
        x0, y0, x1, y1 = box.tolist()
        pen.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), width=2,
                      outline="#c9cdd1" if label == 0 else COLOURS[(label - 1) % len(COLOURS)])  # fmt: skip
    return jpeg_uri(frame, JPEG_QUALITY)


def class_table(probe: Probe) -> list[dict[str, str]]:
    """Return a row for each class, as text."""
    return [
        {
            "class": row.name,
            "crops": f"{row.images}",
            "of all": share(row.share),
            "objects": f"{row.objects}",
            "small": f"{row.small}",
            "medium": f"{row.medium}",
            "large": f"{row.large}",
            "val crops": f"{row.val_images}",
            "val objects": f"{row.val_objects}",
        }
        for row in probe.classes
    ]


def score_table(probe: Probe) -> list[dict[str, str]]:
    """Return a row for each sampler's scores, as text."""
    return [
        {
            "scores of": row.name,
            "ESS/N": number(row.ess),
            "1/ESS − 1": "–" if math.isnan(row.ceiling) else percent(row.ceiling),
            "with rarity": number(row.rarity),
            "draws without object": share(row.empty),
            "draws of top tenth": share(row.top_tenth),
        }
        for row in probe.rows
    ]


def ceiling_table(probe: Probe) -> list[dict[str, str]]:
    """Return a row for each label-only sampler, as text."""
    return [
        {"sampler": name, "ceiling": f"{percent(low)} … {percent(high)}"}
        for name, (low, high) in probe.label_ceilings.items()
    ]


def share(value: float) -> str:
    """Return a share as 12 % or 0.63 %."""
    return "–" if math.isnan(value) else f"{100 * value:.2g} %" if value < 0.0995 else f"{100 * value:.0f} %"


def number(value: float) -> str:
    """Return a number with two digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def crop_lines(probe: Probe) -> list[str]:
    """Return what the crops are like, a sentence each."""
    meta, copies, found = probe.store.meta, probe.duplicates, probe.sequences
    height, width = meta.crop_size
    lost = f" ({probe.lost} more lost)" if probe.lost else ""
    lines = [
        f"{probe.readable} training{lost} and {probe.val} validation crops of {width}×{height} pixels or less; "
        f"{share(probe.empty)} of the training crops have no object of known class.",
        f"Sequences by the frames' names: {found.count} of {found.frames} training frames, the longest of "
        f"{found.longest}; as uneven as {found.effective:.0f} equally long ones.",
        f"Near-duplicates: {copies.repeats} of {copies.compared} training crops have an earlier one that is nearly the "
        f"same picture; {copies.leaks} of {copies.val_compared} validation crops have one in training.",
    ]
    wrong = [f"{len(items)} {problem}" for problem, items in probe.suspects.items() if items]
    return [*lines, f"Boxes that look wrong, of {probe.objects}: {', '.join(wrong) or 'none'}."]


def run_line(probe: Probe) -> str:
    """Return what was trained and scored, in a sentence; "" without training."""
    run = probe.scores
    if run is None:
        return ""
    return (
        f"Short run: {run.steps} steps of {run.batch_size} crops, loss {run.first_loss:.3f} → {run.last_loss:.3f}; "
        f"{len(run.indices)} random training crops scored; {run.seconds:.0f} s."
    )


def summary(probe: Probe) -> str:
    """Return what is printed on the terminal."""
    parts = [text_table(class_table(probe)), "\n".join(crop_lines(probe))]
    if probe.rows:
        parts += [f"{run_line(probe)}\n{text_table(score_table(probe))}"]
    parts += [text_table(ceiling_table(probe)), "\n".join([*(f"note: {note}" for note in probe.notes), probe.sentence])]
    demo = ["DEMO data, synthetic and made by isod: this says nothing about real images."] * probe.store.meta.demo
    return "\n\n".join([*demo, *parts])


def write_page(probe: Probe, out: Path) -> Path:
    """Write probe.html into a folder and return its path. Raises OSError if it cannot be written."""
    template = resources.files("isod.results.probe").joinpath("probe.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    store = probe.store
    train = Pictures(store.split("train"))
    page = environment.from_string(template).render(
        probe=probe,
        title=Path(store.uri).name or store.uri,
        rule=RULE,
        lines=crop_lines(probe),
        classes=class_table(probe),
        tail=picture_of(tail_figure(probe)),
        colours=[
            (name, COLOURS[label % len(COLOURS)]) for label, name in enumerate(store.meta.class_names)
        ] + [("don't care", "#c9cdd1")],
        repeats=_pair_shots(probe.duplicates.pairs, train, train),
        leaks=_pair_shots(probe.duplicates.leak_pairs, train, Pictures(store.split("val")))
        if probe.duplicates.leaks else [],
        suspects=[
            (problem, MEANINGS[problem], len(items),
             [train.shot(item.index, item.class_name, item.box) for item in _spread(items)])
            for problem, items in probe.suspects.items()
        ],
        run=run_line(probe),
        scores=score_table(probe),
        draws=picture_of(draws_figure(probe.scores)) if probe.scores is not None else None,
        highest=[(name, _highest(probe, name, train)) for name in BY_SCORE if probe.scores is not None],
        ceilings=ceiling_table(probe),
        betas=BETAS,
        shown=SHOWN,
        budget=DRAWS,
        font=missing_font(store.meta.class_names),
        facts={
            "Store": store.uri,
            "Contents": store.meta.contents,
            "Preparation": ", ".join(
                f"{name} {value}" for name in ("roi", "tiles", "resize", "min_visible")
                if (value := store.meta.settings.get(name)) is not None
            ) or "none",
            "Commit": source_commit(),
        },
        version=isod.__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    with atomic_write(out / "probe.html") as part:
        part.write_text(page, encoding="utf-8")
    return out / "probe.html"


def _spread(items: Sequence[Item], most: int = SHOWN) -> list[Item]:
    """Return at most so many of the items, evenly spread."""
    return list(items[:: -(-len(items) // most) or 1])


def _pair_shots(pairs: Iterable[tuple[int, int]], first: Pictures, second: Pictures) -> list[tuple[Shot, Shot]]:
    return [(first.shot(a, ""), second.shot(b, "")) for a, b in _spread(list(pairs), SHOWN // 2)]


def _highest(probe: Probe, name: str, pictures: Pictures) -> list[Shot]:
    assert probe.scores is not None
    values = probe.scores.values[name]
    order = np.argsort(-values, kind="stable")[:SHOWN]
    mean = max(float(values.mean()), 1e-300)
    return [pictures.shot(int(probe.scores.indices[k]), f"{values[k] / mean:.1f} × mean") for k in order]
