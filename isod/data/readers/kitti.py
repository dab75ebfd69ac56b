"""KITTI's format of 2-d boxes: a text file per image (https://www.cvlibs.net/datasets/kitti)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isod.data.readers.folders import (
    FolderReader,
    LabelFile,
    LabelledBox,
    Labels,
    first_folder,
    names_in,
    read_id_list,
)
from isod.errors import InputError, require
from isod.vocabulary import SPLITS

DONT_CARE_CLASS = "dontcare"  # in small letters
VALUES = (15, 16)  # of a line; the last one is a detector's score
LAYOUTS = (("image_2", "label_2"), ("images", "labels"), ("image", "label"))
VAL_FOLDERS = ("val", "valid", "validation")


class KittiReader(FolderReader):
    """KITTI's own layout, or a folder for each split. DontCare is don't-care; so is what is hidden, if asked for."""

    source = "kitti"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        max_truncated: float = 1.0,
        max_occluded: int = 3,
        follow_links: bool = False,
    ) -> None:
        """Read every label file; no image is opened.

        ``root`` holds training/image_2 and training/label_2, all of which is the training split unless
        ImageSets/train.txt and val.txt list the images of each; or the folders train and val, with image_2 and label_2,
        or images and labels, in each. An image without a label file has no objects.

        Args:
            classes: in their order, objects of other classes are don't-care; None: all, in alphabetical order.
            max_truncated: objects of which a larger share is outside of the image are don't-care, 0…1.
            max_occluded: objects that are hidden more are don't-care: 0 visible, 1 partly, 2 largely, 3 unknown.
            follow_links: whether an image may be a link that leads out of its folder.
        Raises:
            InputError: a file is wrong, with the line and the rule; or a folder does not exist.
        """
        super().__init__()
        require(0 <= max_truncated <= 1, "--max-truncated must be in 0…1", max_truncated)
        require(0 <= max_occluded <= 3, "--max-occluded must be in 0…3", max_occluded)
        self.root = Path(root)
        self._truncated, self._occluded, self._follow_links = max_truncated, max_occluded, follow_links
        self._hidden: list[str] = []
        self._settings = {
            "root": str(self.root.resolve()),
            "classes": None if classes is None else list(classes),
            "max_truncated": max_truncated,
            "max_occluded": max_occluded,
        }
        if not self.root.is_dir():
            raise InputError(f"the folder {root} does not exist or is not a folder")
        found: dict[Any, list[Labels]] = {split: [] for split in SPLITS}
        training = first_folder(self.root / "training", self.root / "train") or self.root
        lists = self.root / "ImageSets"
        if (lists / "train.txt").is_file():
            for split in SPLITS:
                if (path := lists / f"{split}.txt").is_file():
                    found[split] = self._read(training, split, read_id_list(path, self._digest))
        else:
            found["train"] = self._read(training, "train")
            if val := first_folder(*(self.root / name for name in VAL_FOLDERS)):
                found["val"] = self._read(val, "val")
        self._note("objects that are truncated or occluded too much, which are don't-care", self._hidden, self.root)
        self._number(found, self.root, classes)

    def _read(self, folder: Path, split: str, ids: Sequence[str] | None = None) -> list[Labels]:
        pair = next(((folder / a, folder / b) for a, b in LAYOUTS if (folder / a).is_dir()), (folder, folder))
        found = []
        for labels, file in self._pairs(split, folder, *pair, (".png", ".txt"), ids, self._follow_links):
            if file is not None:
                labels.boxes += [self._line(file, number, words) for number, words in file.rows()]
            found.append(labels)
        return found

    def _line(self, file: LabelFile, number: int, words: list[str]) -> LabelledBox:
        if len(words) not in VALUES:
            file.fail(number, f"it has {len(words)} values",
                      "Write KITTI's 15: class, truncated, occluded, alpha, x0, y0, x1, y1, and 7 in 3-d.")  # fmt: skip
        truncated, occluded, _, x0, y0, x1, y1 = file.numbers(number, words[1:8])
        if x1 < x0 or y1 < y0:
            file.fail(number, f"it has the box {' '.join(words[4:8])!r:.100}, whose x1 is below x0 or y1 below y0",
                      "Exchange them.")  # fmt: skip
        dont_care = words[0].lower() == DONT_CARE_CLASS
        if not dont_care and (truncated > self._truncated or occluded > self._occluded):
            self._hidden.append(f"{file.path}, line {number}")
            dont_care = True
        return LabelledBox((x0, y0, x1, y1), words[0], dont_care)


def find(path: Path) -> list[list[str]]:
    """Return the arguments of ``isod prepare kitti`` for the dataset that a folder holds, if it does."""
    if not path.is_dir():
        return []
    training = first_folder(path / "training", path / "train") or path
    for images, labels in LAYOUTS:
        if not (training / images).is_dir():
            continue
        for name in names_in(training / labels, ".txt")[:20]:
            try:
                words = (training / labels / f"{name}.txt").read_text("utf-8-sig").split("\n")[0].split()
            except (OSError, ValueError):
                continue
            if len(words) in VALUES and not _is_number(words[0]):
                val = (path / "ImageSets/val.txt").is_file() or first_folder(*(path / name for name in VAL_FOLDERS))
                return [[str(path), *([] if val else ["--val-share", "0.2"])]]
    return []


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
