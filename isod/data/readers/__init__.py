"""The dataset formats that ``isod prepare`` reads. A format is a reader and one row of ``READERS``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isod.data.prepare.region import FAR, Region
from isod.data.readers.base import Reader
from isod.errors import InputError, one_line
from isod.plugins import resolve

SPLIT_FILES = {"nargs": 2, "required": True, "metavar": ("IMAGES", "JSON")}


@dataclass(frozen=True, kw_only=True)
class DatasetFormat:
    """One dataset format: how its reader is built, and what the command line says about it."""

    summary: str  # one line
    reader: str  # "module:function or class" that returns a Reader; imported when the format is used
    arguments: Mapping[str, Mapping[str, Any]]  # name as argparse knows it → options of ``add_argument``
    roi: Region | None = None  # default region of interest, pixels of the full image; None: the whole image
    roi_name: str = "the whole image"
    example: str  # a command line


READERS: dict[str, DatasetFormat] = {
    "zod": DatasetFormat(
        summary="ZOD Frames, or the demo data that `isod demo` writes",
        reader="isod.data.readers.zod:ZodReader",
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
        arguments={
            "--train": {**SPLIT_FILES, "help": "image folder and json of the training split"},
            "--val": {**SPLIT_FILES, "help": "image folder and json of the validation split"},
        },
        example="isod prepare coco store --train images train.json --val images val.json --resize 512 288",
    ),
}


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
