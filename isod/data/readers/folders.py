"""What readers of one label file per image share: finding the files, and boxes that are fitted to their image later."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from isod.data.objects import Annotation
from isod.errors import InputError
from isod.files import has_control_characters, read_file
from isod.vocabulary import DONT_CARE, SPLITS, Split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
MAX_LABELS = 2**26  # bytes of one image's labels
LONGEST = 200  # characters of the id of an image
MAX_LIST = 2**30  # bytes of a list of images
OVERHANG = 1.0  # pixels that a box may exceed its image by without being counted: boxes are often rounded
LEFT_OUT = "boxes left out, as none of their area is inside their image"
CLIPPED = "boxes clipped, as they reach beyond their image"


def fit_boxes(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip boxes to their image.

    Args:
        boxes: [n, 4] float64, xyxy, pixels.
        size: (height, width) of the image, pixels.
    Returns:
        The boxes [n, 4] float32; whether each keeps an area [n]; whether it reached more than ``OVERHANG`` beyond [n].
    """
    limit = np.array([size[1], size[0]] * 2, dtype=np.float64)
    beyond = (boxes[:, :2] < -OVERHANG).any(1) | (boxes[:, 2:] > limit[2:] + OVERHANG).any(1)
    fitted = np.clip(boxes, 0, limit).astype(np.float32)
    keep = (fitted[:, 0] < fitted[:, 2]) & (fitted[:, 1] < fitted[:, 3])
    return fitted, keep, beyond & keep


@dataclass(frozen=True)
class LabelledFrame:
    """An image and what its labels say of it. The boxes are fitted to the image once its size is known."""

    frame_id: str
    image_path: str
    boxes: np.ndarray  # [n, 4] float64, xyxy: pixels, or shares of the image
    labels: Sequence[int]  # [n], 1…C; 0 for don't-care
    size: tuple[int, int] | None = None  # (height, width), pixels, where the labels say it
    in_shares: bool = False
    told: bool = False  # whether the reader's notes tell what is done with the boxes
    sequence: str = ""  # name of the sequence that the image is part of; "" if the labels do not say

    def objects(self) -> Annotation:
        """Return the objects. Reads the image's header where the labels do not say its size."""
        from isod.data.prepare.decode import image_size

        return self.objects_in(self.size or image_size(self.image_path))

    def objects_in(self, size: tuple[int, int]) -> Annotation:
        """Return the objects in an image of (height, width) pixels: clipped to it, without those that have no area."""
        boxes = self.boxes * np.array([size[1], size[0]] * 2) if self.in_shares else self.boxes
        fitted, keep, clipped = fit_boxes(boxes, size)
        labels = np.array(self.labels, dtype=np.int64).reshape(-1)
        counts = {LEFT_OUT: int((~keep).sum()), CLIPPED: int(clipped.sum())}
        remarks = {what: count for what, count in counts.items() if count}
        return Annotation(fitted, labels, labels == 0, remarks)[keep]


@dataclass(frozen=True)
class LabelledBox:
    """One object as a label file has it, before the classes have numbers."""

    box: tuple[float, float, float, float]  # xyxy
    class_name: str
    dont_care: bool = False


@dataclass
class Labels:
    """The labels of one image, and its place."""

    frame_id: str
    image_path: str
    boxes: list[LabelledBox] = field(default_factory=list)
    size: tuple[int, int] | None = None

    def frame(self, labels: dict[str, int], *, in_shares: bool = False) -> LabelledFrame:
        """Number the classes; one that has no number is don't-care."""
        boxes = np.array([item.box for item in self.boxes], dtype=np.float64).reshape(-1, 4)
        numbers = [0 if item.dont_care else labels.get(item.class_name, 0) for item in self.boxes]
        return LabelledFrame(self.frame_id, self.image_path, boxes, numbers, self.size, in_shares)


