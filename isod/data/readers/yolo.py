"""YOLO datasets: a data.yaml and a text file of boxes per image (https://docs.ultralytics.com/datasets/detect)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml

from isod.data.readers.folders import (
    IMAGE_SUFFIXES,
    MAX_LIST,
    FolderReader,
    LabelFile,
    LabelledFrame,
    check_class_name,
    list_images,
    names_in,
    require_inside,
)
from isod.errors import InputError, one_line
from isod.files import has_control_characters, read_file
from isod.vocabulary import SPLITS, Split

MAX_YAML = 2**24  # bytes
LONGEST = 1000  # characters of a path in data.yaml or in a list
PARENTS = 3  # folders above that of data.yaml, which its entries may be relative to
FOLDERS = {"train": ("train", "images/train", "images"), "val": ("val", "valid", "validation", "images/val")}
NAME_FILES = ("classes.txt", "*.names", "_darknet.labels", "train/_darknet.labels", "labels/classes.txt")
DEPTH = 4  # levels of folders that are looked through for a data.yaml
MOST_FILES = 1000  # that are looked at for one
FAR_OFF = 1.0  # a value this far outside 0…1 is no share of an image
LINE = "Write each line as CLASS X Y WIDTH HEIGHT, centre and size as shares of the image, 0 to 1, or as a polygon."


class YoloReader(FolderReader):
    """The images that a data.yaml names, and their labels: boxes, polygons or oriented boxes, all of them as boxes."""

    source = "yolo"

    def __init__(self, data: str | os.PathLike[str], *, follow_links: bool = False) -> None:
        """Read data.yaml and every label file; no image is opened.

        Labels are in the folder ``labels`` in place of the last ``images`` of an image's path, or beside the image. An
        image without a label file has no objects. Images follow the order of their paths.

        Args:
            data: the data.yaml, or the folder that holds it.
            follow_links: whether an image may be a link that leads out of its folder.
        Raises:
            InputError: a file is wrong, with the line and the rule; a folder does not exist; no image has labels.
        """
        super().__init__()
        self.path = _data_file(Path(data))
        self._follow_links = follow_links
        self._outside: list[str] = []  # lines whose boxes reach far outside of the image
        self._repeated: list[str] = []  # lines that say what another one of their file does
        content = self._content()
        self.class_names = self._names(content)
        self._extra_values = self._keypoint_values(content)  # of each line, behind the box
        self._base = self._base_folder(content)
        self._settings = {"data": str(self.path.resolve()), "base": str(self._base)}
        self.boxes = 0
        for split in SPLITS:
            self._frames[split] = self._split(split, content)
        if content.get("test"):
            self.notes.append(f"note: {self.path}: its split test is not read")
        self._note("lines that repeat another one of their file, which count once", self._repeated, self.path)
        if 2 * len(self._outside) > self.boxes:
            raise InputError(f"{len(self._outside)} of {self.boxes} boxes of {self.path} do not lie inside their "
                             f"image, the first of {self._outside[0]}. {LINE}")  # fmt: skip

    def _content(self) -> dict[str, Any]:
        """Parse data.yaml; every scalar is text, so that a class may be called "no" or "1"."""
        file = LabelFile(self.path, self._digest, MAX_YAML)
        text = "\n".join(file.lines())
        try:
            content = yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            reason = getattr(error, "problem", None) or one_line(error)
            file.fail(None if mark is None else mark.line + 1, f"it is not YAML ({reason})", "Correct the file.")
        if not isinstance(content, dict):
            file.fail(None, 'it has no keys such as "train" and "names"', "Name the data.yaml of a YOLO dataset.")
        return content

    def _names(self, content: dict[str, Any]) -> tuple[str, ...]:
        names, count = content.get("names"), content.get("nc")
        if not names and count is None:
            self._fail('it has no key "names"; its keys are ' + f"{sorted(map(str, content))}"[:200],
                       "Add the class names, in the order of their numbers.")  # fmt: skip
        number = self._integer("nc", count) if count is not None else None
        if not names:
            assert number is not None
            if not 1 <= number <= 2**16:
                self._fail(f"nc is {number}", "Make it the number of classes.")
            self.notes.append(f"note: {self.path}: it names no classes: they are called class_0 to class_{number - 1}")
            names = [f"class_{i}" for i in range(number)]
        if isinstance(names, dict):
            numbered = {self._integer('a number in "names"', key): name for key, name in names.items()}
            if sorted(numbered) != list(range(len(names))):
                self._fail(f'"names" has the numbers {sorted(numbered)}'[:200], "Number the classes 0, 1, 2, …")
            names = [numbered[i] for i in range(len(numbered))]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._fail('"names" is not a list of names, nor numbers with names', "Write it as names: [car, person].")
        if number is not None and number != len(names):
            self._fail(f'nc is {number}, and "names" has {len(names)} classes', "Make them agree.")
        for name in names:
            check_class_name(name, str(self.path))
            if names.count(name) > 1:
                self._fail(f"two classes have the name {name!r:.100}", "Rename one of them.")
        return tuple(names)

    def _keypoint_values(self, content: dict[str, Any]) -> int | None:
        """Return how many values of keypoints follow each box; None in a dataset without keypoints."""
        shape = content.get("kpt_shape")
        if shape is None:
            return None
        if not isinstance(shape, list) or len(shape) != 2:
            self._fail(f"kpt_shape is {shape!r:.100}", "Make it [keypoints, values of each].")
        points, values = (self._integer("kpt_shape", value) for value in shape)
        self.notes.append(f"note: {self.path}: keypoints are left out, and boxes are kept")
        return points * values

    def _integer(self, what: str, value: Any) -> int:
        try:
            return int(str(value)[:20])
        except ValueError:
            self._fail(f"{what} is {value!r:.100}", "Make it an integer.")

    def _base_folder(self, content: dict[str, Any]) -> Path:
        """Return the folder that the splits are relative to: "path", or the one of data.yaml."""
        here = self.path.resolve().parent
        stated = content.get("path")
        if not stated:
            return here
        if not isinstance(stated, str) or len(stated) > LONGEST or has_control_characters(stated):
            self._fail(f"path is {stated!r:.100}", "Make it a folder.")
        base = Path(here, stated)
        if os.path.isdir(base):
            return base.resolve()
        self.notes.append(f"note: {self.path}: its path {stated} does not exist: the folder of the file is used")
        return here

    def _split(self, split: Split, content: dict[str, Any]) -> list[LabelledFrame]:
        stated = content.get(split) or (content.get("validation") or content.get("valid") if split == "val" else None)
        if not stated:
            if split == "train":
                self._fail('it has no key "train"', "Name the folder of the training images.")
            return []
        entries = stated if isinstance(stated, list) else [stated]
        whole_folders = True
        found: list[tuple[str, Path]] = []  # name within the entry, image
        for entry in entries:
            if not isinstance(entry, str) or not 0 < len(entry) < LONGEST or has_control_characters(entry):
                self._fail(f"{split} names {entry!r:.100}", "Name a folder of images, or a text file that lists them.")
            place = self._place(split, entry)
            whole_folders = whole_folders and place.is_dir()
            found += self._listed(place) if place.is_file() else self._in_folder(place)
        if len({name for name, _ in found}) < len(found):  # several folders have images of the same name
            found = [(os.path.relpath(image, self._base), image) for _, image in found]
        found.sort()
        for (name, _), (other, _) in pairwise(found):
            if name == other:
                self._fail(f"{split} names the image {name} twice", "Name each image once.")
        if not found:
            self._fail(f"{split} names no image ({', '.join(map(str, entries))})"[:300],
                       f"Images end in {', '.join(IMAGE_SUFFIXES)}.")  # fmt: skip
        return self._label(split, found, whole_folders=whole_folders)

    def _place(self, split: str, entry: str) -> Path:
        """Return the folder or list that an entry names.

        Some exporters write one level too many of "../"; v5 took entries relative to the working directory, which a
        data.yaml in a folder of its own, such as configs/, often relies on.
        """
        stated, entry = entry, entry.replace("\\", "/")
        here = self.path.resolve().parent
        tried = [Path(self._base, entry), Path(here, entry)]
        short = entry
        while short.startswith("../"):
            short = short[3:]
            tried += [Path(self._base, short), Path(here, short)]
        own = len(tried)
        tried += [Path(entry), *(Path(folder, entry) for folder in here.parents[:PARENTS])]
        for number, place in enumerate(tried):
            if os.path.exists(place):  # unlike Path.exists, also of a name that is too long
                found = place.resolve()
                if number >= own:
                    self.notes.append(f"note: {self.path}: {split} names {stated}, which is taken from {found}")
                return found
        self._fail(f"{split} names {entry!r:.200}, and there is neither a folder nor a file {str(tried[0])[:300]}",
                   "Correct it, or the key path.")  # fmt: skip

    def _in_folder(self, folder: Path) -> list[tuple[str, Path]]:
        images = list_images(folder, recursive=True, follow_links=self._follow_links)
        return [(image.relative_to(folder).as_posix(), image) for image in images]

    def _listed(self, path: Path) -> list[tuple[str, Path]]:
        """Return the images that a text file lists, relative to its own folder or to the dataset's."""
        file = LabelFile(path, self._digest, MAX_LIST)
        found = []
        for number, line in enumerate(file.lines(), 1):
            if not (name := line.strip().replace("\\", "/")):
                continue
            if len(name) > LONGEST or has_control_characters(name) or not name.lower().endswith(IMAGE_SUFFIXES):
                file.fail(number, f"{name!r:.200} does not end as an image does",
                          f"Images end in {', '.join(IMAGE_SUFFIXES)}.")  # fmt: skip
            # Only a line that begins with "./" is relative to the list, as in COCO's own lists.
            places = [Path(path.parent, name), Path(self._base, name)]
            image = Path(os.path.normpath(next((place for place in places if os.path.isfile(place)), places[0])))
            if not self._follow_links and image.is_symlink():
                require_inside(image.parent, [image])
            found.append((os.path.relpath(image, self._base), image))
        return found

    def _label(self, split: str, found: list[tuple[str, Path]], *, whole_folders: bool) -> list[LabelledFrame]:
        """Read the label file of each image, if it has one.

        Args:
            whole_folders: whether all images of a folder are of this split.
        """
        listed: dict[Path, set[str]] = {}
        frames, without = [], []
        spare: set[Path] = set()  # labels of no image, where the folder has no images of another split
        for name, image in found:
            for folder in _label_folders(image.parent):
                if folder not in listed:
                    listed[folder] = set(names_in(folder, ".txt"))
                    if folder != image.parent and whole_folders:
                        spare |= {folder / stem for stem in listed[folder]}
                if image.stem in listed[folder]:
                    spare.discard(folder / image.stem)
                    frames.append(self._frame(name, image, folder / f"{image.stem}.txt"))
                    break
            else:
                without.append(name)
                self._digest.update(name.encode())
                frames.append(self._frame(name, image, None))
        if len(without) == len(found):
            first = _label_folders(found[0][1].parent)[0] / f"{found[0][1].stem}.txt"
            self._fail(
                f"none of the {len(found)} images of {split} has a label file; the first one looked for is {first}",
                'Put them there, in a folder "labels" in place of "images", or beside the images.',
            )
        self._note(f"{split} images without a label file, which have no objects", without, self.path)
        self._note(f"{split} label files without an image, which are not used", sorted(map(str, spare)), self.path)
        return frames

    def _frame(self, name: str, image: Path, labels: Path | None) -> LabelledFrame:
        self._digest.update(name.encode())
        boxes: list[list[float]] = []
        classes: list[int] = []
        seen: set[tuple[float, ...]] = set()
        if labels is not None:
            file = LabelFile(labels, self._digest)
            for number, words in file.rows():
                label, box = self._line(file, number, words)
                if (label, *box) in seen:
                    self._repeated.append(f"{file.path}, line {number}")
                    continue
                seen.add((label, *box))
                boxes.append(box)
                classes.append(label)
        return LabelledFrame(
            frame_id=name,
            image_path=str(image),
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            labels=classes,
            in_shares=True,
        )

    def _line(self, file: LabelFile, number: int, words: Sequence[str]) -> tuple[int, list[float]]:
        """Return the label 1…C and the box [x0, y0, x1, y1], shares of the image."""
        label, *values = file.numbers(number, words)
        if label != int(label) or not 0 <= label < len(self.class_names):
            file.fail(number, f"it has the class {words[0]:.20}, and {self.path} names {len(self.class_names)}, "
                      f"0 to {len(self.class_names) - 1}", "Correct the number, or add the class.")  # fmt: skip
        if self._extra_values is not None:
            if len(values) != 4 + self._extra_values:
                file.fail(number, f"it has {len(words)} values, and kpt_shape asks for {5 + self._extra_values}",
                          "Correct the line, or kpt_shape.")  # fmt: skip
            values = values[:4]
        if not all(-FAR_OFF <= value <= 1 + FAR_OFF for value in values):
            file.fail(number, f"the values {' '.join(words[1:5]):.100} are no shares of an image", LINE)
        if len(values) == 4:
            x, y, w, h = values
            if w < 0 or h < 0:
                file.fail(number, f"it has the width {words[3]:.20} and the height {words[4]:.20}", LINE)
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        elif len(values) >= 6 and len(values) % 2 == 0:  # a polygon, of which an oriented box is one
            box = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
        else:
            file.fail(number, f"it has {len(words)} values", LINE)
        self.boxes += 1
        if min(box[:2]) < -0.01 or max(box[2:]) > 1.01:
            self._outside.append(f"{file.path}, line {number}")
        return int(label) + 1, box

    def _fail(self, problem: str, remedy: str) -> NoReturn:
        raise InputError(f"{self.path}: {problem}. {remedy}")


