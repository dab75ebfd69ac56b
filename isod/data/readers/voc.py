"""PASCAL VOC's format: an XML file per image (http://host.robots.ox.ac.uk/pascal/VOC, development kit)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from isod.data.readers.folders import (
    FolderReader,
    LabelFile,
    LabelledBox,
    Labels,
    first_folder,
    names_in,
    read_id_list,
)
from isod.errors import InputError, one_line
from isod.files import MAX_PIXELS
from isod.vocabulary import SPLITS

IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
XML_FOLDERS = ("Annotations", "annotations", "xmls", "labels")
VAL_FOLDERS = ("val", "valid", "validation")
SETS = "ImageSets/Main"


class VocReader(FolderReader):
    """VOC's own layout, with ImageSets; or a folder for each split. ``difficult`` objects are don't-care."""

    source = "voc"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        train_set: str = "train",
        val_set: str = "val",
        classes: Sequence[str] | None = None,
        one_based: bool = False,
        follow_links: bool = False,
    ) -> None:
        """Read every XML file; no image is opened.

        ``root`` holds ImageSets/Main/SET.txt, which list the images of JPEGImages and Annotations; or the folders train
        and val, in which the XML files lie beside the images or in folders of their own; or images of one split. An
        image without an XML file has no objects. Images follow the order of their names.

        Args:
            train_set, val_set: lists in ImageSets/Main, where there are any.
            classes: in their order, objects of other classes are don't-care; None: all, in alphabetical order.
            one_based: whether the first pixel is 1, as in VOC's own sets, and not 0, as most tools write.
            follow_links: whether an image may be a link that leads out of its folder.
        Raises:
            InputError: a file is wrong, with the object and the rule; or a folder does not exist.
        """
        super().__init__()
        self.root = Path(root)
        self._shift = 1.0 if one_based else 0.0
        self._follow_links = follow_links
        self._from_one: list[str] = []
        self._settings = {
            "root": str(self.root.resolve()),
            "sets": [train_set, val_set],
            "classes": None if classes is None else list(classes),
            "one_based": one_based,
        }
        if not self.root.is_dir():
            raise InputError(f"the folder {root} does not exist or is not a folder")
        found: dict[Any, list[Labels]] = {split: [] for split in SPLITS}
        sets = self.root / SETS
        if sets.is_dir():
            for split, name in (("train", train_set), ("val", val_set)):
                path = sets / f"{name}.txt"
                if path.is_file():
                    found[split] = self._read(self.root, split, read_id_list(path, self._digest))
                elif split == "train" or name != "val":
                    raise InputError(f"there is no list {path}. Name one of {', '.join(names_in(sets, '.txt'))} "
                                     f"with --{split}-set.")  # fmt: skip
        elif train := first_folder(self.root / "train"):
            found["train"] = self._read(train, "train")
            if val := first_folder(*(self.root / name for name in VAL_FOLDERS)):
                found["val"] = self._read(val, "val")
        else:
            found["train"] = self._read(self.root, "train")
        self._note("XML files of VOC's own sets, whose first pixel is 1 (--one-based)", self._from_one, self.root)
        self._number(found, self.root, classes)

    def _read(self, folder: Path, split: str, ids: Sequence[str] | None = None) -> list[Labels]:
        """Read the labels of a folder's images, or of those that are listed."""
        image_folder = first_folder(*(folder / name for name in IMAGE_FOLDERS)) or folder
        xml_folder = first_folder(*(folder / name for name in XML_FOLDERS)) or folder
        found = []
        for labels, file in self._pairs(
            split, folder, image_folder, xml_folder, (".jpg", ".xml"), ids, self._follow_links
        ):
            if file is not None:
                self._parse(file, labels)
            found.append(labels)
        return found

    def _parse(self, file: LabelFile, labels: Labels) -> None:
        if b"<!ENTITY" in file.data:
            file.fail(None, "it declares entities", "Write it without.")
        try:
            tree = ElementTree.fromstring(file.data)
        except ElementTree.ParseError as error:
            file.fail(error.position[0], f"it is not XML ({one_line(error)})", "Export the annotations again.")
        except (ValueError, LookupError) as error:  # an encoding that is not known
            file.fail(None, f"it is not XML ({one_line(error)})", "Export the annotations again.")
        if tree.tag != "annotation":
            file.fail(None, f"its outermost element is <{tree.tag:.50}>, not <annotation>", "Export it as VOC.")
        labels.size = self._size(file, tree)
        if not self._shift and "VOC2" in (database := tree.findtext("source/database") or ""):
            self._from_one.append(f"{database!r:.60} in {file.path}")
        for number, item in enumerate(tree.findall("object"), 1):
            name = (item.findtext("name") or "").strip()
            if not name:
                file.fail(None, f"object {number} has no name", "Name its class.")
            flag = (item.findtext("difficult") or "0").strip().lower()
            if flag not in ("0", "1", "true", "false", "unspecified"):
                file.fail(None, f"object {number} ({name:.50}) has difficult {flag!r:.50}", "Make it 0 or 1.")
            labels.boxes.append(LabelledBox(self._box(file, item, number), name, flag in ("1", "true")))

    def _size(self, file: LabelFile, tree: ElementTree.Element) -> tuple[int, int] | None:
        """Return (height, width); None where it is missing or 0, as some tools write it."""
        texts = [tree.findtext(f"size/{side}") or "0" for side in ("height", "width")]
        try:
            height, width = (int(float(text)) for text in texts)
        except (ValueError, OverflowError):
            height = width = -1
        if min(height, width) < 0 or max(height, width) > MAX_PIXELS:
            file.fail(None, f"it has the size {texts[1]!r:.50} × {texts[0]!r:.50}", "Make it width and height, pixels.")
        return (height, width) if height and width else None

    def _box(self, file: LabelFile, item: ElementTree.Element, number: int) -> tuple[float, float, float, float]:
        corners = ("xmin", "ymin", "xmax", "ymax")
        texts = [(item.findtext(f"bndbox/{corner}") or "").strip() for corner in corners]
        try:
            x0, y0, x1, y1 = map(float, texts)
        except ValueError:
            x0 = math.nan
            y0 = x1 = y1 = x0
        what = f"object {number} has the bndbox {' '.join(texts)!r:.100}"
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            file.fail(None, what, "Make it four finite numbers, xmin, ymin, xmax and ymax.")
        if x1 < x0 or y1 < y0:
            file.fail(None, f"{what}, whose xmax is below xmin or ymax below ymin", "Exchange them.")
        return (x0 - self._shift, y0 - self._shift, x1, y1)


def find(path: Path) -> list[list[str]]:
    """Return the arguments of ``isod prepare voc`` for the dataset that a folder holds, if it does."""
    if not path.is_dir():
        return []

    def holds(folder: Path) -> bool:
        return any(names_in(place, ".xml") for place in (folder, *(folder / name for name in XML_FOLDERS)))

    if (path / SETS).is_dir() and holds(path):
        has_val = (path / SETS / "val.txt").is_file()
    elif holds(path / "train"):
        has_val = first_folder(*(path / name for name in VAL_FOLDERS)) is not None
    elif holds(path):
        has_val = False
    else:
        return []
    return [[str(path), *([] if has_val else ["--val-share", "0.2"])]]
