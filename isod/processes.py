"""Worker processes of this machine, which end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Self, TypeVar

from isod.signals import ctrl_c_waits

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerPool:
    """A context in which functions run in other processes, which are started anew ("spawn"), not forked.

    If the context ends by an exception, or the process is killed, the workers end at once, in the middle of their work.
    A Ctrl-C reaches this process alone.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        spawn = multiprocessing.get_context("spawn")  # Lance must not be open in a process that forks
        self._started, (self._reader, self._writer) = spawn.Event(), spawn.Pipe(duplex=False)
        instructions = (self._started, self._reader)
        self._pool = ProcessPoolExecutor(count, spawn, initializer=_begin_worker, initargs=instructions)

    def submit(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Future[Result]]:
        """Have a worker call ``work`` with each item, in this order."""
        # blocked for the processes; and one that another thread of ours takes waits until each has its instructions
        with ctrl_c_waits(), _sigint_blocked():
            return [self._pool.submit(work, item) for item in items]

    @property
    def started(self) -> bool:
        """Whether a process got as far as to its instructions, past importing the program's script."""
        return self._started.is_set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._pool.shutdown()
        finally:
            self._writer.close()  # ends those that still work
            self._pool.shutdown(cancel_futures=True)
            self._reader.close()


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