class LabelFile:
    """A text file of labels, for messages that name the file and the line."""

    def __init__(self, path: Path, digest: Any, limit: int = MAX_LABELS) -> None:
        """Read it, and add its bytes to the dataset's digest. Raises InputError if it cannot be read."""
        self.path = path
        try:
            self.data = read_file(path, limit)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error}): make it readable") from None
        except ValueError as error:
            raise InputError(f"{path} {error}") from None
        digest.update(hashlib.sha256(self.data).digest())

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number from 1, words) of each line that is not blank."""
        for number, line in enumerate(self.lines(), 1):
            if words := line.split():
                yield number, words

    def lines(self) -> list[str]:
        """Return the lines. Raises InputError unless the file is UTF-8 text."""
        try:
            return self.data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            line = self.data[: error.start].count(b"\n") + 1
            self.fail(line, "it is not UTF-8 text", "Save the file as UTF-8.")

    def numbers(self, line: int, words: Sequence[str]) -> list[float]:
        """Parse finite numbers."""
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = [float("nan")]
        if not np.isfinite(values).all():
            self.fail(line, f"{' '.join(words)!r:.100} is not {len(words)} finite numbers", "Correct the line.")
        return values

    def fail(self, line: int | None, problem: str, remedy: str) -> NoReturn:
        """Raise an InputError that names the file and the line."""
        where = f"{self.path}" if line is None else f"{self.path}, line {line}"
        raise InputError(f"{where}: {problem}. {remedy}")


class FolderReader:
    """Frames whose label files are read at once; a base class for readers of such formats."""

    source = ""
    demo = False

    def __init__(self) -> None:
        self.class_names: tuple[str, ...] = ()
        self.notes: list[str] = []
        self._digest = hashlib.sha256()
        self._frames: dict[Split, list[LabelledFrame]] = {split: [] for split in SPLITS}
        self._settings: dict[str, object] = {}

    @property
    def settings(self) -> dict[str, object]:
        """Paths and options, and the SHA-256 of all labels."""
        return {**self._settings, "sha256": self._digest.hexdigest()}

    def frames(self, split: Split) -> list[LabelledFrame]:
        """Return the images of a split, sorted by their names."""
        return self._frames[split]

    def known_faults(self, split: Split) -> None:
        """Return None: the format has no place for known faults."""
        return None

    def _note(self, text: str, found: Sequence[object], root: object) -> None:
        """Tell how many there are of something, if any."""
        if found:
            self.notes.append(f"note: {root}: {text}: {len(found)}, the first is {found[0]}")

    def _pairs(
        self,
        split: str,
        folder: Path,
        image_folder: Path,
        label_folder: Path,
        endings: tuple[str, str],
        ids: Sequence[str] | None,
        follow_links: bool,
    ) -> Iterator[tuple[Labels, LabelFile | None]]:
        """Yield each image of a folder, or each that is listed, with its label file, sorted by name.

        Args:
            folder: that holds the two, for messages.
            endings: of an image that is listed and not there, and of the label files.
            ids: names without ending; None: all images.
        Raises:
            InputError: no image is there, or none has labels.
        """
        images = images_by_stem(image_folder, follow_links=follow_links)
        labelled = set(names_in(label_folder, endings[1]))
        if ids is None:
            self._note(f"{split} label files without an image, which are not used", sorted(labelled - images.keys()),
                       folder)  # fmt: skip
        names = sorted(images if ids is None else ids)
        if not names:
            raise InputError(f"there is no image in {image_folder}. Name the folder that holds the dataset.")
        if not labelled.intersection(names):
            raise InputError(
                f"none of the {len(names)} {split} images of {image_folder} has a label file; the first one looked for "
                f"is {label_folder / names[0]}{endings[1]}. Put them there."
            )
        if not images.keys() & set(names):
            raise InputError(
                f"none of the {len(names)} listed images is in {image_folder}; the first one looked for is "
                f"{names[0]}{endings[0]}. Put them there, or correct the list."
            )
        self._note(f"{split} images without a label file, which have no objects",
                   [name for name in names if name not in labelled], folder)  # fmt: skip
        for name in names:
            image = images.get(name, image_folder / f"{name}{endings[0]}")  # one that is not there is lost later
            self._digest.update(image.name.encode())
            file = LabelFile(label_folder / f"{name}{endings[1]}", self._digest) if name in labelled else None
            yield Labels(image.name, str(image)), file

    def _number(self, found: dict[Split, list[Labels]], root: Path, stated: Sequence[str] | None) -> None:
        """Choose the classes and make the frames.

        Args:
            stated: classes in their order, others are don't-care; None: all that have objects, in alphabetical order.
        Raises:
            InputError: there is no class, or val has one that train lacks.
        """
        used = {split: Counter(item.class_name for labels in found[split] for item in labels.boxes
                               if not item.dont_care) for split in SPLITS}  # fmt: skip
        everywhere = used["train"] + used["val"]
        if stated is None:
            names = sorted(everywhere)
            if not names:
                raise InputError(f"{root} has no object of any class. Name the folder that holds labelled images.")
            if found["val"] and (new := sorted(used["val"].keys() - used["train"].keys())):
                raise InputError(
                    f"the validation part of {root} has the class {new[0]!r}, which the training part lacks, so that "
                    "no detector can learn it. Correct the labels, or name the classes to use with --classes."
                )
            self.notes.append(f"note: {root}: classes in alphabetical order: {_listed(names)}")
        else:
            names = list(stated)
            if len(set(names)) < len(names):
                raise InputError(f"--classes names {names}: name each class once")
            if absent := [name for name in names if not everywhere[name]]:
                raise InputError(
                    f"--classes names {absent[0]!r}, of which {root} has no object. Its classes are "
                    f"{_listed(sorted(everywhere))}."
                )
            others = [name for name in everywhere if name not in names]
            if others:
                count = sum(everywhere[name] for name in others)
                self.notes.append(f"note: {root}: objects of other classes than those of --classes, which are "
                                  f"don't-care: {count} of {_listed(sorted(others))}")  # fmt: skip
        for name in names:
            check_class_name(name, str(root))
        self.class_names = tuple(names)
        numbers = {name: number for number, name in enumerate(names, 1)}
        for split in SPLITS:
            self._frames[split] = [labels.frame(numbers) for labels in found[split]]


def check_class_name(name: str, where: str) -> None:
    """Raise InputError for a class name that is empty, has control characters, or is isod's own "dont_care"."""
    if not name.strip():
        raise InputError(f"{where}: a class has an empty name. Give it a name.")
    if has_control_characters(name):
        raise InputError(f"{where}: the class name {name!r:.100} has control characters. Rename it.")
    if name == DONT_CARE:
        raise InputError(f"{where}: a class has the name {DONT_CARE!r}, under which isod counts other objects. "
                         "Rename it.")  # fmt: skip


