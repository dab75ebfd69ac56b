"""The work on one chunk of a prepare job: its frames become a fragment of the store, then a journal entry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from isod.data.prepare.crop import make_rows
from isod.data.prepare.journal import Chunk, ChunkResult
from isod.data.prepare.settings import PrepareSettings
from isod.data.store.address import write_text
from isod.data.store.meta import Remark, sum_remarks
from isod.data.store.writer import Row, disk_full_is_bad_input, is_disk_full, write_fragment
from isod.errors import InputError, one_line
from isod.vocabulary import DONT_CARE, SIZES, size_codes


@dataclass(frozen=True)
class ChunkStatus:
    """What a worker reports of a chunk."""

    frames: int  # how many it holds
    failure: str  # why the job must stop; "" if the chunk is finished


MapChunks = Callable[[Callable[[Chunk], ChunkStatus], Sequence[Chunk]], Iterable[ChunkStatus]]
"""Calls a function on every chunk, in any process, and yields the results in any order; the built-in ``map`` is one."""


def process_chunk(uri: str, chunk: Chunk, *, class_names: Sequence[str], settings: PrepareSettings) -> ChunkStatus:
    """Write a chunk's fragment and then its journal entry. Idempotent: the later of two calls counts.

    A failure that concerns the job is returned, so that it crosses process borders as a sentence.
    """
    failure = ""
    try:
        with disk_full_is_bad_input(uri):
            _write_chunk(uri, chunk, class_names, settings)
    except InputError as error:
        failure = str(error)
    except MemoryError:
        failure = (
            f"not enough memory for the frames of split {chunk.split!r}: free some and run the same command again; "
            "finished chunks are kept"
        )
    return ChunkStatus(len(chunk.frames), failure)


def _write_chunk(uri: str, chunk: Chunk, class_names: Sequence[str], settings: PrepareSettings) -> None:
    rows = [row for place, ref in enumerate(chunk.frames, chunk.start) for row in make_rows(ref, place, settings)]
    counts = _count(rows, class_names)
    try:
        result = ChunkResult(
            fragment=write_fragment(uri, chunk.split, rows),
            lost={row.index: row.error for row in rows if row.error is not None},
            counts=counts,
            remarks=sum_remarks(_remarks(row) for row in rows),
            size=(max(row.size[0] for row in rows), max(row.size[1] for row in rows)),
        )
        write_text(uri, chunk.entry, json.dumps(asdict(result)))
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            raise
        raise InputError(
            f"cannot write to {uri} ({one_line(error)}): fix that and run the same command again; finished chunks are "
            "kept"
        ) from None


def _remarks(row: Row) -> dict[str, Remark]:
    return {what: Remark(count, 1, row.frame_id) for what, count in row.remarks.items()}


def _count(rows: Sequence[Row], class_names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return objects by class and size; the size is the share of the object's own crop."""
    names = (DONT_CARE, *class_names)  # by label
    table = np.zeros((len(names), len(SIZES)), dtype=np.int64)  # [1 + C, 3]
    for row in rows:
        if len(row.objects):
            labels = row.objects.labels
            if labels.min() < 0 or labels.max() >= len(names):
                raise InputError(
                    f"frame {row.frame_id!r} has the labels {sorted(set(labels.tolist()))}, and its reader has the "
                    f"classes 1…{len(class_names)}, with 0 for don't-care: correct the reader"
                )
            np.add.at(table, (labels, size_codes(row.objects.boxes, row.size)), 1)
    return {name: dict(zip(SIZES, line, strict=True)) for name, line in zip(names, table.tolist(), strict=True)}
