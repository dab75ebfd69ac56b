"""The objects of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Objects:
    """The objects of one frame or crop, n of them."""

    boxes: np.ndarray  # [n, 4] float32, xyxy, pixels
    labels: np.ndarray  # [n] int64, 1…C; 0 for a don't-care object, whose class is unknown
    dont_care: np.ndarray  # [n] bool

    @classmethod
    def build(cls, boxes: Sequence[Sequence[float]], labels: Sequence[int], dont_care: Sequence[bool]) -> Objects:
        """Fresh arrays of the right type and shape from lists or arrays, also from empty ones."""
        return cls(
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.array(labels, dtype=np.int64).reshape(-1),
            dont_care=np.array(dont_care, dtype=bool).reshape(-1),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: np.ndarray) -> Objects:
        """The objects that a mask or an index array selects."""
        return Objects(self.boxes[keep], self.labels[keep], self.dont_care[keep])