def list_images(folder: Path, *, recursive: bool = False, follow_links: bool = False) -> list[Path]:
    """Return the image files of a folder, sorted by their path.

    Raises:
        InputError: the folder cannot be read; two files differ in their ending alone; a name has control characters;
            or a link leads out of the folder and ``follow_links`` is off.
    """
    try:
        found: list[Path] = []
        for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=follow_links):
            folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
            found += [Path(parent, n) for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith(".")]
    except OSError as error:
        raise InputError(f"the image folder {folder} cannot be read: {error.strerror or error}") from None
    found.sort(key=lambda path: path.relative_to(folder).as_posix())
    if not follow_links:
        require_inside(folder, [path for path in found if path.is_symlink()])
    stems: dict[Path, Path] = {}
    for path in found:
        if has_control_characters(str(path)):
            raise InputError(f"the image file {str(path)!r:.200} has control characters in its name. Rename it.")
        stem = path.with_suffix("")
        if stem in stems:
            raise InputError(f"{stems[stem]} and {path.name} would share one label file. Remove one of the images.")
        stems[stem] = path
    return found


def require_inside(folder: Path, paths: Sequence[Path]) -> None:
    """Raise InputError for a link that leads out of the folder."""
    root = os.path.realpath(folder)
    for path in paths:
        followed = os.path.realpath(path)
        if not followed.startswith(f"{root}{os.sep}"):
            raise InputError(
                f"the image {path} is a link to {followed}, which is not inside {folder}. Move the file there, or pass "
                "--follow-links."
            )


def names_in(folder: Path, suffix: str) -> list[str]:
    """Return the names of a folder's files of one kind, without the ending; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name[: -len(suffix)] for entry in entries if entry.name.endswith(suffix))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror or error}") from None


def images_by_stem(folder: Path, *, follow_links: bool) -> dict[str, Path]:
    """Return name without ending → image file."""
    return {path.stem: path for path in list_images(folder, follow_links=follow_links)}


def read_id_list(path: Path, digest: Any) -> list[str]:
    """Return the first word of each line, in order: the ids of a split.

    Raises:
        InputError: the list cannot be read, is empty, has an id twice, or one that is a path.
    """
    file = LabelFile(path, digest, MAX_LIST)
    ids: dict[str, int] = {}
    for number, (name, *_) in file.rows():
        if len(name) > LONGEST or re.search(r"[/\\]", name) or name in (".", "..") or has_control_characters(name):
            file.fail(number, f"{name!r:.100} is not the id of an image", "Write names without folders and endings.")
        if name in ids:
            file.fail(number, f"the id {name!r:.100} is that of line {ids[name]}", "Name each image once.")
        ids[name] = number
    if not ids:
        file.fail(None, "the list is empty", "Name at least one image, or another list.")
    return list(ids)


def first_folder(*candidates: Path) -> Path | None:
    """Return the first that is a folder."""
    return next((path for path in candidates if path.is_dir()), None)


def _listed(names: Sequence[str], limit: int = 20) -> str:
    shown = ", ".join(repr(name)[1:-1][:60] for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _raise(error: OSError) -> NoReturn:
    raise error
