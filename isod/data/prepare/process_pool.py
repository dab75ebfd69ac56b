"""Worker processes on this machine for the chunks of a prepare job."""

from __future__ import annotations

import multiprocessing.spawn
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool

from isod.data.prepare.chunk import ChunkStatus
from isod.data.prepare.journal import Chunk
from isod.errors import InputError, one_line
from isod.processes import WorkerPool


def in_processes(work: Callable[[Chunk], ChunkStatus], chunks: Sequence[Chunk]) -> Iterator[ChunkStatus]:
    """Map chunks in as many processes as there are cores; a single chunk in this process.

    If the caller stops early or is killed, the processes end at once, in the middle of their chunks.

    Raises:
        InputError: a process was lost, or the frames cannot be sent to another process.
    """
    count = min(os.cpu_count() or 1, len(chunks))
    if count == 1:
        yield from map(work, chunks)
        return
    _require_picklable(chunks[0])
    with WorkerPool(count) as pool:
        try:
            for future in as_completed(pool.submit(work, chunks)):
                yield future.result()
        except BrokenProcessPool:
            raise InputError(_why_lost(pool.started)) from None


def exit_if_worker_imports_script() -> None:
    """Exit silently if this process is a worker that has only begun to import the program's script.

    A worker process imports the script first. A script that prepares a store at its top level, without
    ``if __name__ == "__main__"``, would do so in each worker as well. ``in_processes`` reports it in the first process.
    """
    try:
        multiprocessing.spawn.get_preparation_data("")
    except RuntimeError:  # raised in a process that is not ready to start others
        raise SystemExit(1) from None


def _require_picklable(chunk: Chunk) -> None:
    try:
        pickle.dumps(chunk)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the reader's frames cannot be sent to worker processes ({one_line(error)}): make them of a class at the "
            "top level of a module, which holds no open file"
        ) from None


def _why_lost(started: bool) -> str:
    if not started:
        return (
            "the worker processes of the prepare job ended while they started: each imports the program's script, so "
            'call prepare under `if __name__ == "__main__":` there'
        )
    return (
        "a worker process of the prepare job ended unexpectedly, as it does if memory is short: run the same command "
        "again; finished chunks are kept"
    )
