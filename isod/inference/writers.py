"""What a prediction leaves on disk: annotated pictures, COCO's results json, YOLO's text files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from isod.files import atomic_write
from isod.inference.evaluation import coco_results
from isod.inference.marks import Mark, place_words
from isod.inference.sources import NamedFrame
from isod.inference.tiles import Detections

# Okabe and Ito's colours and others as bright, which show on dark and on light frames.
COLOURS = ("#56b4e9", "#ff9d1c", "#2fd26f", "#ff4fd8", "#f0e442", "#ff5a4d", "#b79cff", "#5ff0e0", "#c8a06a", "#ffffff")
WIDEST = 1280  # pixels: smaller frames are enlarged by a whole factor up to it, so that words have room
FONT = 1 / 85  # height of the words over the width of the picture
QUALITY = 90


class Writer(Protocol):
    """Receives the detections of one frame after the other."""

    def write(self, item: NamedFrame, found: Detections) -> None:
        """Receive those of one frame. Raises OSError if they cannot be written."""
        ...

    def close(self) -> None:
        """Write what belongs to all frames."""
        ...


class Pictures:
    """Annotated pictures, a JPEG for each frame."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self._folder, self._names = folder, class_names

    def write(self, item: NamedFrame, found: Detections) -> None:
        path = self._folder / f"{item.name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(item.frame.image.pixels, found, self._names).save(path, quality=QUALITY)

    def close(self) -> None: ...


class YoloText:
    """A text file for each frame, a line for each detection: class from 0, centre, width, height over the frame's."""

    def __init__(self, folder: Path, *, confidence: bool) -> None:
        self._folder, self._confidence = folder, confidence

    def write(self, item: NamedFrame, found: Detections) -> None:
        path = self._folder / f"{item.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = item.frame.image.size
        boxes = found.boxes / np.array([width, height] * 2)
        columns = [(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]]
        rows = np.hstack([*columns, found.scores[:, None]] if self._confidence else columns)
        lines = (
            f"{label - 1} " + " ".join(f"{value:.6f}" for value in row) + "\n"
            for label, row in zip(found.labels.tolist(), rows.tolist(), strict=True)
        )
        path.write_text("".join(lines), encoding="utf-8")

    def close(self) -> None: ...


class CocoJson:
    """One json in COCO's results format: image_id counts frames from 1, category_id classes, file_name names frames."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: list[dict[str, Any]] = []

    def write(self, item: NamedFrame, found: Detections) -> None:
        self._results += coco_results(item, found)

    def close(self) -> None:
        with atomic_write(self._path) as part:
            part.write_text(json.dumps(self._results) + "\n", encoding="utf-8")


def draw(pixels: np.ndarray, found: Detections, class_names: Sequence[str]) -> Image.Image:
    """Return a frame with its detections, and below it which colour is which class.

    A box whose words find no free place has none; its colour says the class.

    Args:
        pixels: [H, W, 3] uint8 RGB.
        found: boxes in pixels of the frame.
    """
    enlarged = max(1, WIDEST // pixels.shape[1])
    frame = Image.fromarray(np.ascontiguousarray(pixels))
    frame = frame.resize((frame.width * enlarged, frame.height * enlarged), Image.Resampling.BICUBIC)
    height = max(11.0, FONT * frame.width)
    font, thin = ImageFont.load_default(height), max(1, frame.width // 640)
    colours = [COLOURS[(label - 1) % len(COLOURS)] for label in found.labels]
    names = [_drawable(class_names[label - 1], label) for label in found.labels.tolist()]
    marks = [
        Mark(x0, y0, x1 - x0, y1 - y0, f"{name} {score:.2f}", "prediction")
        for (x0, y0, x1, y1), name, score in zip((found.boxes * enlarged).tolist(), names, found.scores, strict=True)
    ]
    marks = place_words(marks, (frame.height, frame.width), [height / frame.width])
    key = list(dict.fromkeys(sorted(zip(found.labels.tolist(), names, colours, strict=True))))
    lines = _wrapped([(name, colour, font.getlength(name) + 3.2 * height) for _, name, colour in key], frame.width)
    picture = Image.new("RGB", (frame.width, frame.height + round(1.7 * height * len(lines))), "#17191b")
    picture.paste(frame)
    pen = ImageDraw.Draw(picture)
    for mark, colour in zip(marks, colours, strict=True):
        pen.rectangle((mark.x, mark.y, mark.x + mark.width, mark.y + mark.height), outline=colour, width=thin)
    for mark, colour in zip(marks, colours, strict=True):
        if not mark.crowded:
            x0, y0, x1, _ = mark.area(height)
            at, anchor = ((x1, y0), "ra") if mark.right else ((x0, y0), "la")
            pen.text(
                at, mark.words, colour, font, anchor, stroke_width=max(1, round(height / 8)), stroke_fill="#111111"
            )
    y = frame.height + 0.35 * height
    for line in lines:
        x = height
        for name, colour, width in line:
            pen.rectangle((x, y, x + height, y + height), outline=colour, width=2)
            pen.text((x + 1.5 * height, y + height / 2), name, "#e8eaec", font, "lm")
            x += width
        y += 1.7 * height
    return picture


def _wrapped(entries: Sequence[tuple[str, str, float]], width: float) -> list[list[tuple[str, str, float]]]:
    """Return the entries of the key in lines that fit into a width, pixels."""
    lines: list[list[tuple[str, str, float]]] = []
    used = 0.0
    for entry in entries:
        if not lines or used + entry[2] > width:
            lines.append([])
            used = entry[2]  # the margin on the left is that of an entry on its right
        else:
            used += entry[2]
        lines[-1].append(entry)
    return lines


def _drawable(name: str, label: int) -> str:
    """Return a class name as PIL's own font can show it, or the number of the class."""
    try:
        name.encode("latin-1")
    except UnicodeEncodeError:
        return f"class {label}"
    return name
