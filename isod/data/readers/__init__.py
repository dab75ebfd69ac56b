"""The dataset formats that ``isod prepare`` reads. A format is a reader and one row of ``READERS``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isod.data.prepare.region import FAR, Region
from isod.data.readers.base import Reader
from isod.errors import InputError, one_line
from isod.plugins import resolve

SPLIT_FILES = {"nargs": 2, "metavar": ("IMAGES", "JSON")}
LINKS = {"action": "store_true", "help": "read images that are links out of their folder, too"}
CLASSES = {
    "nargs": "+",
    "metavar": "NAME",
    "help": "classes in order; others are don't-care (default: all, A to Z)",
}
By = Literal["frame", "sequence"]
BY: tuple[By, ...] = ("frame", "sequence")  # what a validation part is cut by


@dataclass(frozen=True, kw_only=True)
class DatasetFormat:
    """One dataset format: how its reader is built, and what the command line says about it."""

    summary: str  # one line
    reader: str  # "module:function or class" that returns a Reader; imported when the format is used
    arguments: Mapping[str, Mapping[str, Any]]  # name as argparse knows it → options of ``add_argument``
    find: str  # "module:function" of a path that returns the arguments before STORE of each dataset found there
    lenient: bool = False  # whether the reader takes ``lenient``, which the command line has for all formats
    roi: Region | None = None  # default region of interest, pixels of the full image; None: the whole image
    roi_name: str = "the whole image"
    example: str  # a command line


READERS: dict[str, DatasetFormat] = {
    "zod": DatasetFormat(
        summary="ZOD Frames, or the demo data that `isod demo` writes",
        reader="isod.data.readers.zod:ZodReader",
        find="isod.data.readers.zod:find",
        arguments={
            "root": {"metavar": "ROOT", "help": "folder of ZOD Frames or of demo data"},
            "--version": {"default": "full", "metavar": "NAME", "help": "full or mini (default %(default)s)"},
            "--anonymization": {
                "default": "blur",
                "metavar": "NAME",
                "help": "which images: blur, dnat or original (default %(default)s)",
            },
        },
        roi=FAR,
        roi_name=f"the far region, {FAR.x0} {FAR.y0} {FAR.x1} {FAR.y1}",
        example="isod prepare zod demo demo-store --version mini --resize 160 48",
    ),
    "coco": DatasetFormat(
        summary="a folder of images and a COCO json per split",
        reader="isod.data.readers.coco:CocoReader",
        find="isod.data.readers.coco:find",
        arguments={
            "--train": {**SPLIT_FILES, "required": True, "help": "image folder and json of the training split"},
            "--val": {**SPLIT_FILES, "help": "image folder and json of the validation split"},
            "--sequence-field": {
                "metavar": "NAME",
                "help": "key of an image that names its sequence (default: sequence or video_id, where all have it)",
            },
            "--follow-links": LINKS,
        },
        lenient=True,
        example="isod prepare coco store --train images train.json --val images val.json --resize 512 288",
    ),
    "yolo": DatasetFormat(
        summary="a data.yaml with a text file of boxes, polygons or oriented boxes per image",
        reader="isod.data.readers.yolo:YoloReader",
        find="isod.data.readers.yolo:find",
        arguments={
            "data": {"metavar": "DATA", "help": "the data.yaml, or its folder"},
            "--follow-links": LINKS,
        },
        example="isod prepare yolo dataset/data.yaml store --resize 512 288",
    ),
    "voc": DatasetFormat(
        summary="an XML file per image, with VOC's ImageSets or a folder per split",
        reader="isod.data.readers.voc:VocReader",
        find="isod.data.readers.voc:find",
        arguments={
            "root": {"metavar": "ROOT", "help": "folder with ImageSets, or with train and val, or with one split"},
            "--train-set": {"default": "train", "metavar": "NAME", "help": "list in ImageSets/Main (%(default)s)"},
            "--val-set": {"default": "val", "metavar": "NAME", "help": "list in ImageSets/Main (%(default)s)"},
            "--classes": CLASSES,
            "--one-based": {"action": "store_true", "help": "the first pixel is 1, as in VOC's own sets, and not 0"},
            "--follow-links": LINKS,
        },
        example="isod prepare voc VOC2012 store --val-set val --one-based --resize 512 384",
    ),
    "kitti": DatasetFormat(
        summary="KITTI's text file per image, with ImageSets or a folder per split",
        reader="isod.data.readers.kitti:KittiReader",
        find="isod.data.readers.kitti:find",
        arguments={
            "root": {"metavar": "ROOT", "help": "folder with training/image_2, or with train and val"},
            "--classes": CLASSES,
            "--max-truncated": {
                "type": float,
                "default": 1.0,
                "metavar": "X",
                "help": "objects of which more is out of the image are don't-care, 0 to 1 (default %(default)s)",
            },
            "--max-occluded": {
                "type": int,
                "default": 3,
                "metavar": "N",
                "help": "objects that are hidden more are don't-care, 0 to 3 (default %(default)s)",
            },
            "--follow-links": LINKS,
        },
        example="isod prepare kitti kitti store --val-share 0.2 --val-by frame",
    ),
}


def find_datasets(path: str) -> list[list[str]]:
    """Return the arguments of ``isod prepare`` before STORE, format first, of every dataset that a path seems to hold.

    Raises:
        InputError: the path does not exist.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"{path} does not exist: name the folder or the file of a dataset")
    return [
        [name, *arguments]
        for name, row in READERS.items()
        for arguments in resolve("dataset format", name, {name: row.find})(place)
    ]


def build_reader(name: str, arguments: Mapping[str, Any]) -> Reader:
    """Return the reader of a format, or the one that somebody else's function makes.

    Args:
        name: a key of ``READERS``, or ``package.module:function``.
        arguments: keyword arguments of the reader or of the function.
    Raises:
        InputError: there is no such format or function, it does not take these arguments, what it returns is not a
            ``Reader``, or the reader rejects the dataset.
    """
    make: Any = resolve("dataset format", name, {known: row.reader for known, row in READERS.items()})
    try:
        inspect.signature(make).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"reader {name} does not take these arguments ({one_line(error)}): give it each one that it needs, as "
            "--arg NAME=VALUE, and no other"
        ) from None
    reader: Reader = make(**arguments)
    missing = [member for member in vars(Reader) if not member.startswith("_") and not hasattr(reader, member)]
    if missing:
        raise InputError(
            f"reader {name} returned a {type(reader).__name__} without {', '.join(missing)}: it must return an "
            "isod.data.readers.base.Reader"
        )
    return reader
