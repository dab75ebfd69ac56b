"""COCO-format datasets: a folder of images and a JSON file per split (https://cocodataset.org, data format)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import re
import reprlib
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeGuard
from urllib.parse import unquote

import numpy as np

from isod.data.readers.base import FrameError
from isod.data.readers.folders import CLIPPED, IMAGE_SUFFIXES, LEFT_OUT, LabelledFrame, fit_boxes
from isod.errors import InputError, one_line
from isod.files import MAX_JSON, MAX_PIXELS, has_control_characters, parse_json, read_file
from isod.vocabulary import DONT_CARE, Split

SHOWN = reprlib.Repr()  # for a wrong value in a message: short, whatever it is
SHOWN.maxstring = SHOWN.maxother = 200
GZIP = b"\x1f\x8b"  # how such a file begins
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # text that is a whole number
NO_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)')  # a string, or a word that JSON does not have
MAX_OUTLINE = 2**20  # numbers of a polygon or a run-length code
MISFIT = 0.5  # IoU with its polygons below which a box does not fit them
SEQUENCE_FIELDS = ("sequence", "video_id")  # of an image, taken as its sequence where every image has it
TRIED = 20  # images of a json that are looked for in these folders: some may be missing
FOUND = 1000  # folders and files that are looked through for a dataset
EXPORT_AGAIN = "Export the annotations in COCO's format again."


@dataclass(frozen=True)
class CocoFrameRef(LabelledFrame):
    """One image of a COCO json."""

    image_id: int | str = 0


@dataclass
class _Object:
    """One annotation of an image."""

    where: str  # "annotation 3"
    box: list[float]  # xyxy, pixels
    category: int | str
    dont_care: bool


class CocoReader:
    """Two COCO jsons that share their classes. ``iscrowd`` and ``ignore`` are don't-care.

    Labels follow the order of category ids: whole numbers first, by value, then text. Categories without an object are
    left out.
    """

    source = "coco"
    demo = False

    def __init__(
        self,
        train: tuple[str | os.PathLike[str], str | os.PathLike[str]],
        val: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        *,
        follow_links: bool = False,
        lenient: bool = False,
        sequence_field: str | None = None,
    ) -> None:
        """Read and check the jsons; no image is opened, except where the json lacks its size.

        Boxes that reach beyond their image are clipped. Boxes without an area inside it, which COCO's own sets have
        too, are left out. ``notes`` says how many.

        Args:
            train, val: (folder of images, json); without val, the dataset has one split.
            follow_links: whether links may lead out of the folder of images.
            lenient: whether an image that is not there is looked for under a name with slashes for backslashes, with
                its percent signs decoded, in another form of Unicode, or with another ending, in that order.
            sequence_field: key of an image that names the sequence it is part of, text or a whole number; by default
                the first of SEQUENCE_FIELDS that every image has.
        Raises:
            InputError: a json is wrong, with the file, the entry and the rule; val has a class that train lacks; no
                image file exists; an image lacks the ``sequence_field``.
        """
        self._paths = {"train": train} | ({} if val is None else {"val": val})
        files = {
            split: CocoFile(Path(images), Path(path), follow_links=follow_links, lenient=lenient)
            for split, (images, path) in self._paths.items()
        }
        self._sha256 = {split: file.sha256 for split, file in files.items()}
        in_val = list(files["val"].used_categories().values()) if "val" in files else []
        self.class_names = tuple(files["train"].used_categories(also=in_val).values())
        if not files["train"].used:
            raise InputError(f"{files['train'].path} has no object of any category. Name the json with the labels.")
        labels = {name: label for label, name in enumerate(self.class_names, 1)}
        for name in in_val:
            if name not in labels:
                raise InputError(
                    f"{files['val'].path} has the class {name!r}, which {files['train'].path} lacks, so that no "
                    "detector can learn it. Add it to the training json or remove it from this one."
                )
        self._lenient, self._sequence_field = lenient, sequence_field
        field = sequence_field or next(
            (name for name in SEQUENCE_FIELDS if all(file.names_sequences(name) for file in files.values())), None
        )
        self._frames = {split: file.frames(labels, field) for split, file in files.items()}
        self.notes = [note for file in files.values() for note in file.notes()]
        if field is not None:
            number = len({frame.sequence for frames in self._frames.values() for frame in frames})
            self.notes.append(f"note: {number} sequences, by the images' {field!r}")

    @property
    def settings(self) -> dict[str, object]:
        """Absolute paths of both splits, the SHA-256 of their jsons, and the field of sequences that was named."""
        named = {} if self._sequence_field is None else {"sequence_field": self._sequence_field}
        return named | {
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
        """Return the images of a split, in the order of their ids: whole numbers by value, then text."""
        return self._frames.get(split, [])


class CocoFile:
    """One json, checked entry by entry."""

    def __init__(self, folder: Path, path: Path, *, follow_links: bool = False, lenient: bool = False) -> None:
        """Read the json; ``frames`` checks the images and annotations. Raises InputError as ``CocoReader``."""
        self.path = path
        self.folder = os.path.realpath(folder)
        self._follow_links, self._lenient = follow_links, lenient
        if not folder.is_dir():
            raise InputError(f"the image folder {folder} does not exist or is not a folder")
        try:
            data = read_file(path, MAX_JSON)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise InputError(f"{path} {error}") from None
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.content = self._parse(data)
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
        self._done: dict[str, list[str]] = {}  # what was done → where
        self._listings: dict[str, dict[str, list[str]]] = {}  # folder → name in Unicode's form C → names that are there
        self._images = self._read_images()
        self._sizes = {key: _size(entry) for key, entry in self._images.items()}
        self._objects = self._read_annotations()

    def _parse(self, data: bytes) -> Any:
        """Parse JSON in any encoding of Unicode, which may be packed by gzip; a wrong one gets its cause and place."""
        if data.startswith(GZIP):
            try:
                with gzip.open(io.BytesIO(data)) as file:
                    data = file.read(MAX_JSON + 1)
            except (OSError, EOFError, zlib.error) as error:
                self._fail(f"it is a damaged gzip file ({one_line(error)})", "Pack it again.")
            if len(data) > MAX_JSON:
                self._fail(f"it unpacks to more than {MAX_JSON} bytes", "Split it.")
        try:
            return parse_json(data)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            reason = f"its bytes are no {error.encoding} text, first in line {line} at byte {error.start}"
            remedy = "save it as UTF-8"
        except ValueError as error:
            reason, remedy = one_line(error), "export the annotations again"
            if "is not a JSON number" in reason:
                text = data.decode(json.detect_encoding(data))
                at = next((match.start() for match in NO_NUMBER.finditer(text) if match[1]), 0)
                line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
                reason += f": line {line} column {column}"
                remedy = "write a number there, or null"
        raise InputError(f"{self.path} is not JSON: {reason}; {remedy}")

    def notes(self) -> list[str]:
        """Return what was done with annotations and images that are not as they should be."""
        return [f"note: {self.path}: {what}: {len(found)}, the first of {found[0]}"
                for what, found in self._done.items()]  # fmt: skip

    @cached_property
    def used(self) -> set[int | str]:
        """Ids of the categories that have an object."""
        return {item.category for objects in self._objects.values() for item in objects if not item.dont_care}

    def used_categories(self, also: Collection[str] = ()) -> dict[int | str, str]:
        """Return category id → name of those that have an object, in the order of ids; a note tells the others.

        Args:
            also: names of categories that count as used, as another split has objects of them.
        Raises:
            InputError: two of them have the same name.
        """
        used, elsewhere = self.used, set(also) - {self.categories[key] for key in self.used}
        names: dict[int | str, str] = {}
        for key, name in self.categories.items():
            if key not in used and name in elsewhere:
                elsewhere.discard(name)
            elif key not in used:
                self._done.setdefault("categories without an object in this file", []).append(SHOWN.repr(name))
                continue
            if name in names.values():
                self._fail(f"two categories have the name {SHOWN.repr(name)}", "Rename one of them.")
            if name == DONT_CARE:
                self._fail(f"category {key} has the name {DONT_CARE!r}, under which isod counts crowds", "Rename it.")
            names[key] = name
        return names

    def names_sequences(self, field: str) -> bool:
        """Whether every image has such a field that can name a sequence."""
        return all(_is_id(entry.get(field)) for entry in self._images.values())

    def frames(self, labels: dict[str, int], sequence_field: str | None = None) -> list[CocoFrameRef]:
        """Return every image with its objects, in the order of image ids.

        Args:
            labels: class name → label 1…C, of every category that has an object.
            sequence_field: of an image, names its sequence; None for none.
        """
        paths = self._paths(self._images)
        refs = []
        for image_id in sorted(self._images, key=_order):
            objects, size = self._objects[image_id], self._sizes[image_id]
            boxes = np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4)
            numbers = [0 if item.dont_care else labels[self.categories[item.category]] for item in objects]
            if size is not None:
                self._count_outside(objects, boxes, size)
            refs.append(
                CocoFrameRef(
                    frame_id=self._images[image_id]["file_name"],
                    image_path=paths[image_id],
                    boxes=boxes,
                    labels=numbers,
                    size=size,
                    told=size is not None,
                    image_id=image_id,
                    sequence=self._sequence(image_id, sequence_field),
                )
            )
        first = [found[0] for what in (LEFT_OUT, CLIPPED) if (found := self._done.get(what))]
        outside = sum(len(self._done.get(what, ())) for what in (LEFT_OUT, CLIPPED))
        if 2 * outside > len(self.content["annotations"]):
            self._fail(f"{outside} of {len(self.content['annotations'])} boxes do not lie inside their image: one is "
                       f"that of {first[0]}", "Write each bbox as [x, y, width, height] in pixels.")  # fmt: skip
        return refs

    def _sequence(self, image_id: int | str, field: str | None) -> str:
        if field is None:
            return ""
        name = self._images[image_id].get(field)
        if not _is_id(name):
            self._fail(f"image {image_id} has {field} {SHOWN.repr(name)}, which is to name its sequence",
                       "Make it text or a whole number, or name another --sequence-field.")  # fmt: skip
        return str(name)

    def _read_annotations(self) -> dict[int | str, list[_Object]]:
        """Return image id → its objects."""
        grouped: dict[int | str, list[_Object]] = {image_id: [] for image_id in self._images}
        seen: set[int | str] = set()
        compared, misfits = 0, []  # boxes that have polygons
        for position, entry in enumerate(self.content["annotations"]):
            where = f"annotation {entry['id']}" if _is_id(entry.get("id")) else f"annotation number {position}"
            if "id" in entry:
                if not _is_id(entry["id"]):
                    self._fail(f"{where} has the id {SHOWN.repr(entry['id'])}", "Make it an integer or text.")
                if _id(entry["id"]) in seen:
                    self._fail(f"{where} has the id of an earlier annotation", "Give each annotation its own id.")
                seen.add(_id(entry["id"]))
            image_id, category_id = entry.get("image_id"), entry.get("category_id")
            if not (_is_id(image_id) and _id(image_id) in self._images):
                self._fail(f'{where} has image_id {SHOWN.repr(image_id)}, which is not in "images"',
                           "Remove it or add its image.")  # fmt: skip
            if not (_is_id(category_id) and _id(category_id) in self.categories):
                self._fail(f'{where} has category_id {SHOWN.repr(category_id)}, which is not in "categories"',
                           "Remove it or add its category.")  # fmt: skip
            image_id, category_id = _id(image_id), _id(category_id)
            for flag in ("iscrowd", "ignore"):
                if entry.get(flag, 0) not in (0, 1):
                    self._fail(f"{where} has {flag} {SHOWN.repr(entry[flag])}", "Make it 0 or 1.")
            if entry.get("ignore") and not entry.get("iscrowd"):
                self._done.setdefault('objects with "ignore", which are don\'t-care', []).append(where)
            box = self._box(entry, where, self._images[image_id], self._sizes[image_id])
            if entry.get("bbox") and (outline := _bounds(entry.get("segmentation"))):
                compared += 1
                misfits += [where] if _iou(box, outline) < MISFIT else []
            grouped[image_id].append(_Object(where, box, category_id, _dont_care(entry)))
        if 2 * len(misfits) > compared:
            self._fail(f"{len(misfits)} of {compared} boxes do not fit their polygons, one is that of {misfits[0]}",
                       "Write each bbox as [x, y, width, height] in pixels, or remove them all: isod then takes those "
                       "of the polygons.")  # fmt: skip
        if misfits:
            self._done[f"boxes that do not fit their polygons (IoU below {MISFIT:g}), and are used"] = misfits
        return grouped

    def _count_outside(self, objects: Sequence[_Object], boxes: np.ndarray, size: tuple[int, int]) -> None:
        _, keep, clipped = fit_boxes(boxes, size)
        for item, kept, beyond in zip(objects, keep, clipped, strict=True):
            if beyond or not kept:
                self._done.setdefault(CLIPPED if kept else LEFT_OUT, []).append(item.where)

    def _categories(self) -> dict[int | str, str]:
        """Return category id → name, in the order of ids."""
        names: dict[int | str, str] = {}
        for position, entry in enumerate(self.content["categories"]):
            key, name = self._id("category", position, entry, names), entry.get("name")
            if not (isinstance(name, str) and name):
                self._fail(f"category {key} has the name {SHOWN.repr(name)}", "Give it a name.")
            if has_control_characters(name):
                self._fail(f"the name of category {key}, {SHOWN.repr(name)}, has control characters", "Rename it.")
            names[key] = name
        if not names:
            self._fail('"categories" is empty', "Add at least one category.")
        return {key: names[key] for key in sorted(names, key=_order)}

    def _read_images(self) -> dict[int | str, dict[str, Any]]:
        """Return image id → its entry. A file_name must stay inside the image folder, links followed."""
        images: dict[int | str, dict[str, Any]] = {}
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
            if entry.get("width") is None and entry.get("height") is None:
                self._done.setdefault("images without a size, which is read from the image file", []).append(shown)
            else:
                for side in ("width", "height"):
                    if not (_is_int(entry.get(side)) and 0 < entry[side] <= MAX_PIXELS):
                        self._fail(f"image {key} ({shown}) has {side} {SHOWN.repr(entry.get(side))}",
                                   f"Make it an integer of 1 to {MAX_PIXELS} pixels.")  # fmt: skip
            if (problem := self._outside(name)) is not None:
                option = ", or pass --follow-links" if problem else ""
                self._fail(f"image {key} has the file_name {shown}, which is not inside the image folder "
                           f"{self.folder}{problem}", f"Move the file there{option}.")  # fmt: skip
            images[key] = entry
            file_names.add(name)
        if not images:
            self._fail('"images" is empty', "Add at least one image.")
        return images

    def _outside(self, name: str) -> str | None:
        """Return how a name leads out of the image folder; "" by itself, None if it does not."""
        plain = os.path.normpath(os.path.join(self.folder, name))  # of an absolute name: itself
        if os.path.isabs(name) or not self._holds(plain):
            return ""
        if self._follow_links:
            return None
        followed = os.path.realpath(os.path.join(self.folder, name))  # not of plain: LINK/.. is not this folder
        return None if self._holds(followed) else f", as links lead to {SHOWN.repr(followed)}"

    def _holds(self, path: str) -> bool:
        return os.path.commonpath([self.folder, path]) == self.folder != path

    def _paths(self, images: dict[int | str, dict[str, Any]]) -> dict[int | str, str]:
        """Return the file of every image. One that is not there is looked for under other names, with ``lenient``."""
        paths, missing, cures = {}, [], Counter[str]()
        for key, entry in images.items():
            name = entry["file_name"]
            paths[key] = os.path.join(self.folder, name)
            if os.path.exists(paths[key]):
                continue
            cured = self._other_name(name)
            if cured is None or not self._lenient:
                missing.append((paths[key], cured))
                continue
            found, how = cured
            paths[key] = found
            cures[how] += 1
            self._done.setdefault(f"images found under another name, {how} (--lenient)", []).append(SHOWN.repr(name))
        if len(set(paths.values())) < len(paths):
            twice = Counter(paths.values()).most_common(1)[0][0]
            self._fail(f"two images would be read from {twice}", "Remove one of them.")
        if not missing:
            return paths
        found_other = next((cured for _, cured in missing if cured), None)
        hint = ""
        if found_other is not None:
            count = sum(cured is not None for _, cured in missing)
            hint = (f", but {found_other[0]} is ({found_other[1]}): --lenient takes such files, for {count} of the "
                    "images")  # fmt: skip
        elif len(missing) == len(paths) and (there := self._some_image()):
            hint = f", but {there} is"
        looked = f"the first one looked for is {SHOWN.repr(missing[0][0])}"
        if len(missing) == len(paths):
            raise InputError(f"none of the {len(paths)} images of {self.path} is in the folder {self.folder}; "
                             f"{looked}, which is not there{hint}")  # fmt: skip
        self._done.setdefault(f"images that are not there{hint}", []).extend(path for path, _ in missing)
        return paths

    def _other_name(self, name: str) -> tuple[str, str] | None:
        """Return the path of an image under a name that differs a little, and how it differs."""
        cures = [(name := name.replace("\\", "/"), "with slashes for backslashes"),
                 (name := unquote(name), "with percent signs decoded")]  # fmt: skip
        for cured, how in cures:
            if self._is_there(cured):
                return os.path.join(self.folder, cured), how
        if has_control_characters(name) or self._outside(name) is not None:
            return None
        parent, base = os.path.split(os.path.join(self.folder, name))
        there = self._listing(parent)
        same = there.get(unicodedata.normalize("NFC", base), [])
        if len(same) == 1 and self._is_there(path := os.path.join(os.path.dirname(name), same[0])):
            return os.path.join(self.folder, path), "in another form of Unicode"
        stem = unicodedata.normalize("NFC", os.path.splitext(base)[0])
        ends = [n for key, names in there.items() if os.path.splitext(key)[0] == stem for n in names
                if n.lower().endswith(IMAGE_SUFFIXES)]  # fmt: skip
        if len(ends) == 1 and self._is_there(path := os.path.join(os.path.dirname(name), ends[0])):
            return os.path.join(self.folder, path), "with another ending"
        return None

    def _is_there(self, name: str) -> bool:
        if "\0" in name or has_control_characters(name) or self._outside(name) is not None:
            return False
        return os.path.isfile(os.path.join(self.folder, name))

    def _listing(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listings:
            found: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
            except OSError:
                pass
            self._listings[folder] = found
        return self._listings[folder]

    def _some_image(self) -> str | None:
        """Return one image that is in the folder."""
        for parent, _, names in os.walk(self.folder):
            for name in sorted(names):
                if name.lower().endswith(IMAGE_SUFFIXES) and not has_control_characters(name):
                    return os.path.join(parent, name)
        return None

    def _id(self, what: str, position: int, entry: dict[str, Any], taken: dict[int | str, Any]) -> int | str:
        key = entry.get("id")
        if not _is_id(key):
            self._fail(f"{what} number {position} has the id {SHOWN.repr(key)}", "Make it an integer or text.")
        key = _id(key)
        if key in taken:
            self._fail(f"{what} number {position} has the id {SHOWN.repr(key)} of an earlier one",
                       f"Give each {what} its own id.")  # fmt: skip
        return key

    def _box(
        self, entry: dict[str, Any], where: str, image: dict[str, Any], size: tuple[int, int] | None
    ) -> list[float]:
        """Return the box as [x0, y0, x1, y1]."""
        bbox = entry.get("bbox")
        if not bbox and entry.get("segmentation"):
            bbox = self._box_of_outline(entry["segmentation"], where, image, size)
            self._done.setdefault("boxes made from polygons or masks, as the bbox is missing", []).append(where)
        if not (_are_numbers(bbox) and len(bbox) == 4):
            self._fail(f"{where} has bbox {SHOWN.repr(bbox)}", "Make it four finite numbers, [x, y, width, height].")
        x, y, w, h = bbox
        if w < 0 or h < 0:
            self._fail(f"{where} has bbox {SHOWN.repr(bbox)}, with a negative width or height",
                       "Write it as [x, y, width, height].")  # fmt: skip
        return [x, y, x + w, y + h]

    def _box_of_outline(
        self, outline: Any, where: str, image: dict[str, Any], size: tuple[int, int] | None
    ) -> list[float]:
        """Return the bbox of polygons or of a run-length code, by pycocotools."""
        try:
            from pycocotools import mask
        except ModuleNotFoundError:
            raise InputError(f"{self.path}: {where} has no bbox, and its box is made from its segmentation by "
                             "pycocotools: pip install 'isod[evaluate]'") from None  # fmt: skip
        wrong = "has no bbox, and a segmentation that is neither polygons nor a run-length code of the image's size"
        remedy = "Add its bbox, or correct its segmentation."
        if size is None:
            from isod.data.prepare.decode import image_size

            try:
                size = image_size(os.path.join(self.folder, image["file_name"]))
            except FrameError:
                self._fail(f"{where} has no bbox, and its image has no size and cannot be read",
                           "Add its bbox, or the size of the image.")  # fmt: skip
        height, width = size
        if height * width > MAX_PIXELS:
            self._fail(f"{where} {wrong}", remedy)
        if isinstance(outline, list):
            far = 4 * max(height, width)
            if not all(_are_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 and len(part) <= MAX_OUTLINE
                       and max(map(abs, part)) <= far for part in outline):  # fmt: skip
                self._fail(f"{where} {wrong}", remedy)
            code = mask.merge(mask.frPyObjects([[float(value) for value in part] for part in outline], height, width))
        else:
            counts = outline.get("counts") if isinstance(outline, dict) else None
            if not isinstance(outline, dict) or outline.get("size") != [height, width]:
                self._fail(f"{where} {wrong}", remedy)
            if (
                isinstance(counts, list)
                and all(_is_int(n) and n >= 0 for n in counts)
                and sum(counts) == height * width
            ):
                code = mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
            elif isinstance(counts, str) and _is_run_length(counts, height * width):
                code = {"counts": counts.encode(), "size": [height, width]}
            else:
                self._fail(f"{where} {wrong}", remedy)
        return [float(value) for value in mask.toBbox(code)]

    def _fail(self, problem: str, remedy: str) -> NoReturn:
        raise InputError(f"{self.path}: {problem}. {remedy}")


def _dont_care(entry: dict[str, Any]) -> bool:
    return bool(entry.get("iscrowd")) or bool(entry.get("ignore"))


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    return None if entry.get("width") is None else (entry["height"], entry["width"])


def _bounds(outline: Any) -> list[float] | None:
    """Return the box around polygons, [x0, y0, x1, y1]; None where it has no area, or where they are none."""
    if not isinstance(outline, list):
        return None
    try:
        parts = [part for part in outline if len(part) >= 6]
        sides = [min(min(p[::2]) for p in parts), min(min(p[1::2]) for p in parts),
                 max(max(p[::2]) for p in parts), max(max(p[1::2]) for p in parts)]  # fmt: skip
    except (TypeError, ValueError, KeyError):  # no numbers, or no polygon
        return None
    if not (_are_numbers(sides) and sides[0] < sides[2] and sides[1] < sides[3]):
        return None
    return sides


def _iou(a: list[float], b: list[float]) -> float:
    """Return the intersection over the union of two boxes, of which ``b`` has an area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _is_run_length(counts: str, pixels: int) -> bool:
    """Whether a compressed run-length code is whole and covers the image; pycocotools itself reads on behind it."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return False
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return shift == 0 and min(runs, default=-1) >= 0 and sum(runs) == pixels


def _is_id(value: Any) -> TypeGuard[int | str]:
    """Whether it is an integer or a text that can name an entry."""
    return _is_int(value) or (isinstance(value, str) and 0 < len(value) <= 200 and not has_control_characters(value))


def _id(value: int | str) -> int | str:
    """Return an id as it is compared: text that is a whole number is that number."""
    return int(value) if isinstance(value, str) and WHOLE.fullmatch(value) else value


def _order(key: int | str) -> tuple[bool, int, str]:
    """Return what ids are sorted by: whole numbers first, by value, then text."""
    return (True, 0, key) if isinstance(key, str) else (False, key, "")


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(_is_number(value) and math.isfinite(value) for value in values)


def _is_int(value: Any) -> TypeGuard[int]:
    """Whether it is an integer that Arrow can hold: JSON's have no limit."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    """Whether it is a number that float holds exactly."""
    return isinstance(value, float) or (_is_int(value) and abs(value) < 2**53)


