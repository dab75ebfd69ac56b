"""The Ray actor that holds a trial's importance table and hands out its draws."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from isod.config import SamplerConfig
from isod.errors import InputError
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import Draw
from isod.training.examples import TrainingExamples
from isod.training.stream import table_statistics


class TableActor:
    """One trial's table (spec §10). Draw t is handed out once the scores of step t − 1 − lag have been applied.

    Calls may arrive in any order: the schedule applies updates by step number, so the draws do not depend on how many
    workers ask for them or who asks first. It is turned into an actor where it is created
    (``ray.remote(TableActor).options(...)``), so that it can also be tested as a plain object.
    """

    def __init__(
        self,
        sampler: SamplerConfig,
        examples: TrainingExamples,
        *,
        seed: int,
        batch_size: int,
        lag: int,
        steps: int,
    ) -> None:
        self._table = examples.table(sampler, seed=seed)
        self._schedule = DrawSchedule(self._table, batch_size=batch_size, lag=lag, steps=steps)
        self._changed = asyncio.Condition()
        self._refused: Exception | None = None  # why an update was refused: nobody may wait for it for ever

    async def draw(self, step: int) -> Draw:
        """The draw of ``step``, as soon as the scores that it must see are in.

        Raises:
            InputError: scores were refused that this draw, or an earlier one, must see.
        """
        await self._until(lambda: self._schedule.ready(step))
        return self._schedule.draw(step)

    async def update(self, step: int, indices: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Takes the scores of ``step``; raises InputError for scores that are not finite and ≥ 0."""
        async with self._changed:
            try:
                self._schedule.update(step, indices, scores)
            except Exception as error:
                self._refused = error
                raise
            finally:
                self._changed.notify_all()

    async def effective_sample_size(self, step: int) -> float:
        """(Σs)²/(N·Σs²) once the scores of every step ≤ ``step`` are in."""
        await self._until(lambda: self._schedule.applied > step)
        return self._table.effective_sample_size()

    async def statistics(self, step: int) -> dict[str, NDArray]:
        """Per-example arrays [N] once the scores of every step ≤ ``step`` are in."""
        await self._until(lambda: self._schedule.applied > step)
        return table_statistics(self._table)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: holds() or self._refused is not None)
            if not holds():
                raise InputError(f"the stream stopped: {self._refused}")
