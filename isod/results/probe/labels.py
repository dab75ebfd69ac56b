"""What the labels of a store say by themselves: how rare each class is, and which boxes look wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from isod.data.store.crops import Annotations
from isod.data.store.split import CropSplit
from isod.evaluation.label_problems import box_ious
from isod.vocabulary import size_codes

THIN = 1.0  # pixels: a box whose shorter side is below has no area to learn from
LONG = 8.0  # times: a box whose longer side is more than that of its shorter one
TWICE = 0.9  # least IoU of two boxes of one crop that are taken for one box annotated twice
UNUSUAL = 4.0  # times: a box whose side √area is that far from its class's median, and …
SPREADS = 5.0  # … that many robust standard deviations of its logarithm
ENOUGH = 20  # whole boxes of a class, below which its usual size is not known
MEANINGS = {
    "no area": f"a side below {THIN:g} pixel",
    "extreme shape": f"one side more than {LONG:g} times the other, not cut by the crop's edge",
    "same box twice": f"two boxes of one class with IoU ≥ {TWICE:g}",
    "two classes on one box": f"two boxes of different classes with IoU ≥ {TWICE:g}",
    "unusual size": f"a side √area {UNUSUAL:g} times the class's median or 1/{UNUSUAL:g} of it, and {SPREADS:g} "
    "robust standard deviations off; not cut by the crop's edge",
}


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs."""

    name: str
    images: int  # training crops with it
    share: float  # f_c: these over all readable training crops
    objects: int
    small: int
    medium: int
    large: int
    val_images: int
    val_objects: int


@dataclass(frozen=True)
class Suspect:
    """One box that looks wrong by itself."""

    problem: str  # a key of MEANINGS
    index: int
    frame_id: str
    class_name: str
    box: tuple[float, float, float, float]  # xyxy, crop pixels


@dataclass(frozen=True)
class Boxes:
    """The objects of known class of all crops of a split, one crop after the other."""

    boxes: NDArray[np.float32]  # [K, 4] xyxy, crop pixels
    labels: NDArray[np.int64]  # [K], 1…C
    images: NDArray[np.int64]  # [K], index of the crop
    crop_sizes: NDArray[np.int64]  # [K, 2], (height, width) of it

    @classmethod
    def of(cls, rows: Annotations, crop_sizes: NDArray[np.int64]) -> Boxes:
        """Return the boxes of a split's annotations; ``crop_sizes`` is [N, 2]."""
        images = np.repeat(np.arange(len(rows.labels)), [len(item) for item in rows.labels])
        known = ~np.concatenate([np.zeros(0, bool), *rows.dont_care])
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *rows.boxes])[known]
        labels = np.concatenate([np.zeros(0, np.int64), *rows.labels])[known]
        return cls(boxes, labels, images[known], crop_sizes[images[known]])

    @property
    def sides(self) -> NDArray[np.float64]:
        """[K, 2], width and height, pixels."""
        return np.asarray(self.boxes[:, 2:] - self.boxes[:, :2], np.float64)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """[K], boxes that end at least a pixel inside of their crop, so that its edge does not cut them."""
        height, width = self.crop_sizes.T
        x0, y0, x1, y1 = self.boxes.T
        return (x0 >= 1) & (y0 >= 1) & (x1 <= width - 1) & (y1 <= height - 1)

    def images_with(self, label: int) -> int:
        """Return how many crops have the class."""
        return len(np.unique(self.images[self.labels == label]))


def count_classes(train: Boxes, val: Boxes | None, names: Sequence[str], readable: int) -> list[ClassCount]:
    """Return a row for each class, the rarest last.

    Args:
        val: of the validation split; None where the store has none.
        readable: number of training crops with an image.
    """
    codes = size_codes(train.boxes, train.crop_sizes)
    rows = []
    for label, name in enumerate(names, 1):
        mine = train.labels == label
        images = train.images_with(label)
        small, medium, large = np.bincount(codes[mine], minlength=3).tolist()
        rows.append(
            ClassCount(
                name=name,
                images=images,
                share=images / readable,
                objects=int(mine.sum()),
                small=small,
                medium=medium,
                large=large,
                val_images=0 if val is None else val.images_with(label),
                val_objects=0 if val is None else int((val.labels == label).sum()),
            )
        )
    return sorted(rows, key=lambda row: -row.images)


def find_suspects(found: Boxes, frame_ids: Sequence[str], names: Sequence[str]) -> dict[str, list[Suspect]]:
    """Return the boxes that look wrong, by problem; don't-care boxes are left out.

    Of two boxes that are one, the second is listed. Rules: ``MEANINGS``.
    """
    sides = found.sides
    shorter, longer = sides.min(1, initial=np.inf), sides.max(1, initial=0)
    thin = shorter < THIN
    long = ~thin & found.whole & (longer > LONG * shorter)
    same, mixed = _repeated(found)
    marks = dict(zip(MEANINGS, (thin, long, same, mixed, _unusual(found, thin)), strict=True))
    return {
        problem: [
            Suspect(
                problem=problem,
                index=int(found.images[k]),
                frame_id=frame_ids[found.images[k]],
                class_name=names[found.labels[k] - 1],
                box=tuple(round(float(value), 2) for value in found.boxes[k]),  # type: ignore[arg-type]
            )
            for k in np.flatnonzero(mask)
        ]
        for problem, mask in marks.items()
    }


def _repeated(found: Boxes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return [K] masks of boxes that an earlier box of the crop repeats, of the same class and of another one."""
    same, mixed = np.zeros(len(found.labels), bool), np.zeros(len(found.labels), bool)
    firsts = np.flatnonzero(np.diff(found.images, prepend=-1))
    for first, last in pairwise([*firsts, len(found.images)]):
        if last - first > 1:
            boxes, labels = found.boxes[first:last], found.labels[first:last]
            close = np.tril(box_ious(boxes, boxes) >= TWICE, -1)
            alike = labels[:, None] == labels
            same[first:last], mixed[first:last] = (close & alike).any(1), (close & ~alike).any(1)
    return same, mixed


def _unusual(found: Boxes, thin: NDArray[np.bool_]) -> NDArray[np.bool_]:
    unusual = np.zeros(len(found.labels), bool)
    side = np.log(np.maximum(found.sides, THIN)).sum(1) / 2  # log √area
    for label in np.unique(found.labels):
        mine = np.flatnonzero((found.labels == label) & found.whole & ~thin)
        if len(mine) >= ENOUGH:
            off = np.abs(side[mine] - np.median(side[mine]))
            spread = 1.4826 * np.median(off)  # of a normal distribution, its standard deviation
            unusual[mine] = off > max(np.log(UNUSUAL), SPREADS * spread)
    return unusual


def boxes_of(split: CropSplit) -> tuple[Boxes, list[str]]:
    """Return a split's boxes and the frame of each crop; reads no image."""
    rows = split.annotations()
    return Boxes.of(rows, split.sizes()), rows.frame_ids
