"""The figures of the report as pictures, drawn by several processes where the caller wants that."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import pandas as pd

from isod.processes import WorkerPool
from isod.results.report.picture import Picture, picture_of
from isod.results.report.sections import ReportFigure, lead_figure, report_sections
from isod.tracking.runs import Runs


class Gallery:
    """All figures of a report. A context, in which other processes draw them from the first one on."""

    def __init__(self, runs: Runs, examples: pd.DataFrame, passed: Sequence[str], processes: int = 1) -> None:
        """
        Args:
            passed: samplers that surpass the baseline's best.
            processes: that draw, this one among them.
        """
        self.lead, self.sections = lead_figure(runs, passed), report_sections(runs, examples)
        self._figures = [self.lead, *(figure for section in self.sections for figure in section.figures)]
        self._others = min(processes, len(self._figures)) - 1
        self._begin = (runs, examples, passed)
        self._left = deque(range(len(self._figures)))  # that nobody draws yet
        self._futures: list[Future[Picture]] = []  # of the first figures
        self._pool: WorkerPool | None = None
        self._stack = ExitStack()

    def pictures(self) -> dict[ReportFigure, Picture]:
        """Return every figure as a picture. This process draws from the last one on, until it meets the others."""
        drawn = {}
        while self._left:
            self._hand_out()
            if self._left:
                figure = self._figures[self._left.pop()]
                drawn[figure] = picture_of(figure.draw())
        for number, future in enumerate(self._futures):
            figure = self._figures[number]
            try:
                drawn[figure] = future.result()
            except BrokenProcessPool:  # as if memory is short
                drawn[figure] = picture_of(figure.draw())
        return {figure: drawn[figure] for figure in self._figures}

    def __enter__(self) -> Self:
        if self._others:
            self._pool = self._stack.enter_context(WorkerPool(self._others, _begin_drawing, self._begin))
            self._hand_out()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _hand_out(self) -> None:
        """Let each of the others have two figures, one of them to begin with at once when the first is done."""
        waiting = sum(not future.done() for future in self._futures)
        taken = [self._left.popleft() for _ in range(min(2 * self._others - waiting, len(self._left)))]
        if self._pool is not None and taken:
            try:
                self._futures += self._pool.submit(_draw, taken)
            except (BrokenProcessPool, BrokenPipeError):  # the latter of a process that is lost while it starts
                self._left.extendleft(reversed(taken))
                self._pool, self._others = None, 0


_figures: list[ReportFigure] = []  # of a process that draws for another one


def _begin_drawing(runs: Runs, examples: pd.DataFrame, passed: Sequence[str]) -> None:
    _figures.extend(Gallery(runs, examples, passed)._figures)


def _draw(number: int) -> Picture:
    return picture_of(_figures[number].draw())