class _Loader(yaml.SafeLoader):
    """Read every scalar as text, and refuse a key that is written twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r:.50} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _data_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(entry for entry in path.iterdir() if entry.suffix in (".yaml", ".yml"))
    named = [entry for entry in found if entry.stem == "data"] or found
    if len(named) != 1:
        hint = "Name the data.yaml of the dataset." if found else f"Write its data.yaml, such as {_suggested(path)}"
        raise InputError(f"{path} holds {len(found)} files that end in .yaml. {hint}")
    return named[0]


def _suggested(root: Path) -> str:
    """Return a data.yaml for a folder that has none, as tools for darknet leave it, with the class names they list."""
    names: list[str] = []
    for path in _name_files(root):
        try:
            lines = read_file(path, MAX_YAML).decode("utf-8-sig").splitlines()
        except (OSError, ValueError):
            continue
        names = [name.strip() for name in lines if name.strip() and not has_control_characters(name)]
        break
    folders = {
        split: next((name for name in words if (root / name).is_dir()), None) for split, words in FOLDERS.items()
    }
    keys: dict[str, Any] = {split: name for split, name in folders.items() if name} | {
        "names": names or ["car", "person"]
    }
    return yaml.safe_dump({"train": ".", **keys}, default_flow_style=True, width=2**16, allow_unicode=True).strip()


def _name_files(root: Path) -> list[Path]:
    return sorted(path for pattern in NAME_FILES for path in root.glob(pattern))


def _label_folders(images: Path) -> list[Path]:
    """Return where the labels of a folder of images may be, in the order of looking."""
    parts = list(images.parts)
    folders = []
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        folders.append(Path(*parts[:last], "labels", *parts[last + 1 :]))
    return [*folders, images / "labels", images]


def find(path: Path) -> list[list[str]]:
    """Return the arguments of ``isod prepare yolo`` for every dataset that a path holds."""
    levels = ["*/" * depth for depth in range(DEPTH)]
    files = [file for level in levels for end in ("yaml", "yml") for file in sorted(path.glob(f"{level}*.{end}"))]
    found = []
    for file in files[:MOST_FILES] if path.is_dir() else [path]:
        if file.suffix not in (".yaml", ".yml"):
            continue
        try:
            content = yaml.load(read_file(file, MAX_YAML).decode("utf-8-sig"), Loader=_Loader)
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue
        if isinstance(content, dict) and "train" in content and ("names" in content or "nc" in content):
            has_val = any(content.get(key) for key in ("val", "validation", "valid"))
            found.append([str(file), *([] if has_val else ["--val-share", "0.2"])])
    if not found and path.is_dir() and _name_files(path):
        found.append([str(path)])  # its reader says what is missing
    return found
