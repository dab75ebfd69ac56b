"""Files: reading those that somebody else wrote, and writing ours whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from isod.errors import InputError

MAX_JSON = 2**31  # bytes of a dataset's or a store's JSON; COCO's own largest has 0.45 · 10⁹
MAX_IMAGE = 2**29  # bytes of an image file
MAX_PIXELS = 2**28  # of an image, 268 million: 32 times ZOD's; a header that claims more is not believed
CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, half surrogate pairs, line and paragraph separators


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a regular file: a pipe or device that lies in its place would never end.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or has more than ``limit`` bytes; how the sentence goes on after its name.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"has {status.st_size} bytes, more than the {limit} that are read")
        return file.read(limit)


def parse_json(text: bytes | str) -> Any:
    """JSON as its standard has it: no NaN or Infinity, no key twice, whole numbers of 4300 digits at most.

    Raises:
        ValueError: it is not JSON, or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def has_control_characters(name: str) -> bool:
    """Whether a name could move a terminal's cursor, break a line, or is no Unicode text at all."""
    return not name.isprintable() and any(unicodedata.category(character) in CONTROL for character in name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return content


def output_folder(path: Path) -> Path:
    """The folder, made if need be, as an absolute path. Raises InputError if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to the folder {path} ({error.strerror}): choose another --out") from None
    return path.resolve()


@contextmanager
def whole(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its place at the end. Whatever is raised, ``path`` is as it was, no
    part stays, and an OSError names ``path``.

    Args:
        part: the file to write, in the same folder; ``path`` with the ending .part by default.
    """
    part = part or path.with_suffix(".part")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def absolute(store_uri: str) -> str:
    """The store's address, or its folder's absolute path: what names it from any other folder too."""
    return store_uri if "://" in store_uri else str(Path(store_uri).resolve())
