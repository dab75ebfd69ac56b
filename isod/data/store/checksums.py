"""Checksums of the files of a store, because Lance trusts what a file says about itself at its end.

Lance allocates memory by lengths that it reads from the last kilobytes of a file. If one of their bytes is damaged, it
asks for gigabytes; if it does not get them, the whole process ends, and no error handler runs. (``python -m
tests.system.fuzz lance`` found this with pylance 14.0.2. Damage before that part, in the crops, raises errors, which
are caught.) So a split is opened only if its manifest and the end of each of its files are what was written. Stores
made before there were checksums have none, and open without the check.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs

COVERED = 1 << 16  # bytes at the end of a data file that its checksum covers: all of a smaller file, or of a manifest
NAME = re.compile(r"data/[\w-]+\.lance|_versions/[\w-]+\.manifest")  # of a file that has a checksum
THREADS = 16  # files read at once: in object storage each costs a round trip

Checksum = Sequence[int]  # bytes of the file, CRC-32 of its end


def compute_checksums(files: pyarrow.fs.FileSystem, path: str) -> dict[str, Checksum]:
    """Return the checksums of a Lance dataset, by file name within it."""
    found = [
        f"{folder}/{info.base_name}"
        for folder in ("data", "_versions")
        for info in files.get_file_info(pyarrow.fs.FileSelector(f"{path}/{folder}"))
    ]
    names = [name for name in found if NAME.fullmatch(name)]
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _checksum(files, f"{path}/{name}"), names), strict=True))


def verify_checksums(files: pyarrow.fs.FileSystem, path: str, expected: Mapping[str, Checksum]) -> None:
    """Compare the files of a Lance dataset with their checksums.

    Raises:
        ValueError: a file is missing or changed; the message names the first one.
        OSError: a file cannot be read.
    """

    def verify(name: str) -> None:
        try:
            found = _checksum(files, f"{path}/{name}")
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        if found[0] != expected[name][0]:
            raise ValueError(f"{name} has {found[0]} bytes instead of {expected[name][0]}")
        if found[1] != expected[name][1]:
            raise ValueError(f"{name} is not what was written")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(verify, expected))  # list(): raise what a thread raised


def _checksum(files: pyarrow.fs.FileSystem, path: str) -> Checksum:
    with files.open_input_file(path) as file:
        size = file.size()
        start = 0 if path.endswith(".manifest") else max(size - COVERED, 0)
        return [size, zlib.crc32(file.read_at(size - start, start))]
