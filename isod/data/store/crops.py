"""Crops as they come out of a store, decoded or not."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.fs
import simplejpeg

from isod.data.objects import Annotation

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Crops:
    """B crops with their objects. Crops smaller than the store's crop_size lie top left on black."""

    indices: np.ndarray  # [B] int64
    images: np.ndarray  # [B, H, W, 3] uint8, RGB; if not decoded yet, [B, L] uint8: JPEG files, zeros behind their ends
    boxes: list[np.ndarray]  # B × [n, 4] float32, xyxy, crop pixels
    labels: list[np.ndarray]  # B × [n] int64, 1…C; 0 for don't-care
    dont_care: list[np.ndarray]  # B × [n] bool
    unreadable: np.ndarray  # [B] bool; crops that did not decode and were let through, black and without objects

    def quarantined(self, mask: np.ndarray) -> Crops:
        """The crops, those that a mask [B] names marked as unreadable and without objects; the images as they are."""
        boxes, labels, dont_care = (
            [of_one[:0] if bad else of_one for of_one, bad in zip(part, mask, strict=True)]
            for part in (self.boxes, self.labels, self.dont_care)
        )
        return replace(self, boxes=boxes, labels=labels, dont_care=dont_care, unreadable=mask)

    def without(self, mask: np.ndarray) -> Crops:
        """The crops that a mask [B] does not name."""
        keep = np.flatnonzero(~mask)
        boxes, labels, dont_care = ([part[i] for i in keep] for part in (self.boxes, self.labels, self.dont_care))
        return Crops(self.indices[keep], self.images[keep], boxes, labels, dont_care, self.unreadable[keep])


@dataclass(frozen=True)
class Annotations:
    """The objects of all N rows of a split, lost ones included (no objects), without images."""

    frame_ids: list[str]  # N; the tiles of a frame share it
    tiles: np.ndarray  # [N, 2] int64, (column, row) of the crop within its frame's tiles; 0, 0 without tiles
    boxes: list[np.ndarray]  # N × [n, 4] float32, xyxy, crop pixels
    labels: list[np.ndarray]  # N × [n] int64
    dont_care: list[np.ndarray]  # N × [n] bool


def decode_into(place: np.ndarray, data: bytes | memoryview | pa.Buffer) -> None:
    """Decode an RGB JPEG into the top left of ``place`` [H, W, 3] uint8; the rest of it becomes black.

    Raises:
        ValueError: it cannot; then anything may be in ``place``.
    """
    data = np.frombuffer(data, dtype=np.uint8)
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    if (height, width) == place.shape[:2]:
        simplejpeg.decode_jpeg(data, buffer=place)
    elif height <= place.shape[0] and width <= place.shape[1]:
        place[:height, :width] = simplejpeg.decode_jpeg(data)
        place[height:], place[:height, width:] = 0, 0
    else:
        raise ValueError(f"it has {width}×{height} pixels, more than the store's {place.shape[1]}×{place.shape[0]}")


def decode_all(
    files: Sequence[bytes | memoryview | pa.Buffer], size: tuple[int, int], threads: int = 1
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode RGB JPEGs as ``decode_into`` does.

    Args:
        size: (H, W), pixels.
        threads: how many decode at once.
    Returns:
        Images [B, H, W, 3] uint8; and position → reason of those that do not decode, in order, which are black.
    """
    images = np.empty((len(files), *size, 3), dtype=np.uint8)

    def fault(place: np.ndarray, file: bytes | memoryview | pa.Buffer) -> str | None:
        try:
            decode_into(place, file)
        except ValueError as error:
            place[...] = 0
            return str(error)
        return None

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            reasons = list(pool.map(fault, images, files))
    else:
        reasons = list(map(fault, images, files))
    return images, {position: reason for position, reason in enumerate(reasons) if reason is not None}


def _padded(files: Sequence[bytes | pa.Buffer]) -> np.ndarray:
    """[B, L] uint8: files one below the other, zeros behind their ends."""
    padded = np.zeros((len(files), max(map(len, files), default=0)), dtype=np.uint8)
    for place, file in zip(padded, files, strict=True):
        place[: len(file)] = np.frombuffer(file, dtype=np.uint8)
    return padded


def _objects(table: pa.Table, classes: int) -> list[Annotation]:
    """The objects of each row. Copies: arrays that Arrow owns are read-only. Raises ValueError if they are damaged."""
    boxes, labels, dont_care = (table[name].combine_chunks() for name in ("boxes", "labels", "dont_care"))
    numbers, marks, fours = (
        column.value_lengths().to_numpy(zero_copy_only=False) for column in (labels, dont_care, boxes)
    )
    values = labels.flatten().to_numpy()
    together = (marks == numbers).all() and (fours == 4 * numbers).all()
    if not together or values.min(initial=0) < 0 or values.max(initial=0) > classes:
        raise ValueError("a row's boxes, labels and don't-care marks do not belong together")
    return [
        Annotation.build(b.values.to_numpy(), n.values.to_numpy(), d.values.to_numpy(zero_copy_only=False))
        for b, n, d in zip(boxes, labels, dont_care, strict=True)
    ]
