"""What every dataset reader gives: frames in a stable order, each with an image file and the objects on it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from isod.errors import InputError

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
FaultKind = Literal["wrong_class", "missing_box"]
DONT_CARE = "dont_care"  # what is counted with the classes and is none


class LostFrame(Exception):
    """One frame that cannot be used, and why; it keeps its index, and the job goes on."""


# What an error number of opening a file says of this file: it is not there, or not for us. Any other is of what lies
# below it, a share that went away or a limit that was reached, and may have passed a minute later.
OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM,
               errno.ENXIO)  # fmt: skip


def unreadable(what: str, path: str, error: OSError) -> LostFrame | InputError:
    """What to raise for a frame's file that cannot be read: the frame is lost if that is the file's own fault, as it is
    for a bad sector below it while its folder can be read.

    Args:
        what: "its image", say.
    """
    reason = error.strerror or error
    if error.errno in OF_THE_FILE or _can_be_listed(os.path.dirname(path)):
        return LostFrame(f"{what} {path} cannot be read: {reason}")
    return InputError(
        f"{path} cannot be read ({reason}): see to that, or take the file away to go on without it, and run the same "
        "command again; finished chunks are kept"
    )


def _can_be_listed(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


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


@dataclass(frozen=True)
class Fault:
    """One annotation that is known to be wrong, such as those planted in the demo data."""

    index: int  # place of its frame in the split; in a crop store, of its row
    kind: FaultKind
    box: tuple[float, float, float, float]  # of the object, xyxy, pixels of the full image; in a store, of the crop
    class_name: str  # what the object really is
    annotated_as: str | None  # what the annotation says; None: nothing

    @classmethod
    def from_entry(cls, index: int, entry: dict[str, Any]) -> Fault:
        """From an entry of the demo's truth file or of a store. Raises KeyError, TypeError or ValueError if damaged."""
        x0, y0, x1, y1 = map(float, entry["box"])
        return cls(index, entry["kind"], (x0, y0, x1, y1), entry["class"], entry["annotated_as"])


class FrameRef(Protocol):
    """One frame, before anything of it is read. Small and picklable: the prepare job sends it to its workers."""

    @property
    def frame_id(self) -> str:
        """The dataset's own name of the frame; unique within a split."""
        ...

    @property
    def image_path(self) -> str:
        """The image file."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that the annotations speak of, pixels; None if they do not say."""
        ...

    def objects(self) -> Objects:
        """Objects in full-image pixels. Raises LostFrame where the annotation cannot be read."""
        ...


class Reader(Protocol):
    """A dataset: ZodReader, CocoReader."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 1…C, without the background."""
        ...

    @property
    def source(self) -> str:
        """What kind of dataset it is: "zod" or "coco"."""
        ...

    @property
    def demo(self) -> bool:
        """Whether this is synthetic stand-in data, which every result must then say."""
        ...

    @property
    def settings(self) -> dict[str, object]:
        """Plain values that identify the dataset (paths, version, …): the store records them."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was made of annotations that are not as they should be; a sentence each."""
        ...

    def frames(self, split: Split) -> Sequence[FrameRef]:
        """The frames of a split, in an order that never changes: a frame's place in it is its index for life."""
        ...

    def known_faults(self, split: Split) -> list[Fault] | None:
        """The annotations of a split that are known to be wrong; None where nobody has counted them."""
        ...
