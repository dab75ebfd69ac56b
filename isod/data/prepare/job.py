"""The prepare job: every frame of a dataset becomes a row of the crop store, or a row per tile, on all cores.

The frames are dealt into chunks. A worker turns a chunk into one uncommitted Lance fragment and then writes a journal
entry under STORE/_prepare; a later call with the same settings skips the chunks that have one. When all have, each
split is committed in chunk order, store.json is written, and the journal is deleted. The caller chooses who works on
the chunks: a process pool (``in_processes``), or a cluster (``isod.orchestration.prepare``).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import rich.console
import rich.progress

from isod.data.faults import faults_to_json
from isod.data.prepare.crop import faults_in_crops, make_rows
from isod.data.prepare.journal import JOURNAL, Chunk, ChunkResult, alone, begin, finished_chunks, require_same_job
from isod.data.prepare.region import FAR
from isod.data.prepare.report import PrepareReport
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.base import Reader
from isod.data.readers.zod import ZodReader
from isod.data.store.address import filesystem, read_text, write_text
from isod.data.store.meta import FAULTS_FILE, META_FILE, StoreMeta
from isod.data.store.split import CropStore
from isod.data.store.writer import Row, commit, disk_full_is_bad_input, is_disk_full, write_fragment
from isod.errors import InputError, one_line
from isod.files import MAX_PIXELS
from isod.vocabulary import DONT_CARE, SIZES, SPLITS, size_codes


@dataclass(frozen=True)
class MadeChunk:
    """What became of a chunk."""

    frames: int  # how many it holds
    failure: str  # why the job must stop; "" where it may not


MapChunks = Callable[[Callable[[Chunk], MadeChunk], Sequence[Chunk]], Iterator[MadeChunk]]


def prepare(
    reader: Reader,
    store_uri: str | os.PathLike[str],
    settings: PrepareSettings | None = None,
    *,
    map_chunks: MapChunks | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Make the crop store of a dataset, or go on where an interrupted call stopped.

    A frame whose files are missing or damaged becomes a lost row; nothing else is lost with it. What keeps more than
    one file from being read stops the job.

    Args:
        map_chunks: calls a function on every chunk and yields the results in any order; ``in_processes`` by default.
        progress: show a progress bar.
    Raises:
        InputError: the store exists, finished or not, with other settings; another job is making it; the folder holds
            something else; a split has no frames; and, where finished chunks are kept: no frame of a split can be
            read, a file or the store is not to be reached, the disk is full.
    """
    began = time.monotonic()
    uri = os.fspath(store_uri).rstrip("/")
    uri = uri if "://" in uri else os.path.abspath(uri)
    settings = settings or PrepareSettings()
    frames = {split: reader.frames(split) for split in SPLITS}
    job = {"source": reader.source, "dataset": reader.settings, "classes": list(reader.class_names),
           **settings.to_dict()}  # fmt: skip
    if report := _complete(uri, job, reader):
        return report
    for split in SPLITS:
        if not frames[split]:
            raise InputError(f"split {split!r} of the dataset has no frames")
    faults = {split: reader.known_faults(split) for split in SPLITS}
    with disk_full_is_bad_input(uri), alone(uri):
        if report := _complete(uri, job, reader):
            return report  # another job ended a moment ago
        chunks = begin(uri, job, frames, settings.chunk_frames)
        done = finished_chunks(uri, chunks)
        todo = [chunk for chunk in chunks if chunk.entry not in done]
        if todo:
            work = partial(make_chunk, uri, class_names=reader.class_names, settings=settings)
            with _progress_bar(progress, sum(map(len, frames.values()))) as advance:
                advance(sum(len(chunk.frames) for chunk in chunks if chunk.entry in done))
                for made in (map_chunks or in_processes)(work, todo):
                    if made.failure:
                        raise InputError(made.failure)
                    advance(made.frames)
        meta = _commit_splits(uri, chunks, reader, job, settings.tiles_per_frame)
        in_crops = {
            split: faults_in_crops(known, frames[split], settings, meta.lost[split])
            for split, known in faults.items()
            if known is not None
        }
        if in_crops:
            write_text(uri, FAULTS_FILE, faults_to_json(in_crops))
        write_text(uri, META_FILE, meta.to_json())
        files, path = filesystem(uri)
        files.delete_dir(f"{path}/{JOURNAL}")
    return PrepareReport(uri, meta, time.monotonic() - began, len(done), complete_before=False, notes=reader.notes)


def prepare_demo(
    root: str | os.PathLike[str],
    store_uri: str,
    *,
    resize: tuple[int, int] | None,
    map_chunks: MapChunks | None = None,
) -> PrepareReport:
    """Prepare demo data as ``isod prepare zod ROOT STORE --version mini`` does. ``resize`` is (width, height)."""
    settings = PrepareSettings(roi=FAR, resize=resize)
    return prepare(ZodReader(root, "mini"), store_uri, settings, map_chunks=map_chunks)


