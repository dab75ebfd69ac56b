"""Two programs on one machine in slices of seconds: all processes of the one stand still while those of the other run.

Turns of minutes compare little on a machine whose speed drifts within minutes; slices of seconds meet the same drift.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.harness import ROOT, environment
from isod.errors import InputError

Span = tuple[float, float]  # from, to: seconds since the epoch


class Side:
    """One program with all the processes that it starts, running or standing still. Ended with the ``with`` block.

    Args:
        command: of the program.
        log: file for what it prints.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.active: list[Span] = []
        self._log = log
        self._stopped: list[psutil.Process] = []
        self._began = time.time()
        with log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment())
        self._root = psutil.Process(self._process.pid)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()  # so that none starts another one meanwhile
        for process in self._stopped:
            _send(process, signal.SIGKILL)
        self._process.wait()

    def resume(self) -> None:
        self._began = time.time()
        for process in self._stopped:
            _send(process, signal.SIGCONT)

    def pause(self) -> None:
        """Every process of it stands still on return; what a GPU was given to do goes on."""
        self.active.append((self._began, self._stop()))

    def running(self) -> bool:
        """Whether it has not ended. Raises RuntimeError, with the last line that it printed, if it failed."""
        code = self._process.poll()
        if code:
            lines = [line for line in self._log.read_text().splitlines() if line.strip()]
            raise RuntimeError(f"a side failed with exit code {code}: {lines[-1] if lines else 'it printed nothing'}")
        return code is None

    def wait(self, seconds: float) -> None:
        """So long, or until it ends if that is sooner."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _stop(self) -> float:
        """Parents first, and again until no process is new: one may start another before its turn to stop comes.
        Returns when the first round was done, seconds since the epoch."""
        self._stopped, done = [], 0.0
        while new := [process for process in self.processes() if process not in self._stopped]:
            for process in new:
                _send(process, signal.SIGSTOP)
            done = done or time.time()
            self._stopped += new
        return done or time.time()

    def processes(self) -> list[psutil.Process]:
        """Of it that there are now, parents before their children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._root, *self._root.children(recursive=True)]
        return []


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def alternate(sides: Sequence[Side], seconds: float) -> float:
    """Slices, each side's in turn, until one of the sides has ended; the others stand still then.

    Args:
        sides: that stand still.
        seconds: of a slice; well below the 10 s within which Ray's processes expect to hear from one another.
    Returns:
        When the last slice ended, seconds since the epoch.
    """
    while all(side.running() for side in sides):
        for side in sides:
            side.resume()
            side.wait(seconds)
            side.pause()
    return time.time()


def rate(points: Sequence[tuple[int, float]], active: Sequence[Span], until: float) -> float:
    """Steps per second of running.

    Args:
        points: steps done and when, seconds since the epoch, in any order.
        active: when the side ran.
        until: the last slice's end; later points do not count.
    Raises:
        InputError: fewer than two points count.
    """
    inside = sorted(point for point in points if point[1] <= until)
    if len(inside) < 2:
        raise InputError("one side was done before the other one's second window: give more --windows")
    (first, began), (last, ended) = inside[0], inside[-1]
    ran = sum(max(0.0, min(ended, end) - max(began, begin)) for begin, end in active)
    return (last - first) / ran
