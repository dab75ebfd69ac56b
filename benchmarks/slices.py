"""Two programs on one machine in slices of seconds: all processes of the one stand still while those of the other run.

Turns of minutes compare little on a machine whose speed drifts within minutes; slices of seconds meet the same drift.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.harness import ROOT, environment

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
        self._began = time.time()
        with log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment())

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._to_all(psutil.Process.resume)
        self._to_all(psutil.Process.kill)
        self._process.wait()

    def resume(self) -> None:
        self._began = time.time()
        self._to_all(psutil.Process.resume)

    def pause(self) -> None:
        """Every process of it stands still on return."""
        self._to_all(psutil.Process.suspend)
        self.active.append((self._began, time.time()))

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

    def _to_all(self, action: Callable[[psutil.Process], None]) -> None:
        """To parents first, and again until no process is new: one may start another before its turn to stop comes."""
        reached: set[psutil.Process] = set()
        while new := [process for process in self._tree() if process not in reached]:
            for process in new:
                with contextlib.suppress(psutil.NoSuchProcess):
                    action(process)
            reached.update(new)

    def _tree(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            yield root
            yield from root.children(recursive=True)


def alternate(sides: Sequence[Side], seconds: float) -> Span:
    """Slices, each side's in turn, until one of the sides has ended; the others stand still then.

    Args:
        sides: that stand still.
        seconds: of a slice; well below the 10 s within which Ray's processes expect to hear from one another.
    Returns:
        From the first slice's beginning to the last one's end.
    """
    began = time.time()
    while all(side.running() for side in sides):
        for side in sides:
            side.resume()
            side.wait(seconds)
            side.pause()
    return began, time.time()


def rate(points: Sequence[tuple[int, float]], active: Sequence[Span], within: Span) -> float:
    """Steps per second of running.

    Args:
        points: steps done and when, seconds since the epoch, in any order.
        active: when the side ran.
        within: which points count.
    Raises:
        ValueError: fewer than two points lie within.
    """
    inside = sorted(point for point in points if within[0] <= point[1] <= within[1])
    if len(inside) < 2:
        raise ValueError(f"a rate needs two points, and {len(inside)} lie within the slices: give more windows")
    (first, began), (last, ended) = inside[0], inside[-1]
    ran = sum(max(0.0, min(ended, end) - max(began, begin)) for begin, end in active)
    return (last - first) / ran
