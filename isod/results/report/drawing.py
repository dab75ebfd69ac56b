"""The figures of the report as pictures, drawn by several processes where the caller wants that."""

from __future__ import annotations

import pickle
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from functools import cache
from types import TracebackType
from typing import Self

import pandas as pd

from isod.processes import WorkerPool
from isod.results.report.picture import Picture, picture_of
from isod.results.report.sections import ReportFigure, lead_figure, report_sections
from isod.tracking.runs import Runs


class Gallery:
    """All figures of a report. A context, in which other processes draw them from the first one on."""

    def __init__(
        self, runs: Runs, examples: pd.DataFrame, passed: Sequence[str], pool: WorkerPool | None = None
    ) -> None:
        """
        Args:
            passed: samplers that surpass the baseline's best.
            pool: of the other processes.
        """
        self.lead, self.sections = lead_figure(runs, passed), report_sections(runs, examples)
        self.figures = [self.lead, *(figure for section in self.sections for figure in section.figures)]
        self._drawn_from = (runs, examples, passed)
        self._pool = pool
        self._left = deque(range(len(self.figures)))  # that nobody draws yet
        self._futures: list[Future[Picture]] = []  # of the first figures
        self._stack = ExitStack()

    def pictures(self) -> dict[ReportFigure, Picture]:
        """Return every figure as a picture. This process draws from the last one on, until it meets the others."""
        drawn = {}
        while self._left:
            self._hand_out()
            if self._left:
                figure = self.figures[self._left.pop()]
                drawn[figure] = picture_of(figure.draw())
        for figure, future in zip(self.figures, self._futures, strict=False):
            with suppress(BrokenProcessPool):  # as if memory is short
                drawn[figure] = future.result()
        return {figure: drawn[figure] if figure in drawn else picture_of(figure.draw()) for figure in self.figures}

    def __enter__(self) -> Self:
        if self._pool is not None:
            self._file = self._stack.enter_context(tempfile.NamedTemporaryFile(suffix=".pickle"))
            pickle.dump(self._drawn_from, self._file)
            self._file.flush()
            self._hand_out()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _hand_out(self) -> None:
        """Let each of the others have two figures, one of them to begin with at once when the first is done."""
        if self._pool is None:
            return
        waiting = sum(not future.done() for future in self._futures)
        taken = [self._left.popleft() for _ in range(min(2 * self._pool.count - waiting, len(self._left)))]
        try:
            self._futures += self._pool.submit(_draw, [(self._file.name, number) for number in taken])
        except (BrokenProcessPool, BrokenPipeError):  # the latter of a process that is lost while it starts
            self._left.extendleft(reversed(taken))
            self._pool = None


def start_drawing(pool: WorkerPool) -> None:
    """Let the processes of a pool import what drawing needs, which takes seconds, while this one reads on."""
    with suppress(BrokenProcessPool, BrokenPipeError):
        pool.submit(_import, range(pool.count))


def _import(number: int) -> None:
    """Do nothing: who calls it has imported this module."""


def _draw(task: tuple[str, int]) -> Picture:
    path, number = task
    return picture_of(_figures(path)[number].draw())


@cache
def _figures(path: str) -> list[ReportFigure]:
    with open(path, "rb") as file:
        return Gallery(*pickle.load(file)).figures  # written by the process that waits for the pictures
