"""Regions of an image: cutting them out, and clipping the boxes of objects to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isod.data.objects import Annotation
from isod.errors import require


@dataclass(frozen=True)
class Region:
    """A rectangle of the full image, pixels; right and bottom are exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        require(
            0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1,
            "a region of interest is X0 Y0 X1 Y1 in pixels with 0 ≤ X0 < X1 and 0 ≤ Y0 < Y1",
            (self.x0, self.y0, self.x1, self.y1),
        )

    @property
    def width(self) -> int:
        """Width, pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Height, pixels."""
        return self.y1 - self.y0

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return a view of the region in an image [H, W, 3]: [height, width, 3], or less if the image ends before."""
        return image[self.y0 : self.y1, self.x0 : self.x1]

    def tiles(self, columns: int, rows: int) -> list[Region]:
        """Return columns × rows parts that fill the region without overlap, row by row from the top left.

        Sides that do not divide evenly differ by one pixel. Raises InputError if there are fewer pixels than parts.
        """
        require(
            1 <= columns <= self.width and 1 <= rows <= self.height,
            f"tiles of a region of {self.width}×{self.height} pixels must be at least 1×1 and no more than its pixels",
            (columns, rows),
        )
        xs = [self.x0 + self.width * c // columns for c in range(columns + 1)]
        ys = [self.y0 + self.height * r // rows for r in range(rows + 1)]
        return [Region(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(rows) for c in range(columns)]


# The far region of ZOD's 3848×2168 frames, 1280×384 and centred: the middle third by the middle sixth (thesis §4.4).
FAR = Region(1284, 892, 2564, 1276)


def clip(objects: Annotation, region: Region, min_visible: float) -> Annotation:
    """Move objects into a region's own pixels: clip the boxes to it and drop those that keep too little.

    An object stays if (area inside the region) / (area of its box) ≥ ``min_visible`` and something of it is inside.
    The order of the objects does not change.

    Args:
        objects: n objects in full-image pixels, boxes of positive area.
        min_visible: share of the box's area, 0…1; 0 keeps whatever touches the region.
    Returns:
        m ≤ n objects, boxes in region pixels, 0 ≤ x ≤ width and 0 ≤ y ≤ height.
    """
    if len(objects) == 0:
        return objects
    offset = np.array([region.x0, region.y0, region.x0, region.y0], dtype=np.float32)
    limit = np.array([region.width, region.height, region.width, region.height], dtype=np.float32)
    clipped = np.clip(objects.boxes - offset, 0, limit)  # [n, 4]
    inside, full = areas(clipped), areas(objects.boxes)  # [n]
    keep = (inside > 0) & (inside >= min_visible * full)
    return Annotation(clipped, objects.labels, objects.dont_care)[keep]


def scale(objects: Annotation, scale_x: float, scale_y: float) -> Annotation:
    """Return the objects of an image that is resized by these factors."""
    factors = np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)
    return Annotation(objects.boxes * factors, objects.labels, objects.dont_care)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas [n] in pixels² of boxes [n, 4] xyxy; 0 where a side is not positive."""
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]
