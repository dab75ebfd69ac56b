"""Images in memory in which few are worth drawing: the planted problem (spec §11).

A bright, easy class is in 80 % of the training images. Three small, faint classes, bars that differ only in their
direction, are in 3 % of them, and in half of the validation images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isod.data.store.crops import Crops
from isod.data.store.meta import StoreMeta
from isod.objects import Objects

CLASS_NAMES = ("bright", "level", "upright", "diagonal")
HEIGHT, WIDTH = 64, 128  # pixels
BACKGROUND, NOISE = 100.0, 14.0  # grey level, and its standard deviation per pixel
BRIGHT_SHARE = 0.8  # of all images
BRIGHT_LIFT = 90.0  # grey levels above the background
BRIGHT_SIDES = (16, 32)  # pixels, least and largest height; twice as wide at most
RARE_SHARE = 0.03  # of the training images
FAINT_LIFT = 40.0  # grey levels between bars and background
FAINT_SIDES = (10, 16)  # pixels, least and largest
BAR = 3  # pixels, width of a bar and of the gap beside it
CHUNK = 1000  # images rendered at a time


@dataclass(frozen=True)
class PlantedSplit:
    """Grey images with their annotations; reads like isod.data.store.split.CropSplit."""

    images: NDArray[np.uint8]  # [N, H, W]
    boxes: list[NDArray[np.float32]]  # N × [n, 4] xyxy pixels
    labels: list[NDArray[np.int64]]  # N × [n], 1…4
    rare: NDArray[np.bool_]  # [N], whether a faint object was rendered, whatever the annotation says

    @property
    def readable(self) -> NDArray[np.int64]:
        """[N] every index, as nothing is lost here."""
        return np.arange(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def sizes(self) -> NDArray[np.int64]:
        """Return [N, 2] height and width of every image, pixels."""
        return np.tile(np.array([[HEIGHT, WIDTH]], dtype=np.int64), (len(self), 1))

    def read(
        self, indices: NDArray[np.int64], *, threads: int = 1, quarantine: bool = False, decode: bool = True
    ) -> Crops:
        """The images [B, H, W, 3] and objects, in the order asked for; no file is behind them that could be bad."""
        chosen = indices.tolist()
        return Crops(
            indices=indices,
            images=np.repeat(self.images[indices, :, :, None], 3, axis=3),
            objects=Objects.from_lists([self.boxes[i] for i in chosen], [self.labels[i] for i in chosen]),
            unreadable=np.zeros(len(chosen), dtype=bool),
        )


def planted_meta() -> StoreMeta:
    """Return the store.json that a crop store of these images would have."""
    return StoreMeta(class_names=CLASS_NAMES, crop_size=(HEIGHT, WIDTH), source="planted", demo=True, settings={},
                     rows={}, lost={}, counts={})  # fmt: skip


def render(count: int, *, rare_share: float = RARE_SHARE, seed: int) -> PlantedSplit:
    """Return ``count`` images, of which round(count · rare_share) hold one faint object. The same arguments give the
    same images."""
    rng = np.random.default_rng(seed)
    rare = np.zeros(count, dtype=bool)
    rare[rng.permutation(count)[: round(count * rare_share)]] = True
    images = np.empty((count, HEIGHT, WIDTH), dtype=np.uint8)
    boxes, labels = [], []
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        canvas = rng.standard_normal((stop - start, HEIGHT, WIDTH), dtype=np.float32) * NOISE + BACKGROUND
        for image, has_faint in zip(canvas, rare[start:stop], strict=True):
            found = []
            if rng.random() < BRIGHT_SHARE:
                side = int(rng.integers(BRIGHT_SIDES[0], BRIGHT_SIDES[1] + 1))
                found.append((_place(rng, side, int(rng.integers(side, 2 * side + 1))), 1))
                x0, y0, x1, y1 = found[0][0]
                image[y0:y1, x0:x1] += BRIGHT_LIFT
            if has_faint:
                height, width = rng.integers(FAINT_SIDES[0], FAINT_SIDES[1] + 1, size=2).tolist()
                x0, y0, x1, y1 = box = _place(rng, height, width)
                label = int(rng.integers(2, len(CLASS_NAMES) + 1))
                image[y0:y1, x0:x1] += FAINT_LIFT * _bars(label, height, width)
                found.append((box, label))
            boxes.append(np.array([box for box, _ in found], dtype=np.float32).reshape(-1, 4))
            labels.append(np.array([label for _, label in found], dtype=np.int64))
        images[start:stop] = canvas.clip(0, 255)
    return PlantedSplit(images, boxes, labels, rare)


def with_label_errors(split: PlantedSplit, *, swapped: float, missing: float, seed: int) -> PlantedSplit:
    """Return the split with wrong annotations: a share of its objects has another class, a share is missing.

    Args:
        swapped, missing: shares of the objects, 0…1, together at most 1.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    boxes, labels = [], []
    for box, label in zip(split.boxes, split.labels, strict=True):
        fate = rng.random(len(label))
        other = (label - 1 + rng.integers(1, len(CLASS_NAMES), size=len(label))) % len(CLASS_NAMES) + 1
        kept = fate >= missing
        boxes.append(box[kept])
        labels.append(np.where(fate < missing + swapped, other, label)[kept])
    return replace(split, boxes=boxes, labels=labels)


def _place(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Return a box of this size somewhere inside the image, xyxy, pixels."""
    x0, y0 = int(rng.integers(0, WIDTH - width + 1)), int(rng.integers(0, HEIGHT - height + 1))
    return x0, y0, x0 + width, y0 + height


def _bars(label: int, height: int, width: int) -> NDArray[np.float32]:
    """[height, width] of 1 on the bars and 0 between them; the class is their direction."""
    y, x = np.mgrid[:height, :width]
    along = {2: y, 3: x, 4: x + y}[label]
    return (along // BAR % 2 == 0).astype(np.float32)
