"""The annotated objects of one image; a batch of them is ``isod.objects``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Annotation:
    """The n objects of one frame or crop."""

    boxes: np.ndarray  # [n, 4] float32, xyxy, pixels
    labels: np.ndarray  # [n] int64, 1…C; 0 for a don't-care object, whose class is unknown
    dont_care: np.ndarray  # [n] bool
    remarks: Mapping[str, int] = field(default_factory=dict)  # what a reader did with the frame's boxes → how many

    @classmethod
    def build(cls, boxes: Sequence[Sequence[float]], labels: Sequence[int], dont_care: Sequence[bool]) -> Annotation:
        """Return an annotation with new arrays of the right type and shape; lists and arrays may be empty.

        Args:
            boxes: [n, 4] xyxy, pixels.
            labels: [n], 1…C; 0 for don't-care.
            dont_care: [n], whether the object's class is unknown: it counts neither for nor against a detector.
        """
        return cls(
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.array(labels, dtype=np.int64).reshape(-1),
            dont_care=np.array(dont_care, dtype=bool).reshape(-1),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: np.ndarray) -> Annotation:
        """Return the objects that a mask or an index array selects."""
        return Annotation(self.boxes[keep], self.labels[keep], self.dont_care[keep], self.remarks)
