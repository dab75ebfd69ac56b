"""The prepare job: every frame of a dataset becomes a row of the crop store, or a row per tile, on all cores.

The frames are dealt into chunks, which Ray Data hands to the workers. A worker turns a chunk into one uncommitted Lance
fragment and then writes a journal entry under STORE/_prepare; a later call with the same settings skips the chunks that
have one. When all have, each split is committed in chunk order, store.json is written, and the journal goes.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.fs
import ray
import rich.console
import rich.progress

from isod.data.crops import PrepareSettings, faults_in_crops, make_rows
from isod.data.dataset import DONT_CARE, SPLITS, FrameRef, Reader, Split
from isod.data.files import MAX_PIXELS, parse_json
from isod.data.options import reader_from, settings_from
from isod.data.region import FAR, SIZES, size_index
from isod.data.store import (
    FAULTS_FILE,
    META_FILE,
    CropStore,
    StoreMeta,
    faults_to_json,
    filesystem,
    read_text,
    write_text,
)
from isod.data.store_writer import Row, commit, disk_full_is_bad_input, is_disk_full, write_fragment
from isod.data.zod import ZodReader
from isod.errors import InputError, one_line
from isod.orchestration.cluster import connect

JOURNAL = "_prepare"
JOB_FILE = f"{JOURNAL}/job.json"
LISTED = 20  # lost frames that a report names; store.json has them all


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of a split: one unit of work, one fragment, one journal entry."""

    split: Split
    number: int
    start: int  # place of the first frame in the split
    frames: Sequence[FrameRef]

    @property
    def entry(self) -> str:
        """Its journal entry's name."""
        return f"{JOURNAL}/{self.split}-{self.number:06d}.json"


@dataclass(frozen=True)
class ChunkResult:
    """What the journal keeps of a chunk."""

    fragment: str  # Lance's description, JSON
    lost: dict[int, str]  # index → reason
    counts: dict[str, dict[str, int]]  # class name or DONT_CARE → size → objects
    size: tuple[int, int]  # largest (height, width) of its crops, pixels

    @classmethod
    def from_json(cls, text: str) -> ChunkResult:
        fields = parse_json(text)
        lost = {int(index): reason for index, reason in fields["lost"].items()}
        return cls(fields["fragment"], lost, fields["counts"], (fields["size"][0], fields["size"][1]))


@dataclass(frozen=True)
class PrepareReport:
    """What a call to ``prepare`` did; printed, it is the count table and the lost frames."""

    store: str
    meta: StoreMeta
    seconds: float
    resumed: int  # chunks that an interrupted call had finished
    complete_before: bool  # nothing was left to do
    notes: Sequence[str] = ()  # of the reader

    def __str__(self) -> str:
        lines = [format_counts(self.meta), "", *self.notes, *_lost_lines(self.meta)]
        if self.complete_before:
            lines.append(f"{self.store} is complete already: {self.meta.crops}")
        else:
            again = f", {self.resumed} chunks of an interrupted call kept" if self.resumed else ""
            lines.append(f"{self.store}: {self.meta.crops} in {self.seconds:.0f} s{again}")
        return "\n".join(lines)