def _is_file(folder: Path, name: str) -> bool:
    return "\0" not in name and os.path.isfile(folder / name)


def find(path: Path) -> list[list[str]]:
    """Return the arguments of ``isod prepare coco`` for every pair of jsons that a folder holds, or for a json."""
    jsons = sorted([*path.glob("*.json"), *path.glob("*/*.json")])[:FOUND] if path.is_dir() else [path]
    folders = [entry for entry in sorted(path.rglob("*")) if entry.is_dir()][:FOUND] if path.is_dir() else []
    found: dict[str, list[list[str]]] = {"train": [], "val": []}
    for file in jsons:
        try:
            content = parse_json(read_file(file, MAX_JSON))
            names = [str(entry["file_name"]) for entry in content["images"][:TRIED]]
            assert isinstance(content["annotations"], list)
        except (OSError, ValueError, KeyError, TypeError, AssertionError):
            continue
        places = [file.parent, *folders, file.parent.parent / "images"]
        images = next((folder for name in names for folder in places if _is_file(folder, name)), file.parent)
        split = "val" if re.search("val|test", f"{file.parent.name}/{file.name}") else "train"
        found[split].append([f"--{split}", str(images), str(file)])
    return [[*train, *val] for train in found["train"] for val in found["val"] or [["--val-share", "0.2"]]]
