"""COCO-format datasets: a folder of images and a json per split."""

from __future__ import annotations

import hashlib
import math
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from isod.data.objects import Objects
from isod.errors import InputError, one_line
from isod.files import MAX_JSON, MAX_PIXELS, has_control_characters, parse_json, read_file
from isod.vocabulary import DONT_CARE, Split

SHOWN = reprlib.Repr()  # a wrong value in a message: short, whatever it is
SHOWN.maxstring = SHOWN.maxother = 200
OVERHANG = 1.0  # pixels by which a box may leave its image without a word, as rounding makes it do


@dataclass(frozen=True)
class CocoFrameRef:
    """One image of a COCO json."""

    frame_id: str  # file_name
    image_path: str
    size: tuple[int, int]  # (height, width), pixels, as the json says
    annotation: Objects

    def objects(self) -> Objects:
        """The image's objects; read and checked before."""
        return self.annotation


class CocoReader:
    """Two COCO jsons that share their classes. ``iscrowd`` is don't-care; labels follow the order of category ids."""

    source = "coco"
    demo = False

    def __init__(
        self,
        train: tuple[str | os.PathLike[str], str | os.PathLike[str]],
        val: tuple[str | os.PathLike[str], str | os.PathLike[str]],
    ) -> None:
        """Read and check both jsons; touch no image.

        Boxes that reach beyond their image are clipped; those without an area inside it, which COCO's own sets have
        too, are left out. ``notes`` says how many.

        Args:
            train, val: (folder of images, json).
        Raises:
            InputError: whatever is wrong with a json, naming the file, the entry and the rule; a class in val that
                train lacks; no image file at all.
        """
        self._paths = {"train": train, "val": val}
        files = {split: _CocoFile(Path(images), Path(path)) for split, (images, path) in self._paths.items()}
        self._sha256 = {split: file.sha256 for split, file in files.items()}
        self.class_names = tuple(files["train"].categories.values())
        labels = {name: label for label, name in enumerate(self.class_names, 1)}
        for name in files["val"].categories.values():
            if name not in labels:
                raise InputError(
                    f"{files['val'].path} has the class {name!r}, which {files['train'].path} lacks: "
                    "a detector cannot learn it"
                )
        self._frames = {split: file.frames(labels) for split, file in files.items()}
        self.notes = [note for file in files.values() for note in file.notes()]

    @property
    def settings(self) -> dict[str, object]:
        """What identifies the dataset."""
        return {
            split: {
                "images": str(Path(images).resolve()),
                "json": str(Path(path).resolve()),
                "sha256": self._sha256[split],
            }
            for split, (images, path) in self._paths.items()
        }

    def known_faults(self, split: Split) -> None:
        """COCO's format has no place for them."""
        return None

    def frames(self, split: Split) -> list[CocoFrameRef]:
        """The images of a split, in the order of their ids."""
        return self._frames[split]