def prepare(
    reader: Reader,
    store_uri: str | os.PathLike[str],
    settings: PrepareSettings | None = None,
    *,
    address: str | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Make the crop store of a dataset, or go on where an interrupted call stopped.

    Starts Ray on this machine if it does not run in this process yet. A frame whose files are missing or damaged
    becomes a lost row; nothing else is lost with it. What keeps more than one file from being read stops the job.

    Args:
        address: of a Ray cluster; its machines must all see the dataset and the store under the same names.
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
    with disk_full_is_bad_input(uri), _alone(uri):
        if report := _complete(uri, job, reader):
            return report  # another job ended a moment ago
        chunks = _begin(uri, job, frames, settings.chunk_frames)
        done = _finished(uri, chunks)
        todo = [chunk for chunk in chunks if chunk.entry not in done]
        if todo:
            connect(address)
            with _progress_bar(progress, sum(map(len, frames.values()))) as advance:
                advance(sum(len(chunk.frames) for chunk in chunks if chunk.entry in done))
                _run(uri, todo, reader.class_names, settings, advance)
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


def prepare_demo(root: str | os.PathLike[str], store_uri: str, *, resize: tuple[int, int] | None) -> PrepareReport:
    """Prepare demo data as ``isod prepare zod ROOT STORE --version mini`` does. ``resize`` is (width, height)."""
    return prepare(ZodReader(root, "mini"), store_uri, PrepareSettings(roi=FAR, resize=resize))


def prepare_command(options: argparse.Namespace) -> str:
    """Carry out ``isod prepare``; what it prints at the end."""
    report = prepare(reader_from(options), options.store, settings_from(options), address=options.address)
    return str(report)


def _complete(uri: str, job: dict[str, Any], reader: Reader) -> PrepareReport | None:
    """The report of a store that is finished; None if it is not. Raises InputError if it is of another job."""
    if read_text(uri, META_FILE) is None:
        return None
    meta = CropStore.open(uri).meta
    _require_same(job, meta.settings, f"{uri} holds a finished crop store")
    return PrepareReport(uri, meta, 0.0, 0, complete_before=True, notes=reader.notes)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Refuse a folder of this machine that another job is filling: the first to end would take the other's chunks."""
    files, path = filesystem(uri)
    with suppress(OSError):
        if isinstance(files, pyarrow.fs.LocalFileSystem):
            os.makedirs(path, exist_ok=True)
    if not os.path.isdir(path):
        yield  # object storage has no locks; what else is no folder is told where the job begins
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another job is making the crop store {uri}: let it end, and run this command again"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(folder)


def _begin(
    uri: str, job: dict[str, Any], frames: dict[Split, Sequence[FrameRef]], chunk_frames: int | None
) -> list[Chunk]:
    """Claim the folder for this job, or take up its journal; the job's chunks."""
    written = read_text(uri, JOB_FILE)
    if written is None:
        files, path = filesystem(uri)
        if files.get_file_info(path).type == pyarrow.fs.FileType.File:
            raise InputError(f"{uri} is a file: a crop store needs a folder of its own")
        found = files.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
        if any(info.base_name != JOURNAL for info in found):
            raise InputError(f"{uri} is not empty and holds no crop store: choose a new folder")
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
        _require_same(job, before, f"{uri} holds an unfinished crop store")
    return [
        Chunk(split, number, start, frames[split][start : start + size])
        for split in SPLITS
        for number, start in enumerate(range(0, len(frames[split]), size))
    ]


def _chunk_size(frames: int) -> int:
    """Few enough fragments to read from (at most about 400), small enough chunks for all cores and little lost work."""
    return min(max(frames // 400, 16), 256)


def _require_same(job: dict[str, Any], before: dict[str, Any], what: str) -> None:
    job = json.loads(json.dumps(job))
    different = sorted(key for key in job.keys() | before.keys() if job.get(key) != before.get(key))
    if different:
        changes = "; ".join(f"{key} was {before.get(key)} and is now {job.get(key)}" for key in different)
        raise InputError(f"{what} of other settings or data ({changes}): use the same settings, or another folder")


def _finished(uri: str, chunks: Sequence[Chunk]) -> dict[str, ChunkResult]:
    """Journal entry → result, of the chunks that are done: their files are there as they were written."""
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
    """Turn what a damaged journal leads to into one sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError) as error:
        raise InputError(
            f"the journal {uri}/{JOURNAL} is damaged ({type(error).__name__}: {one_line(error)}): "
            f"delete the folder {uri} and prepare it again"
        ) from None


def _run(
    uri: str, chunks: Sequence[Chunk], class_names: Sequence[str], settings: PrepareSettings, advance: Any
) -> None:
    """Work the chunks off, in any order."""

    def work(batch: dict[str, Any]) -> dict[str, Any]:
        chunk = pickle.loads(batch["chunk"][0])  # our own, from the driver
        failure = ""
        try:
            with disk_full_is_bad_input(uri):
                make_chunk(uri, chunk, class_names, settings)
        except InputError as error:
            failure = str(error)
        except MemoryError:
            failure = f"not enough memory for a frame of {chunk.split}: free some, and run the same command again"
        return {"frames": np.array([len(chunk.frames)]), "failure": np.array([failure])}

    with _quiet_ray_data():
        items = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(work, batch_size=1)  # type: ignore[arg-type]
        for row in results.iter_rows():
            if row["failure"]:
                raise InputError(row["failure"])
            advance(row["frames"])


def make_chunk(uri: str, chunk: Chunk, class_names: Sequence[str], settings: PrepareSettings) -> None:
    """Turn a chunk into a fragment, then write its journal entry."""
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
            np.add.at(table, (row.objects.labels, size_index(row.objects.boxes, row.size)), 1)
    return {name: dict(zip(SIZES, line, strict=True)) for name, line in zip(names, table.tolist(), strict=True)}


def _commit_splits(
    uri: str, chunks: Sequence[Chunk], reader: Reader, job: dict[str, Any], tiles_per_frame: int
) -> StoreMeta:
    """Commit the splits; what store.json is to say."""
    done = _finished(uri, chunks)
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
        seals={split: commit(uri, split, [result.fragment for result in results[split]]) for split in SPLITS},
    )


def _sum_counts(parts: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    return {
        name: {size: sum(part[name][size] for part in parts) for size in SIZES} for name in (parts[0] if parts else {})
    }


def format_counts(meta: StoreMeta) -> str:
    """Objects per class and size as in the thesis's Table 4.2, "train (val)": for holding one against the other."""
    header = ["", *(size.capitalize() for size in reversed(SIZES))]
    table = [header]
    for name in (*meta.class_names, DONT_CARE):
        cells = [" ".join((str(meta.counts["train"][name][size]), f"({meta.counts['val'][name][size]})"))
                 for size in reversed(SIZES)]  # fmt: skip
        table.append(["Don't care" if name == DONT_CARE else name, *cells])
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
             for row in table]  # fmt: skip
    title = "Objects by class and size, train (val); small < 0.33 % ≤ medium ≤ 3 % < large of the crop's area"
    if meta.demo:
        title += "\nDEMO DATA: a synthetic stand-in, not ZOD"
    return "\n".join([title, *lines])


def _lost_lines(meta: StoreMeta) -> list[str]:
    total = sum(map(len, meta.lost.values()))
    if not total:
        return ["every frame was read"]
    shown = [(split, index, reason) for split in SPLITS for index, reason in meta.lost[split].items()][:LISTED]
    what = "frames could not be read" if meta.tiles == (1, 1) else "tiles of frames could not be read"
    lines = [f"{total} {what}; they keep their index and are never drawn:"]
    lines += [f"  {split} {index}: {reason}" for split, index, reason in shown]
    if total > LISTED:
        lines.append(f"  … and {total - LISTED} more, all in {META_FILE}")
    return [*lines, "  once they can be read, delete the store and prepare it again to have them"]


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data's own bars and news off, as there is one bar already; its errors still come through."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)


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
