"""Object sizes: which stratum a box belongs to, and how metric names say it."""

from __future__ import annotations

import numpy as np

SIZES = ("small", "medium", "large")
STRATA = ("all", *SIZES)  # stratum 0 holds every size, stratum 1 + size code the boxes of that size

SMALL_BELOW = 0.0033  # box area over crop area (spec §3); a box of exactly this share is medium
LARGE_ABOVE = 0.03  # a box of exactly this share is medium


def size_codes(boxes: np.ndarray, image_size: tuple[int, int] | np.ndarray) -> np.ndarray:
    """Size of each box by its share of the image's area.

    Args:
        boxes: [n, 4] xyxy, pixels.
        image_size: (H, W) of the image, pixels; or [n, 2] of each box's image.
    Returns:
        [n] uint8: 0 small, 1 medium, 2 large, the order of ``SIZES``.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    image_area = np.asarray(image_size, dtype=np.int64).prod(axis=-1)
    small, large = area < SMALL_BELOW * image_area, area > LARGE_ABOVE * image_area
    return np.where(small, 0, np.where(large, 2, 1)).astype(np.uint8)


def metric_key(name: str, stratum: int, class_name: str | None = None) -> str:
    """``metric_key("AP", 1, "Animal")`` is ``AP_small/Animal``; stratum 0 adds no suffix."""
    suffix = "" if stratum == 0 else f"_{STRATA[stratum]}"
    return f"{name}{suffix}" if class_name is None else f"{name}{suffix}/{class_name}"
