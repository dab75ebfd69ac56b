"""The files of a store, in a folder or in object storage."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.fs

from isod.errors import InputError, one_line
from isod.files import MAX_JSON


def filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of an address, and the path on it. Raises InputError if it cannot be opened."""
    try:
        if "://" in uri:
            return pyarrow.fs.FileSystem.from_uri(uri)
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{uri} is not an address that can be opened ({one_line(error)}): name a folder, or an address such as "
            "s3://bucket/folder"
        ) from None


def read_text(uri: str, name: str) -> str | None:
    """Return the text of a file of the store, or None if there is no such file.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or has more than ``MAX_JSON`` bytes.
    """
    files, path = filesystem(uri)
    try:
        with files.open_input_stream(f"{path}/{name}") as stream:
            data = stream.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise InputError(f"{uri}/{name} has more than {MAX_JSON} bytes, the most that isod reads")
        return data.decode()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        check = "; check the address, that its server answers, and your credentials" if "://" in uri else ""
        raise InputError(f"{uri}/{name} cannot be read: {one_line(error)}{check}") from None


def write_text(uri: str, name: str, text: str) -> None:
    """Write a file of the store under another name, then move it into place. Raises OSError if it cannot."""
    files, path = filesystem(uri)
    target = f"{path}/{name}"
    files.create_dir(os.path.dirname(target), recursive=True)
    with files.open_output_stream(f"{target}.part") as stream:
        stream.write(text.encode())
    files.move(f"{target}.part", target)
