"""COCO-format datasets: a folder of images and a JSON file per split (https://cocodataset.org, data format)."""

from __future__ import annotations

import hashlib
import math
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np

from isod.data.objects import Annotation
from isod.errors import InputError, one_line
from isod.files import MAX_JSON, MAX_PIXELS, has_control_characters, parse_json, read_file
from isod.vocabulary import DONT_CARE, Split

SHOWN = reprlib.Repr()  # for a wrong value in a message: short, whatever it is
SHOWN.maxstring = SHOWN.maxother = 200
OVERHANG = 1.0  # pixels that a box may exceed its image by without being counted: boxes are often rounded
FOUND = 1000  # folders and files that are looked through for a dataset
EXPORT_AGAIN = "Export the annotations in COCO's format again."


@dataclass(frozen=True)
class CocoFrameRef:
    """One image of a COCO json."""

    frame_id: str  # file_name
    image_path: str
    size: tuple[int, int]  # (height, width), pixels, as the json says
    annotation: Annotation
    image_id: int

    def objects(self) -> Annotation:
        """Return the image's objects, which the reader has read and checked."""
        return self.annotation


class CocoReader:
    """Two COCO jsons that share their classes. ``iscrowd`` is don't-care; labels follow the order of category ids."""

    source = "coco"
    demo = False

    def __init__(
        self,
        train: tuple[str | os.PathLike[str], str | os.PathLike[str]],
        val: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        *,
        follow_links: bool = False,
        lenient: bool = False,
    ) -> None:
        """Read and check both jsons; no image is opened.

        Boxes that reach beyond their image are clipped. Boxes without an area inside it, which COCO's own sets have
        too, are left out. ``notes`` says how many.

        Args:
            train, val: (folder of images, json).
        Raises:
            InputError: a json is wrong, with the file, the entry and the rule; val has a class that train lacks; no
                image file exists.
        """
        self._paths = {"train": train} | ({} if val is None else {"val": val})
        files = {split: CocoFile(Path(images), Path(path)) for split, (images, path) in self._paths.items()}
        self._sha256 = {split: file.sha256 for split, file in files.items()}
        self.class_names = tuple(files["train"].categories.values())
        labels = {name: label for label, name in enumerate(self.class_names, 1)}
        for name in files["val"].categories.values() if val else ():
            if name not in labels:
                raise InputError(
                    f"{files['val'].path} has the class {name!r}, which {files['train'].path} lacks, so that no "
                    "detector can learn it. Add it to the training json or remove it from this one."
                )
        self._frames = {split: file.frames(labels) for split, file in files.items()}
        self.notes = [note for file in files.values() for note in file.notes()]

    @property
    def settings(self) -> dict[str, object]:
        """Absolute paths of both splits, and the SHA-256 of their jsons."""
        return {
            split: {
                "images": str(Path(images).resolve()),
                "json": str(Path(path).resolve()),
                "sha256": self._sha256[split],
            }
            for split, (images, path) in self._paths.items()
        }

    def known_faults(self, split: Split) -> None:
        """Return None: COCO's format has no place for known faults."""
        return None

    def frames(self, split: Split) -> list[CocoFrameRef]:
        """Return the images of a split, in the order of their ids."""
        return self._frames.get(split, [])


