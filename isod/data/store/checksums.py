"""Checksums of the files of a store, as Lance trusts what a file says of itself at its end.

Lance allocates memory by lengths that stand in the last kilobytes of a file. One damaged byte among them, and it asks
for gigabytes; where it does not get them the whole process ends, which no error handler sees. (``python -m
tests.system.fuzz lance`` found that with pylance 14.0.2. Damage to the crops before that part leads to errors, which
are caught.) So a split is opened only while its manifest and the end of each of its files are what was written. Stores
that were made before there were checksums open without.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs

SEALED = 1 << 16  # bytes at the end of a data file that its seal covers; all of a smaller one, and of a manifest
NAME = re.compile(r"data/[\w-]+\.lance|_versions/[\w-]+\.manifest")  # of a file that has a seal
AT_ONCE = 16  # files: elsewhere than on a disk each takes a round trip

Seal = Sequence[int]  # bytes of the file, CRC-32 of its end


def seal_files(files: pyarrow.fs.FileSystem, path: str) -> dict[str, Seal]:
    """The seals of a Lance dataset, by file name within it."""
    found = [
        f"{folder}/{info.base_name}"
        for folder in ("data", "_versions")
        for info in files.get_file_info(pyarrow.fs.FileSelector(f"{path}/{folder}"))
    ]
    names = [name for name in found if NAME.fullmatch(name)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(names, pool.map(lambda name: _seal(files, f"{path}/{name}"), names), strict=True))


def check_seals(files: pyarrow.fs.FileSystem, path: str, seals: Mapping[str, Seal]) -> None:
    """Hold a Lance dataset against its seals. Raises ValueError that names the first file that is not as it was."""

    def check(name: str) -> None:
        try:
            found = _seal(files, f"{path}/{name}")
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        if found[0] != seals[name][0]:
            raise ValueError(f"{name} has {found[0]} bytes instead of {seals[name][0]}")
        if found[1] != seals[name][1]:
            raise ValueError(f"{name} is not what was written")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(check, seals))  # list(): raise what a thread raised


def _seal(files: pyarrow.fs.FileSystem, path: str) -> Seal:
    with files.open_input_file(path) as file:
        size = file.size()
        begin = 0 if path.endswith(".manifest") else max(size - SEALED, 0)
        return [size, zlib.crc32(file.read_at(size - begin, begin))]