def _complete(uri: str, job: dict[str, Any], reader: Reader) -> PrepareReport | None:
    """The report of a store that is finished; None if it is not. Raises InputError if it is of another job."""
    if read_text(uri, META_FILE) is None:
        return None
    meta = CropStore.open(uri).meta
    require_same_job(job, meta.settings, f"{uri} holds a finished crop store")
    return PrepareReport(uri, meta, 0.0, 0, complete_before=True, notes=reader.notes)


def in_processes(work: Callable[[Chunk], MadeChunk], chunks: Sequence[Chunk]) -> Iterator[MadeChunk]:
    """Map chunks in as many processes as there are cores; one chunk alone in this process.

    Raises:
        InputError: a process was lost.
    """
    processes = min(os.cpu_count() or 1, len(chunks))
    if processes == 1:
        yield from map(work, chunks)
        return
    spawn = multiprocessing.get_context("spawn")  # Lance must not be open in a process that forks
    pool = ProcessPoolExecutor(processes, spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        for made in as_completed([pool.submit(work, chunk) for chunk in chunks]):
            yield made.result()
    except BrokenProcessPool:
        raise InputError(
            "a process of the prepare job ended unexpectedly, as it does where memory is short: run the same command "
            "again; finished chunks are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def make_chunk(uri: str, chunk: Chunk, *, class_names: Sequence[str], settings: PrepareSettings) -> MadeChunk:
    """Turn a chunk into a fragment, then write its journal entry. A failure that concerns the job is returned."""
    failure = ""
    try:
        with disk_full_is_bad_input(uri):
            _write_chunk(uri, chunk, class_names, settings)
    except InputError as error:
        failure = str(error)
    except MemoryError:
        failure = f"not enough memory for a frame of {chunk.split}: free some, and run the same command again"
    return MadeChunk(len(chunk.frames), failure)


def _write_chunk(uri: str, chunk: Chunk, class_names: Sequence[str], settings: PrepareSettings) -> None:
    rows = [row for place, ref in enumerate(chunk.frames, chunk.start) for row in make_rows(ref, place, settings)]
    try:
        result = ChunkResult(
            fragment=write_fragment(uri, chunk.split, rows),
            lost={row.index: row.error for row in rows if row.error is not None},
            counts=_count(rows, class_names),
            size=(max(row.size[0] for row in rows), max(row.size[1] for row in rows)),
        )
        write_text(uri, chunk.entry, json.dumps(asdict(result)))
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            raise
        raise InputError(
            f"cannot write to {uri} ({one_line(error)}): see to that, and run the same command again; finished chunks "
            "are kept"
        ) from None


def _count(rows: Sequence[Row], class_names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Objects by class and size; the size is the share of the object's own crop."""
    names = (DONT_CARE, *class_names)  # by label
    table = np.zeros((len(names), len(SIZES)), dtype=np.int64)  # [1 + C, 3]
    for row in rows:
        if len(row.objects):
            np.add.at(table, (row.objects.labels, size_codes(row.objects.boxes, row.size)), 1)
    return {name: dict(zip(SIZES, line, strict=True)) for name, line in zip(names, table.tolist(), strict=True)}


def _commit_splits(
    uri: str, chunks: Sequence[Chunk], reader: Reader, job: dict[str, Any], tiles_per_frame: int
) -> StoreMeta:
    """Commit the splits; what store.json is to say."""
    done = finished_chunks(uri, chunks)
    if len(done) < len(chunks):
        raise InputError(
            f"{len(chunks) - len(done)} finished chunks of {uri} have gone or are cut short: run the same command again"
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
            f"the crops of {uri} have up to {height} rows and up to {width} columns, and no crop may have more than "
            f"{MAX_PIXELS} pixels: make them alike with --resize or --roi, in another folder"
        )
    return StoreMeta(
        class_names=reader.class_names,
        crop_size=(height, width),
        source=reader.source,
        demo=reader.demo,
        settings=json.loads(json.dumps(job)),
        rows=rows,
        lost=lost,
        counts={split: _sum_counts([result.counts for result in results[split]]) for split in SPLITS},
        checksums={split: commit(uri, split, [result.fragment for result in results[split]]) for split in SPLITS},
    )


def _sum_counts(parts: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    return {
        name: {size: sum(part[name][size] for part in parts) for size in SIZES} for name in (parts[0] if parts else {})
    }


@contextmanager
def _progress_bar(shown: bool, frames: int) -> Iterator[Any]:
    """One bar for the whole job; yields a function that is told how many more frames are done."""
    columns = (
        rich.progress.TextColumn("preparing"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("frames"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=frames)
        yield lambda count: bar.advance(task, count)
