"""The files of a store, in a folder or in object storage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs

from isod.errors import InputError
from isod.files import MAX_JSON

if TYPE_CHECKING:
    pass


def filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a store's address, and the path on it. Raises InputError for an address it cannot open."""
    try:
        if "://" in uri:
            return pyarrow.fs.FileSystem.from_uri(uri)
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{uri} is not an address that a crop store can live at: {error}") from None


def read_text(uri: str, name: str) -> str | None:
    """The text of a file of the store; None if there is no such file."""
    files, path = filesystem(uri)
    try:
        with files.open_input_stream(f"{path}/{name}") as stream:
            data = stream.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise InputError(f"{uri}/{name} has more than the {MAX_JSON} bytes that are read")
        return data.decode()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}/{name} cannot be read: {error}") from None


def write_text(uri: str, name: str, text: str) -> None:
    """Write a file of the store whole: under another name first, then moved into place."""
    files, path = filesystem(uri)
    target = f"{path}/{name}"
    files.create_dir(os.path.dirname(target), recursive=True)
    with files.open_output_stream(f"{target}.part") as stream:
        stream.write(text.encode())
    files.move(f"{target}.part", target)
