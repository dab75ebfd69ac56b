"""The Ray actor that holds a trial's importance table and hands out its draws."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isod.errors import InputError
from isod.orchestration.ray_metrics import RunMetrics
from isod.sampling.samplers import SamplerConfig
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import Draw
from isod.training.examples import TrainingExamples
from isod.training.stream import TableSummary, table_statistics, table_summary


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One run, as its table and its decode workers need to know it. Picklable."""

    number: int  # of the run within this actor's life, from 1
    store_uri: str
    sampler: SamplerConfig
    examples: TrainingExamples
    seed: int
    batch_size: int  # examples of a draw
    lag: int
    start: int  # first step to draw
    stop: int  # step after the last one
    decode: bool = True  # whether the workers do; else they hand on JPEG files
    state: dict[str, Any] | None = None  # of the schedule, numpy arrays, where the run resumes
    labels: Mapping[str, str] = field(default_factory=dict)  # of the run's metrics in Ray; empty: none


class TableActor:
    """The table of the trial that runs now (spec §10). Draw t is handed out once the scores of step t − 1 − lag have
    been applied.

    Calls may arrive in any order: the schedule applies updates by step number, so the draws do not depend on how many
    workers ask for them or who asks first. It outlives a trial and serves the next one of the same process: whatever
    still asks for the run before gets None. It is turned into an actor where it is created
    (``ray.remote(TableActor).options(...)``), so that it can also be tested as a plain object.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._assignment: Assignment | None = None

    async def begin(self, assignment: Assignment) -> None:
        """Make the table of a run, and let its workers start."""
        async with self._changed:
            run_length = assignment.stop * assignment.batch_size
            table = assignment.examples.table(assignment.sampler, seed=assignment.seed, run_length=run_length)
            self._schedule = DrawSchedule(
                table, batch_size=assignment.batch_size, lag=assignment.lag, steps=assignment.stop
            )
            if assignment.state is not None:
                self._schedule.load_state_dict(assignment.state)
            self._table = table
            self._drawn = self._schedule.applied  # steps that were handed out
            self._metrics = RunMetrics(assignment.labels)
            self._refused: Exception | None = None  # why an update was refused: nobody may wait for it for ever
            self._assignment = assignment
            self._changed.notify_all()

    async def assignment(self, after: int) -> tuple[int, str, int, int, bool, Mapping[str, str]]:
        """(number, store_uri, start, stop, decode, labels) of the first run after number ``after``, as soon as it
        begins."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._number > after)
        assert self._assignment is not None
        run = self._assignment
        return run.number, run.store_uri, run.start, run.stop, run.decode, run.labels

    async def draw(self, run: int, step: int) -> Draw | None:
        """The draw of ``step``, as soon as the scores that it must see are in; None if the run is over.

        Raises:
            InputError: scores were refused that this draw, or an earlier one, must see.
            RuntimeError: the draw was handed out, and trained on, before.
        """
        await self._until(run, lambda: self._schedule.ready(step))
        if run != self._number:
            return None
        if step < self._schedule.applied:  # Ray started a lost worker again, from the run's first step
            raise RuntimeError(f"draw {step} was handed out before: its decode worker was lost")
        self._drawn = max(self._drawn, step + 1)
        return self._schedule.draw(step)

    async def update(
        self,
        run: int,
        step: int,
        indices: NDArray[np.int64],
        scores: NDArray[np.float64],
        observed: NDArray[np.float64] | None = None,
    ) -> None:
        """Takes the scores of ``step``, and what it saw; raises InputError for scores that the table refuses."""
        async with self._changed:
            if run != self._number:
                return
            try:
                self._schedule.update(step, indices, scores, observed)
            except Exception as error:
                self._refused = error
                raise
            finally:
                self._changed.notify_all()
        applied = self._schedule.applied
        self._metrics.set("isod_table_version", applied)
        self._metrics.set("isod_lag", self._drawn - applied)
        self._metrics.update()

    async def summary(self, run: int, step: int) -> TableSummary:
        """What the table says of itself once the scores of every step ≤ ``step`` are in."""
        await self._until(run, lambda: self._schedule.applied > step)
        summary = table_summary(self._table)
        if summary.primed:
            self._metrics.set("isod_ess", summary.effective_sample_size)
        self._metrics.update(last=True)  # the run may end here, and a validation takes long
        return summary

    async def statistics(self, run: int, step: int) -> dict[str, NDArray]:
        """Per-example arrays [N] once the scores of every step ≤ ``step`` are in."""
        await self._until(run, lambda: self._schedule.applied > step)
        return table_statistics(self._table)

    async def snapshot(self, run: int, step: int) -> dict[str, Any]:
        """The schedule's state, numpy arrays, once the scores of every step ≤ ``step`` are in."""
        await self._until(run, lambda: self._schedule.applied > step)
        return self._schedule.snapshot()

    @property
    def _number(self) -> int:
        return 0 if self._assignment is None else self._assignment.number

    async def _until(self, run: int, holds: Callable[[], bool]) -> None:
        """Wait until something holds of a run, or the run is over."""

        def settled() -> bool:
            return run != self._number or holds() or self._refused is not None

        async with self._changed:
            await self._changed.wait_for(settled)
            if run == self._number and not holds():
                raise InputError(f"the stream stopped: {self._refused}")
