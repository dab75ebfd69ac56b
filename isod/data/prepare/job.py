"""The prepare job: every frame of a dataset becomes a row of the crop store, or one row per tile, on all cores.

The job splits the frames into chunks. A worker turns a chunk into one uncommitted Lance fragment and then writes a
journal entry under STORE/_prepare; a later call with the same settings skips the chunks that have one. When all chunks
have one, the job commits each split in chunk order, writes store.json, and deletes the journal. The caller chooses who
processes the chunks: a process pool (``in_processes``), a cluster (``isod.orchestration.prepare``), or ``map``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from isod.console import progress_bar
from isod.data.faults import faults_to_json
from isod.data.prepare.chunk import MapChunks, process_chunk
from isod.data.prepare.crop import faults_in_crops
from isod.data.prepare.journal import (
    JOURNAL,
    Chunk,
    exclusive_lock,
    finished_chunks,
    open_journal,
    require_same_settings,
)
from isod.data.prepare.process_pool import exit_if_worker_imports_script, in_processes
from isod.data.prepare.region import FAR
from isod.data.prepare.report import PrepareReport
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.base import Reader
from isod.data.readers.validation_part import named_sequences
from isod.data.readers.zod import ZodReader
from isod.data.store.address import filesystem, read_text, write_text
from isod.data.store.meta import FAULTS_FILE, META_FILE, SEQUENCES_FILE, StoreMeta, sum_remarks
from isod.data.store.split import CropStore
from isod.data.store.writer import commit, disk_full_is_bad_input
from isod.errors import InputError, one_line
from isod.files import MAX_PIXELS
from isod.vocabulary import DONT_CARE, SIZES, SPLITS


def prepare(
    reader: Reader,
    store_uri: str | os.PathLike[str],
    settings: PrepareSettings | None = None,
    *,
    map_chunks: MapChunks = in_processes,
    progress: bool = True,
) -> PrepareReport:
    """Make the crop store of a dataset, or resume a call that was interrupted.

    A frame whose files are missing or damaged becomes a lost row, alone. Anything that may affect more than one file
    stops the job. A Ctrl-C ends it within seconds and keeps the finished chunks. A script must call this under
    ``if __name__ == "__main__":``, as the worker processes import it.

    Args:
        store_uri: a new folder, one that an interrupted call left, or an address such as s3://bucket/folder.
        map_chunks: calls a function on every chunk and yields the results in any order, such as ``in_processes``,
            ``isod.orchestration.prepare.on_cluster()`` or the built-in ``map``.
        progress: whether to show how far it has come.
    Raises:
        InputError: the store exists, finished or not, with other settings; another job is making it; the folder holds
            something else; the reader breaks a rule; a split has no frames. Or, with finished chunks kept: no frame of
            a split can be read, a file or the store cannot be reached, the disk is full, a worker process was lost.
    """
    exit_if_worker_imports_script()
    began = time.monotonic()
    uri = os.fspath(store_uri).rstrip("/")
    uri = uri if "://" in uri else os.path.abspath(uri)
    settings = settings or PrepareSettings()
    frames = {split: reader.frames(split) for split in SPLITS}
    job = _job(reader, settings)
    if report := _report_if_finished(uri, job, reader):
        return report
    for split in SPLITS:
        if not frames[split]:
            cut = "; --val-share 0.2 cuts them off the training split" if split == "val" else ""
            raise InputError(f"split {split!r} of the dataset has no frames{cut}")
    faults = {split: reader.known_faults(split) for split in SPLITS}
    with disk_full_is_bad_input(uri), exclusive_lock(uri):
        if report := _report_if_finished(uri, job, reader):
            return report  # another job has just ended
        chunks = open_journal(uri, job, frames, settings.chunk_frames)
        done = finished_chunks(uri, chunks)
        todo = [chunk for chunk in chunks if chunk.entry not in done]
        if todo:
            work = partial(process_chunk, uri, class_names=reader.class_names, settings=settings)
            with progress_bar(sum(map(len, frames.values())), what="preparing", shown=progress) as advance:
                advance(sum(len(chunk.frames) for chunk in chunks if chunk.entry in done))
                for status in map_chunks(work, todo):
                    if status.failure:
                        raise InputError(status.failure)
                    advance(status.frames)
        meta = _commit_splits(uri, chunks, reader, job, settings.tiles_per_frame)
        in_crops = {
            split: faults_in_crops(known, frames[split], settings, meta.lost[split])
            for split, known in faults.items()
            if known is not None
        }
        if in_crops:
            write_text(uri, FAULTS_FILE, faults_to_json(in_crops))
        named = {split: named_sequences(frames[split]) for split in SPLITS}
        if all(named.values()):
            write_text(uri, SEQUENCES_FILE, json.dumps(named, ensure_ascii=False))
        write_text(uri, META_FILE, meta.to_json())
        files, path = filesystem(uri)
        files.delete_dir(f"{path}/{JOURNAL}")
    return PrepareReport(uri, meta, time.monotonic() - began, len(done), complete_before=False, notes=reader.notes)


def prepare_demo(
    root: str | os.PathLike[str],
    store_uri: str,
    *,
    resize: tuple[int, int] | None,
    map_chunks: MapChunks = in_processes,
) -> PrepareReport:
    """Prepare demo data as ``isod prepare zod ROOT STORE --version mini`` does.

    Args:
        root: what ``write_demo`` made.
        resize: (width, height) of the crops, pixels; None keeps the far region's 1280×384.
        map_chunks: as for ``prepare``.
    Raises:
        InputError: as for ``prepare``.
    """
    settings = PrepareSettings(roi=FAR, resize=resize)
    return prepare(ZodReader(root, "mini"), store_uri, settings, map_chunks=map_chunks)


def _report_if_finished(uri: str, job: dict[str, Any], reader: Reader) -> PrepareReport | None:
    """Return the report of a finished store; None if it is not finished. Raises InputError if its settings differ."""
    if read_text(uri, META_FILE) is None:
        return None
    meta = CropStore.open(uri).meta
    require_same_settings(job, meta.settings, f"{uri} holds a finished crop store")
    return PrepareReport(uri, meta, 0.0, 0, complete_before=True, notes=reader.notes)


def _job(reader: Reader, settings: PrepareSettings) -> dict[str, Any]:
    """Return what identifies the job, in plain values. Raises InputError if the reader breaks a rule."""
    names = list(reader.class_names)
    if not names or len(set(names)) < len(names) or DONT_CARE in names:
        raise InputError(
            f"the reader's classes are {names}: there must be at least one, all of different names, and none called "
            f"{DONT_CARE!r}"
        )
    job = {"source": reader.source, "dataset": reader.settings, "classes": names, **settings.to_dict()}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(job))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the reader's settings are not values that JSON can hold ({one_line(error)}): use text, numbers and lists"
        ) from None
    return plain


def _commit_splits(
    uri: str, chunks: Sequence[Chunk], reader: Reader, job: dict[str, Any], tiles_per_frame: int
) -> StoreMeta:
    """Commit the splits and return what store.json will say."""
    done = finished_chunks(uri, chunks)
    if len(done) < len(chunks):
        raise InputError(
            f"{len(chunks) - len(done)} finished chunks of {uri} were deleted or cut short: run the same command again"
        )
    files, path = filesystem(uri)
    results = {split: [done[chunk.entry] for chunk in chunks if chunk.split == split] for split in SPLITS}
    rows: dict[str, int] = {
        split: tiles_per_frame * sum(len(chunk.frames) for chunk in chunks if chunk.split == split) for split in SPLITS
    }
    lost: dict[str, dict[int, str]] = {}
    for split in SPLITS:
        lost[split] = {index: reason for result in results[split] for index, reason in result.lost.items()}
        if len(lost[split]) == rows[split]:
            for chunk in chunks:
                if chunk.split == split:  # so that the same command tries them again
                    files.delete_file(f"{path}/{chunk.entry}")
            first = next(iter(lost[split].values()))
            count = rows[split] // tiles_per_frame
            raise InputError(f"none of the {count} frames of split {split!r} can be read; the first one: {first}")
    sizes = [result.size for split in SPLITS for result in results[split]]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    if height * width > MAX_PIXELS:
        raise InputError(
            f"the crops of {uri} have up to {height} rows and up to {width} columns, but no crop may have more than "
            f"{MAX_PIXELS} pixels: use --resize or --roi to make them alike, and another folder"
        )
    return StoreMeta(
        class_names=tuple(reader.class_names),
        crop_size=(height, width),
        source=reader.source,
        demo=reader.demo,
        settings=job,
        rows=rows,
        lost=lost,
        counts={split: _sum_counts([result.counts for result in results[split]]) for split in SPLITS},
        remarks={split: sum_remarks(result.remarks for result in results[split]) for split in SPLITS},
        checksums={split: commit(uri, split, [result.fragment for result in results[split]]) for split in SPLITS},
    )


def _sum_counts(parts: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    return {
        name: {size: sum(part[name][size] for part in parts) for size in SIZES} for name in (parts[0] if parts else {})
    }
