"""The journal of a prepare job: what it is to make, and which of its chunks are finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs

from isod.data.readers.base import FrameRef
from isod.data.store.address import filesystem, read_text, write_text
from isod.data.store.meta import Remark
from isod.data.store.writer import is_disk_full
from isod.errors import InputError, one_line
from isod.files import LOCK_FILE, folder_lock, parse_json
from isod.vocabulary import SPLITS, Split

JOURNAL = "_prepare"
JOB_FILE = f"{JOURNAL}/job.json"


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of a split: one unit of work, one fragment, one journal entry."""

    split: Split
    number: int
    start: int  # place of the first frame in the split
    frames: Sequence[FrameRef]

    @property
    def entry(self) -> str:
        """Name of its journal entry within the store."""
        return f"{JOURNAL}/{self.split}-{self.number:06d}.json"


@dataclass(frozen=True)
class ChunkResult:
    """What the journal keeps of a finished chunk."""

    fragment: str  # Lance's description, JSON
    lost: dict[int, str]  # index → reason
    counts: dict[str, dict[str, int]]  # class name or DONT_CARE → size → objects
    size: tuple[int, int]  # largest (height, width) of its crops, pixels
    remarks: dict[str, Remark] = field(default_factory=dict)  # what was done → how often

    @classmethod
    def from_json(cls, text: str) -> ChunkResult:
        """Parse a journal entry. Raises ValueError, KeyError, TypeError, AttributeError or IndexError if damaged."""
        fields = parse_json(text)
        lost = {int(index): reason for index, reason in fields["lost"].items()}
        remarks = {what: Remark(**values) for what, values in fields.get("remarks", {}).items()}
        return cls(fields["fragment"], lost, fields["counts"], (fields["size"][0], fields["size"][1]), remarks)


@contextmanager
def exclusive_lock(uri: str) -> Iterator[None]:
    """Hold the lock of the store's folder: of two jobs at once, the first to end would delete the other's chunks.

    Object storage and file systems without locks are not protected.

    Raises:
        InputError: another job holds the lock.
    """
    files, path = filesystem(uri)
    with suppress(OSError):
        if isinstance(files, pyarrow.fs.LocalFileSystem):
            os.makedirs(path, exist_ok=True)
    if not os.path.isdir(path):
        yield  # object storage, or a path that open_journal rejects
        return
    if not os.access(path, os.W_OK):
        yield  # open_journal says why it cannot be written
        return
    with folder_lock(Path(path)):
        yield


def open_journal(
    uri: str, job: dict[str, Any], frames: dict[Split, Sequence[FrameRef]], chunk_frames: int | None
) -> list[Chunk]:
    """Begin a journal in a new or empty folder, or open the one that an interrupted job left there.

    Args:
        job: the settings and the dataset, in values that JSON can hold.
        chunk_frames: frames per chunk; None for a default by the number of frames. An existing journal keeps its own.
    Returns:
        The chunks of the job, finished ones included.
    Raises:
        InputError: the folder holds something else or a job of other settings, its journal is damaged, or it is not
            writable.
    """
    written = read_text(uri, JOB_FILE)
    if written is None:
        files, path = filesystem(uri)
        if files.get_file_info(path).type == pyarrow.fs.FileType.File:
            raise InputError(f"{uri} is a file: a crop store needs a folder of its own")
        found = files.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
        if any(info.base_name not in (JOURNAL, LOCK_FILE) for info in found):
            raise InputError(f"{uri} is not empty and holds no crop store: name a new folder")
        size = chunk_frames or _chunk_size(sum(map(len, frames.values())))
        try:
            write_text(uri, JOB_FILE, json.dumps({"chunk_frames": size, "job": job}, indent=1))
        except OSError as error:
            if is_disk_full(error):
                raise
            raise InputError(f"cannot write to {uri}: {error.strerror or error}") from None
    else:
        with _damage_named(uri):
            begun = parse_json(written)
            before, size = dict(begun["job"]), int(begun["chunk_frames"])
        require_same_settings(job, before, f"{uri} holds an unfinished crop store")
    return [
        Chunk(split, number, start, frames[split][start : start + size])
        for split in SPLITS
        for number, start in enumerate(range(0, len(frames[split]), size))
    ]


def _chunk_size(frames: int) -> int:
    """Return frames per chunk: at most about 400 fragments to read from, and little work lost at an interruption."""
    return min(max(frames // 400, 16), 256)


def require_same_settings(job: dict[str, Any], before: dict[str, Any], what: str) -> None:
    """Raise InputError with the differences unless a store is made with the settings and data of an earlier call.

    Args:
        job, before: settings and dataset, now and then.
        what: the store that exists, the beginning of the sentence.
    """
    job = json.loads(json.dumps(job))
    different = sorted(key for key in job.keys() | before.keys() if job.get(key) != before.get(key))
    if different:
        changes = "; ".join(f"{key} was {before.get(key)} and is now {job.get(key)}" for key in different)
        raise InputError(
            f"{what} of other settings or data ({changes}): use the same settings and data, or another folder"
        )


def finished_chunks(uri: str, chunks: Sequence[Chunk]) -> dict[str, ChunkResult]:
    """Return journal entry → result of the finished chunks whose files exist in full."""
    files, path = filesystem(uri)
    folders = {split: f"{path}/{split}.lance/data" for split in SPLITS}
    sizes = {
        (split, info.base_name): info.size
        for split, folder in folders.items()
        for info in files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    }
    found = {info.base_name for info in files.get_file_info(pyarrow.fs.FileSelector(f"{path}/{JOURNAL}"))}
    done = {}
    for chunk in chunks:
        if os.path.basename(chunk.entry) in found:
            text = read_text(uri, chunk.entry)
            assert text is not None, f"{chunk.entry} was listed a moment ago"
            with _damage_named(uri):
                result = ChunkResult.from_json(text)
                written = parse_json(result.fragment)["files"]
                if all(sizes.get((chunk.split, file["path"])) == file["file_size_bytes"] for file in written):
                    done[chunk.entry] = result
    return done


@contextmanager
def _damage_named(uri: str) -> Iterator[None]:
    """Turn the errors of parsing a damaged journal into one sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError) as error:
        raise InputError(
            f"the journal {uri}/{JOURNAL} is damaged ({type(error).__name__}: {one_line(error)}): "
            f"delete the folder {uri} and prepare it again"
        ) from None