class CocoFile:
    """One json, checked entry by entry."""

    def __init__(self, folder: Path, path: Path) -> None:
        """Read the json; ``frames`` checks the images and annotations. Raises InputError as ``CocoReader``."""
        self.path = path
        self.folder = os.path.realpath(folder)
        if not folder.is_dir():
            raise InputError(f"the image folder {folder} does not exist or is not a folder")
        try:
            data = read_file(path, MAX_JSON)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise InputError(f"{path} {error}") from None
        self.sha256 = hashlib.sha256(data).hexdigest()
        try:
            self.content = parse_json(data)
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {one_line(error)}; export the annotations again") from None
        if not isinstance(self.content, dict):
            self._fail(f'it holds a {type(self.content).__name__}, not an object with the keys "images", "annotations" '
                       'and "categories"', EXPORT_AGAIN)  # fmt: skip
        for key in ("images", "annotations", "categories"):
            if key not in self.content:
                self._fail(f'it has no key "{key}"; its keys are {SHOWN.repr(sorted(self.content))}', EXPORT_AGAIN)
            entries = self.content[key]
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                self._fail(f'"{key}" is not a list of objects', EXPORT_AGAIN)
        self.categories = self._categories()
        self.empty_boxes: list[str] = []  # which annotations: their boxes have no area inside the image
        self.clipped_boxes: list[str] = []  # their boxes reach beyond the image

    def notes(self) -> list[str]:
        """Return what was done to boxes that do not lie inside their image."""
        done = (
            (self.empty_boxes, "boxes left out, as none of their area is inside their image"),
            (self.clipped_boxes, "boxes clipped, as they reach beyond their image"),
        )
        return [f"note: {self.path}: {what}: {len(boxes)}, the first of {boxes[0]}" for boxes, what in done if boxes]

    def frames(self, labels: dict[str, int]) -> list[CocoFrameRef]:
        """Return every image with its objects, in the order of image ids.

        Args:
            labels: class name → label 1…C, of every category.
        """
        images = self._images()
        grouped: dict[int, list[tuple[list[float], int, bool]]] = {image_id: [] for image_id in images}
        seen: set[int] = set()
        for position, entry in enumerate(self.content["annotations"]):
            where = f"annotation {entry['id']}" if _is_int(entry.get("id")) else f"annotation number {position}"
            if "id" in entry:
                if not _is_int(entry["id"]):
                    self._fail(f"{where} has the id {SHOWN.repr(entry['id'])}", "Make it an integer.")
                if entry["id"] in seen:
                    self._fail(f"{where} has the id of an earlier annotation", "Give each annotation its own id.")
                seen.add(entry["id"])
            image_id, category_id = entry.get("image_id"), entry.get("category_id")
            if not (_is_int(image_id) and image_id in images):
                self._fail(f'{where} has image_id {SHOWN.repr(image_id)}, which is not in "images"',
                           "Remove it or add its image.")  # fmt: skip
            if not (_is_int(category_id) and category_id in self.categories):
                self._fail(f'{where} has category_id {SHOWN.repr(category_id)}, which is not in "categories"',
                           "Remove it or add its category.")  # fmt: skip
            crowd = entry.get("iscrowd", 0)
            if crowd not in (0, 1):
                self._fail(f"{where} has iscrowd {SHOWN.repr(crowd)}", "Make it 0 or 1.")
            box = self._box(entry.get("bbox"), where, images[image_id]["height"], images[image_id]["width"])
            if box is not None:
                grouped[image_id].append((box, 0 if crowd else labels[self.categories[category_id]], bool(crowd)))
        outside = len(self.empty_boxes) + len(self.clipped_boxes)
        if 2 * outside > len(self.content["annotations"]):
            first = (self.empty_boxes or self.clipped_boxes)[0]
            self._fail(f"{outside} of {len(self.content['annotations'])} boxes do not lie inside their image: one is "
                       f"that of {first}", "Write each bbox as [x, y, width, height] in pixels.")  # fmt: skip
        refs = []
        for image_id in sorted(images):
            image, objects = images[image_id], grouped[image_id]
            refs.append(
                CocoFrameRef(
                    frame_id=image["file_name"],
                    image_path=os.path.join(self.folder, image["file_name"]),
                    size=(image["height"], image["width"]),
                    annotation=Annotation.build(
                        [box for box, _, _ in objects], [n for _, n, _ in objects], [crowd for _, _, crowd in objects]
                    ),
                    image_id=image_id,
                )
            )
        if not any(os.path.exists(ref.image_path) for ref in refs):
            raise InputError(f"none of the {len(refs)} images of {self.path} is in the folder {self.folder}")
        return refs

    def _categories(self) -> dict[int, str]:
        """Return category id → name, in the order of ids."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        for position, entry in enumerate(self.content["categories"]):
            key, name = self._id("category", position, entry, names), entry.get("name")
            if not (isinstance(name, str) and name):
                self._fail(f"category {key} has the name {SHOWN.repr(name)}", "Give it a name.")
            if has_control_characters(name):
                self._fail(f"the name of category {key}, {SHOWN.repr(name)}, has control characters", "Rename it.")
            if name in taken:
                self._fail(f"two categories have the name {SHOWN.repr(name)}", "Rename one of them.")
            if name == DONT_CARE:
                self._fail(f"category {key} has the name {DONT_CARE!r}, under which isod counts crowds", "Rename it.")
            names[key] = name
            taken.add(name)
        if not names:
            self._fail('"categories" is empty', "Add at least one category.")
        return dict(sorted(names.items()))

    def _images(self) -> dict[int, dict[str, Any]]:
        """Return image id → its entry. A file_name must stay inside the image folder, links followed."""
        images: dict[int, dict[str, Any]] = {}
        file_names: set[str] = set()
        for position, entry in enumerate(self.content["images"]):
            key, name = self._id("image", position, entry, images), entry.get("file_name")
            if not (isinstance(name, str) and name):
                self._fail(f"image {key} has the file_name {SHOWN.repr(name)}", "Name its file.")
            shown = SHOWN.repr(name)
            if has_control_characters(name):
                self._fail(f"the file_name of image {key}, {shown}, has control characters", "Rename the file.")
            if name in file_names:
                self._fail(f"two images have the file_name {shown}", "Remove one of them.")
            for side in ("width", "height"):
                if not (_is_int(entry.get(side)) and 0 < entry[side] <= MAX_PIXELS):
                    self._fail(f"image {key} ({shown}) has {side} {SHOWN.repr(entry.get(side))}",
                               f"Make it an integer of 1 to {MAX_PIXELS} pixels.")  # fmt: skip
            plain = os.path.normpath(os.path.join(self.folder, name))  # of an absolute name: itself
            followed = os.path.realpath(os.path.join(self.folder, name))  # not of plain: LINK/.. is not this folder
            for path, how in ((plain, ""), (followed, f", as links lead to {SHOWN.repr(followed)}")):
                if os.path.isabs(name) or not os.path.commonpath([self.folder, path]) == self.folder != path:
                    self._fail(f"image {key} has the file_name {shown}, which is not inside the image folder "
                               f"{self.folder}{how}", "Move the file there.")  # fmt: skip
            images[key] = entry
            file_names.add(name)
        if not images:
            self._fail('"images" is empty', "Add at least one image.")
        return images

    def _id(self, what: str, position: int, entry: dict[str, Any], taken: dict[int, Any]) -> int:
        key = entry.get("id")
        if not _is_int(key):
            self._fail(f"{what} number {position} has the id {SHOWN.repr(key)}", "Make it an integer.")
        if key in taken:
            self._fail(f"{what} number {position} has the id {key} of an earlier one", f"Give each {what} its own id.")
        return key

    def _box(self, bbox: Any, where: str, height: int, width: int) -> list[float] | None:
        """Return [x, y, w, h] as [x0, y0, x1, y1] within the image; None if no area of it lies there."""
        numbers = isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(value) for value in bbox)
        if not (numbers and all(math.isfinite(value) for value in bbox)):
            self._fail(f"{where} has bbox {SHOWN.repr(bbox)}", "Make it four finite numbers, [x, y, width, height].")
        x, y, w, h = bbox
        if w < 0 or h < 0:
            self._fail(f"{where} has bbox {SHOWN.repr(bbox)}, with a negative width or height",
                       "Write it as [x, y, width, height].")  # fmt: skip
        inside = x >= -OVERHANG and y >= -OVERHANG and x + w <= width + OVERHANG and y + h <= height + OVERHANG
        x0, y0, x1, y1 = (float(np.float32(v)) for v in (max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)))
        if not (x0 < x1 and y0 < y1):
            self.empty_boxes.append(where)
            return None
        if not inside:
            self.clipped_boxes.append(where)
        return [x0, y0, x1, y1]

    def _fail(self, problem: str, remedy: str) -> NoReturn:
        raise InputError(f"{self.path}: {problem}. {remedy}")


def _is_int(value: Any) -> TypeGuard[int]:
    """Whether it is an integer that Arrow can hold: JSON's have no limit."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    """Whether it is a number that float holds exactly."""
    return isinstance(value, float) or (_is_int(value) and abs(value) < 2**53)


def find(path: Path) -> list[list[str]]:
    """Return the arguments of ``isod prepare coco`` for every pair of jsons that a folder holds, or for a json."""
    jsons = sorted([*path.glob("*.json"), *path.glob("*/*.json")])[:FOUND] if path.is_dir() else [path]
    folders = [entry for entry in sorted(path.rglob("*")) if entry.is_dir()][:FOUND] if path.is_dir() else []
    found: dict[str, list[list[str]]] = {"train": [], "val": []}
    for file in jsons:
        try:
            content = parse_json(read_file(file, MAX_JSON))
            first = str(content["images"][0]["file_name"])
            assert isinstance(content["annotations"], list)
        except (OSError, ValueError, KeyError, TypeError, IndexError, AssertionError):
            continue
        places = [file.parent, *folders, file.parent.parent / "images"]
        images = next((folder for folder in places if "\0" not in first and (folder / first).is_file()), file.parent)
        split = "val" if re.search("val|test", f"{file.parent.name}/{file.name}") else "train"
        found[split].append([f"--{split}", str(images), str(file)])
    return [[*train, *val] for train in found["train"] for val in found["val"] or [["--val-share", "0.2"]]]
