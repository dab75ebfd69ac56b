"""What every dataset reader provides: frames in a stable order, each with an image file and the objects on it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

from isod.data.faults import Fault
from isod.data.objects import Annotation
from isod.errors import InputError
from isod.vocabulary import Split


class FrameError(Exception):
    """One frame cannot be used; the message says why. The frame becomes a lost row, and the job continues."""


# What an error number of opening a file says about this file: it is not there, or not for us. Any other one is about
# what lies below it, such as a share that went away or a limit that was reached, and may have passed a minute later.
OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM,
               errno.ENXIO)  # fmt: skip


def file_error(what: str, path: str, error: OSError) -> FrameError | InputError:
    """Return what to raise for a frame's file that cannot be read.

    It is a FrameError if the file itself is the cause, as with a bad sector below it while its folder can be read. It
    is an InputError, which stops the job, if other files may be affected too.

    Args:
        what: "its image", for example.
    """
    reason = error.strerror or error
    if error.errno in OF_THE_FILE or _can_be_listed(os.path.dirname(path)):
        return FrameError(f"{what} {path} cannot be read: {reason}")
    return InputError(
        f"{path} cannot be read ({reason}): fix that, or remove the file to continue without it, and run the same "
        "command again; finished chunks are kept"
    )


def _can_be_listed(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


class FrameRef(Protocol):
    """One frame, of which no file has been read yet. Small and picklable, as worker processes receive it.

    It may have one attribute more, ``sequence``, a text that names the sequence which the frame is part of.
    """

    @property
    def frame_id(self) -> str:
        """The dataset's own name of the frame; unique within a split."""
        ...

    @property
    def image_path(self) -> str:
        """The image file: JPEG, PNG, BMP, WebP, TIFF or PPM. "" if the dataset lists none; the frame is then lost."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the image that the annotation assumes, pixels; None if it does not say."""
        ...

    def objects(self) -> Annotation:
        """Return the frame's objects, boxes in pixels of the full image.

        Raises:
            FrameError: the annotation of this frame cannot be read. Any other exception stops the job.
        """
        ...


class Reader(Protocol):
    """A dataset, such as ``ZodReader`` or ``CocoReader``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 1…C, without the background; all different, and none of them "dont_care"."""
        ...

    @property
    def source(self) -> str:
        """The dataset's format: "zod", "coco", …"""
        ...

    @property
    def demo(self) -> bool:
        """Whether this is synthetic stand-in data. Every result from it then says so."""
        ...

    @property
    def settings(self) -> dict[str, object]:
        """What identifies the dataset (paths, version, …), in values that JSON can hold.

        The store records them. A job can only be resumed with the same ones.
        """
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the reader changed or left out of the annotations, a sentence each; the prepare report prints them."""
        ...

    def frames(self, split: Split) -> Sequence[FrameRef]:
        """Return the frames of a split, in an order that never changes: a frame's place in it is its index."""
        ...

    def known_faults(self, split: Split) -> list[Fault] | None:
        """Return the annotations of a split that are known to be wrong; None if nobody has counted them."""
        ...
