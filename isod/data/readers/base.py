"""What every dataset reader gives: frames in a stable order, each with an image file and the objects on it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

from isod.data.faults import Fault
from isod.data.objects import Objects
from isod.errors import InputError
from isod.vocabulary import Split


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