class _CocoFile:
    """One json, checked entry by entry: a message says which file, which entry, which rule."""

    def __init__(self, folder: Path, path: Path) -> None:
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
        self._check(isinstance(self.content, dict), "it is a JSON object with images, annotations and categories",
                    type(self.content).__name__)  # fmt: skip
        for key in ("images", "annotations", "categories"):
            self._check(key in self.content, f"it has the key {key!r}", f"the keys {sorted(self.content)}")
            self._check(
                isinstance(self.content[key], list) and all(isinstance(entry, dict) for entry in self.content[key]),
                f"{key!r} is a list of objects", type(self.content[key]).__name__,
            )  # fmt: skip
        self.categories = self._categories()
        self.odd: list[tuple[str, bool]] = []  # boxes that do not lie in their image: which, whether nothing is left

    def notes(self) -> list[str]:
        """What was made of boxes that do not lie inside their image."""
        out = []
        for is_gone, what in (
            (True, "without an area in their image, left out"),
            (False, "beyond their image, clipped"),
        ):
            if boxes := [where for where, gone in self.odd if gone == is_gone]:
                out.append(f"note: boxes of {self.path} {what}: {len(boxes)}, the first of {boxes[0]}")
        return out

    def frames(self, labels: dict[str, int]) -> list[CocoFrameRef]:
        """Every image with its objects, in the order of image ids."""
        images = self._images()
        grouped: dict[int, list[tuple[list[float], int, bool]]] = {image_id: [] for image_id in images}
        seen: set[int] = set()
        for position, entry in enumerate(self.content["annotations"]):
            where = f"annotation {entry['id'] if _is_int(entry.get('id')) else f'number {position}'}"
            if "id" in entry:
                self._check(_is_int(entry["id"]) and entry["id"] not in seen, f"{where}: its id is a whole number that "
                            "no other annotation has", entry["id"])  # fmt: skip
                seen.add(entry["id"])
            image_id, category_id = entry.get("image_id"), entry.get("category_id")
            self._check(_is_int(image_id) and image_id in images, f"{where}: its image_id is one of the images",
                        image_id)  # fmt: skip
            self._check(_is_int(category_id) and category_id in self.categories,
                        f"{where}: its category_id is one of the categories", category_id)  # fmt: skip
            crowd = entry.get("iscrowd", 0)
            self._check(crowd in (0, 1), f"{where}: iscrowd is 0 or 1", crowd)
            box = self._box(entry.get("bbox"), where, images[image_id]["height"], images[image_id]["width"])
            if box is not None:
                grouped[image_id].append((box, 0 if crowd else labels[self.categories[category_id]], bool(crowd)))
        self._check(2 * len(self.odd) <= len(self.content["annotations"]),
                    "most boxes lie inside their images, as [x, y, width, height] in pixels of these",
                    f"{len(self.odd)} that do not, the first of {self.odd[0][0] if self.odd else ''}")  # fmt: skip
        refs = []
        for image_id in sorted(images):
            image, objects = images[image_id], grouped[image_id]
            refs.append(
                CocoFrameRef(
                    frame_id=image["file_name"],
                    image_path=os.path.join(self.folder, image["file_name"]),
                    size=(image["height"], image["width"]),
                    annotation=Objects.build(
                        [box for box, _, _ in objects], [n for _, n, _ in objects], [crowd for _, _, crowd in objects]
                    ),
                )
            )
        if not any(os.path.exists(ref.image_path) for ref in refs):
            raise InputError(f"none of the {len(refs)} images of {self.path} is in the folder {self.folder}")
        return refs

    def _categories(self) -> dict[int, str]:
        """Category id → name, in the order of ids."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        for entry in self.content["categories"]:
            key, name = entry.get("id"), entry.get("name")
            self._check(_is_int(key) and key not in names, "every category has a whole number of its own as id", key)
            self._check(isinstance(name, str) and bool(name), f"category {key} has a name", name)
            self._check(not has_control_characters(name), f"the name of category {key} has no control characters", name)
            self._check(name not in taken, "no two categories have the same name", name)
            self._check(
                name != DONT_CARE, f"no category is called {DONT_CARE!r}: isod counts crowds by that name", name
            )
            names[key] = name
            taken.add(name)
        self._check(bool(names), "it has at least one category", 0)
        return dict(sorted(names.items()))

    def _images(self) -> dict[int, dict[str, Any]]:
        """Image id → its entry. A file_name must stay inside the image folder, links followed."""
        images: dict[int, dict[str, Any]] = {}
        file_names: set[str] = set()
        for entry in self.content["images"]:
            key, name = entry.get("id"), entry.get("file_name")
            self._check(_is_int(key) and key not in images, "every image has a whole number of its own as id", key)
            self._check(isinstance(name, str) and bool(name), f"image {key} has a file_name", name)
            self._check(
                not has_control_characters(name), f"the file_name of image {key} has no control characters", name
            )
            self._check(name not in file_names, "no two images have the same file_name", name)
            shown = SHOWN.repr(name)
            for side in ("width", "height"):
                self._check(_is_int(entry.get(side)) and 0 < entry[side] <= MAX_PIXELS,
                            f"image {key} ({shown}): {side} is a positive whole number, {MAX_PIXELS} at most",
                            entry.get(side))  # fmt: skip
            plain = os.path.normpath(os.path.join(self.folder, name))  # of an absolute name: itself
            followed = os.path.realpath(os.path.join(self.folder, name))  # not of plain: LINK/.. is not this folder
            for path, how in ((plain, ""), (followed, ", links followed")):
                self._check(
                    os.path.commonpath([self.folder, path]) == self.folder != path and not os.path.isabs(name),
                    f"image {key}: its file_name stays inside the image folder {self.folder}{how}",
                    f"{name}, which is {path}" if how else name,
                )
            images[key] = entry
            file_names.add(name)
        self._check(bool(images), "it has at least one image", 0)
        return images

    def _box(self, bbox: Any, where: str, height: int, width: int) -> list[float] | None:
        """[x, y, w, h] → [x0, y0, x1, y1] within the image; None if nothing is left of it there."""
        numbers = isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(value) for value in bbox)
        self._check(numbers and all(math.isfinite(value) for value in bbox),
                    f"{where}: bbox is [x, y, width, height], four finite numbers", bbox)  # fmt: skip
        x, y, w, h = bbox
        self._check(w >= 0 and h >= 0, f"{where}: its bbox has no negative width or height", bbox)
        inside = x >= -OVERHANG and y >= -OVERHANG and x + w <= width + OVERHANG and y + h <= height + OVERHANG
        x0, y0, x1, y1 = (float(np.float32(v)) for v in (max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)))
        if not (x0 < x1 and y0 < y1):
            self.odd.append((where, True))
            return None
        if not inside:
            self.odd.append((where, False))
        return [x0, y0, x1, y1]

    def _check(self, holds: bool, rule: str, value: object) -> None:
        if not holds:
            raise InputError(f"{self.path} is not COCO as isod reads it: {rule}, got {SHOWN.repr(value)}")


def _is_int(value: Any) -> TypeGuard[int]:
    """A whole number that Arrow can hold: JSON's have no limit."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    """A number that float can hold exactly."""
    return isinstance(value, float) or (_is_int(value) and abs(value) < 2**53)
