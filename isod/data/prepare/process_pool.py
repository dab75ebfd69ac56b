"""Worker processes on this machine for the chunks of a prepare job."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from isod.data.prepare.chunk import ChunkStatus
from isod.data.prepare.journal import Chunk
from isod.errors import InputError, one_line
from isod.signals import ctrl_c_waits


def in_processes(work: Callable[[Chunk], ChunkStatus], chunks: Sequence[Chunk]) -> Iterator[ChunkStatus]:
    """Map chunks in as many processes as there are cores; a single chunk in this process.

    If the caller stops early or is killed, the processes end at once, in the middle of their chunks. A Ctrl-C reaches
    this process alone.

    Raises:
        InputError: a process was lost, or the frames cannot be sent to another process.
    """
    count = min(os.cpu_count() or 1, len(chunks))
    if count == 1:
        yield from map(work, chunks)
        return
    _require_picklable(chunks[0])
    spawn = multiprocessing.get_context("spawn")  # Lance must not be open in a process that forks
    started, (reader, writer) = spawn.Event(), spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, spawn, initializer=_begin_worker, initargs=(started, reader))
    try:
        # blocked for the processes; and one that another thread of ours takes waits until each has its instructions
        with ctrl_c_waits(), _sigint_blocked():
            futures = [pool.submit(work, chunk) for chunk in chunks]
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise InputError(_why_lost(started.is_set())) from None
    finally:
        writer.close()  # ends those that still work
        pool.shutdown(cancel_futures=True)
        reader.close()


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


def _begin_worker(started: Event, parent: Connection) -> None:
    started.set()
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: Connection) -> None:
    """Exit when the other end of the pipe is closed, by the first process or by its end."""
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT, in the processes that start within for good: a terminal sends Ctrl-C to all of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
