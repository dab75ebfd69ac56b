"""From a whole frame to the crops that a model was trained on, and back: region of interest, tiles, resize, seams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isod.data.prepare.crop import Frame, crop_geometry, crop_pixels, crop_regions
from isod.data.prepare.region import Region
from isod.data.prepare.settings import PrepareSettings
from isod.errors import InputError

AT_SEAM = 4.0  # pixels of the crop: a box that ends this near to a seam may continue behind it
SAME_SPAN = 0.5  # least IoU, along the seam, of two boxes that are the halves of one object


@dataclass(frozen=True)
class Detections:
    """The n detections of one frame, highest score first."""

    boxes: np.ndarray  # [n, 4] float32, xyxy, pixels of the whole frame
    scores: np.ndarray  # [n] float32, 0…1
    labels: np.ndarray  # [n] int64, 1…C

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: np.ndarray | slice) -> Detections:
        """Return the detections that a mask, an index array or a slice selects."""
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])


@dataclass(frozen=True)
class Crop:
    """A part of a frame, as the network sees it."""

    pixels: np.ndarray  # [h, w, 3] uint8
    region: Region  # of the frame, pixels
    tile: tuple[int, int]  # (column, row) within the frame's tiles

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the crop per pixel of the frame, (x, y)."""
        return self.pixels.shape[1] / self.region.width, self.pixels.shape[0] / self.region.height

    def in_frame(self, found: Detections) -> Detections:
        """Return detections of the crop in pixels of the frame."""
        factors = np.array(self.scale * 2, np.float32)
        offset = np.array([self.region.x0, self.region.y0] * 2, np.float32)
        return Detections(found.boxes / factors + offset, found.scores, found.labels)


def preparation_settings(preparation: Mapping[str, Any]) -> PrepareSettings:
    """Return the settings by which the crops that a model was trained on were cut.

    Args:
        preparation: of model.json; without ``min_visible`` or ``exif``, which isod did not always write, that is the
            default's.
    Raises:
        InputError: it says no such thing.
    """
    roi, tiles, resize, visible = (preparation.get(name) for name in ("roi", "tiles", "resize", "min_visible"))
    try:
        return PrepareSettings(
            roi=None if roi is None else Region(*roi),
            tiles=None if tiles is None else (tiles[0], tiles[1]),
            resize=None if resize is None else (resize[0], resize[1]),
            min_visible=PrepareSettings.min_visible if visible is None else visible,
            exif=preparation.get("exif") or PrepareSettings.exif,
        )
    except (TypeError, IndexError, KeyError):
        raise InputError(f"model.json has the preparation {dict(preparation)!r:.200}, which is damaged") from None


def cut(frame: Frame, settings: PrepareSettings) -> list[Crop]:
    """Return the crops of a frame, as `isod prepare` cuts them, but not encoded again.

    A tile that lies outside the frame is left out.

    Raises:
        FrameError: the frame ends before the region of interest, or has fewer pixels than tiles.
    """
    columns, _ = settings.tiles or (1, 1)
    height, width = frame.image.size
    crops = []
    for number, region in enumerate(crop_regions(frame, settings)):
        if number and not (region.x0 < width and region.y0 < height):
            continue
        pixels = crop_pixels(frame, region, settings)
        seen, _ = crop_geometry(region, frame.image.size, settings)
        crops.append(Crop(pixels, seen, (number % columns, number // columns)))
    return crops


def join(crops: Sequence[Crop], found: Sequence[Detections]) -> Detections:
    """Return the detections of a frame, highest score first, with those that a seam between tiles cuts made whole.

    Two detections of one class on the two sides of a seam become one if both end at the seam (within ``AT_SEAM`` pixels
    of their crop) and cover the same stretch of it (IoU ≥ ``SAME_SPAN`` along the seam). Each has at most one partner
    at each seam, the one with the most similar stretch. The whole has the box around its parts and their highest score.

    Args:
        crops: of the frame.
        found: of each crop, in its pixels.
    """
    parts = [crop.in_frame(item) for crop, item in zip(crops, found, strict=True)]
    whole = Detections(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("boxes", "scores", "labels")))
    starts = np.cumsum([0, *map(len, parts)])
    place = {crop.tile: number for number, crop in enumerate(crops)}
    group = np.arange(len(whole))
    for crop, number in ((crop, place[crop.tile]) for crop in crops):
        for axis, step in ((0, (1, 0)), (1, (0, 1))):
            other = place.get((crop.tile[0] + step[0], crop.tile[1] + step[1]))
            if other is None:
                continue
            margin = AT_SEAM / crop.scale[axis], AT_SEAM / crops[other].scale[axis]
            seam = crop.region.x1 if axis == 0 else crop.region.y1
            for a, b in _halves(parts[number], parts[other], axis, seam, margin):
                one, two = group[starts[number] + a], group[starts[other] + b]
                group[group == max(one, two)] = min(one, two)
    kept = np.unique(group)
    if len(kept) < len(whole):
        members = [np.flatnonzero(group == first) for first in kept]
        whole = Detections(
            np.stack([np.r_[whole.boxes[m, :2].min(0), whole.boxes[m, 2:].max(0)] for m in members]),
            np.array([whole.scores[m].max() for m in members], np.float32),
            whole.labels[kept],
        )
    return whole[np.argsort(-whole.scores, kind="stable")]


def _halves(
    before: Detections, after: Detections, axis: int, seam: float, margin: tuple[float, float]
) -> list[tuple[int, int]]:
    """Return the pairs (detection before the seam, detection behind it) that are one object.

    Args:
        axis: 0 for a seam that x crosses, 1 for y.
        margin: pixels of the frame, before and behind the seam.
    """
    near = np.flatnonzero(before.boxes[:, 2 + axis] >= seam - margin[0])
    far = np.flatnonzero(after.boxes[:, axis] <= seam + margin[1])
    along = 1 - axis
    low, high = before.boxes[near][:, [along, 2 + along]].T[..., None]  # each [a, 1]
    low2, high2 = after.boxes[far][:, [along, 2 + along]].T[:, None]  # each [1, b]
    shared = np.maximum(np.minimum(high, high2) - np.maximum(low, low2), 0)
    iou = shared / np.maximum(np.maximum(high, high2) - np.minimum(low, low2), 1e-9)  # [a, b]
    iou[before.labels[near][:, None] != after.labels[far][None]] = 0
    pairs = []
    while iou.size and iou.max() >= SAME_SPAN:
        a, b = np.unravel_index(iou.argmax(), iou.shape)
        pairs.append((int(near[a]), int(far[b])))
        iou[a], iou[:, b] = 0, 0
    return pairs
