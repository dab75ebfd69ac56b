"""How drawn crops reach the training loop, in one process. The Ray stream has the same methods."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isod.config.settings import RunConfig
from isod.data.store.crops import Crops
from isod.data.store.split import CropSplit
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import Draw, ImportanceTable
from isod.training.examples import TrainingExamples


@dataclass(frozen=True)
class BatchPart:
    """Which part of every batch a process trains on: of equal, contiguous parts the one numbered as its rank."""

    rank: int = 0
    ranks: int = 1

    def of(self, slots: NDArray) -> NDArray:
        """The part of something that has one element per slot of the batch, [B] → [B / ranks]."""
        size = len(slots) // self.ranks
        return slots[self.rank * size : (self.rank + 1) * size]


WHOLE_BATCH = BatchPart()  # of a run in one process


@dataclass(frozen=True)
class Batch:
    """One step's crops, and how they were drawn."""

    step: int
    draw: Draw  # of the whole batch
    crops: Crops  # of this process's part of it


@dataclass(frozen=True)
class TableSummary:
    """What the importance table says about itself after some step."""

    effective_sample_size: float  # (Σs)²/(N·Σs²), a share of N
    primed: bool  # whether every example has a score


class Stream(Protocol):
    """A source of drawn batches that takes scores back."""

    @property
    def num_examples(self) -> int:
        """N, rows of the training split."""
        ...

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start … stop − 1, in order. Batch t may wait for the scores of step t − 1 − lag."""
        ...

    def send_scores(
        self,
        step: int,
        indices: NDArray[np.int64],
        scores: NDArray[np.float64],
        observed: NDArray[np.float64] | None = None,
    ) -> None:
        """The sample scores of the step's batch: indices [B], scores [B] ≥ 0; and what it saw, StepResult.observed."""
        ...

    def summary(self, step: int) -> TableSummary:
        """The table after the scores of every step ≤ ``step`` were applied."""
        ...

    def statistics(self, step: int) -> dict[str, NDArray]:
        """Per example [N], after the scores of every step ≤ ``step``: draw_count, mean_importance, last_step."""
        ...

    def state_dict(self, step: int) -> dict[str, Any]:
        """Table and draws under way, after the scores of every step ≤ ``step``; as torch tensors and plain numbers."""
        ...


def table_statistics(table: ImportanceTable) -> dict[str, NDArray]:
    """The per-example arrays [N] that a run leaves behind."""
    return {
        "draw_count": table.draw_count,
        "mean_importance": table.mean_importance,
        "last_step": table.last_step,
    }


def table_summary(table: ImportanceTable) -> TableSummary:
    """The summary of a table as it is now."""
    return TableSummary(table.effective_sample_size(), table.primed)


class LocalStream:
    """Reads ahead in threads as far as the lag allows; no Ray.

    Args:
        split: the training crops.
        table, schedule: whose draws are read.
        workers: threads that read and decode; the decoder and the store release the interpreter's lock.
        part: of every batch that is read.
        decode: whether to; else batches hold JPEG files.
    """

    def __init__(
        self,
        split: CropSplit,
        table: ImportanceTable,
        schedule: DrawSchedule,
        *,
        workers: int = 1,
        part: BatchPart = WHOLE_BATCH,
        decode: bool = True,
    ) -> None:
        self._split = split
        self._schedule = schedule
        self._table = table
        self._workers = workers
        self._part = part
        self._decode = decode

    @property
    def num_examples(self) -> int:
        return len(self._split)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        pending: deque[tuple[int, Draw, Future[Crops]]] = deque()
        with ThreadPoolExecutor(self._workers) as pool:
            upcoming = start
            for step in range(start, stop):
                while upcoming < stop and self._schedule.ready(upcoming):
                    draw = self._schedule.draw(upcoming)
                    indices = self._part.of(draw.indices)
                    crops = pool.submit(self._split.read, indices, quarantine=True, decode=self._decode)
                    pending.append((upcoming, draw, crops))
                    upcoming += 1
                if not pending:
                    raise RuntimeError(f"step {step} waits for scores that were not sent")
                ready, draw, crops = pending.popleft()
                yield Batch(ready, draw, crops.result())

    def send_scores(
        self,
        step: int,
        indices: NDArray[np.int64],
        scores: NDArray[np.float64],
        observed: NDArray[np.float64] | None = None,
    ) -> None:
        self._schedule.update(step, indices, scores, observed)

    def summary(self, step: int) -> TableSummary:
        return table_summary(self._table)

    def statistics(self, step: int) -> dict[str, NDArray]:
        return table_statistics(self._table)

    def state_dict(self, step: int) -> dict[str, Any]:
        return self._schedule.state_dict()


def local_stream(
    config: RunConfig,
    split: CropSplit,
    examples: TrainingExamples,
    *,
    workers: int,
    state: dict[str, Any] | None = None,
    part: BatchPart = WHOLE_BATCH,
) -> LocalStream:
    """The run's own table over its examples, and the stream of its draws; from a saved ``state`` if given.

    Where several processes share a run, each has its own, and all are sent the scores of the whole batch.
    """
    training = config.training
    run_length = training.iterations * config.draw_size
    table = examples.table(config.sampler, seed=training.seed, run_length=run_length)
    schedule = DrawSchedule(table, batch_size=config.draw_size, lag=training.lag, steps=training.iterations)
    if state is not None:
        schedule.load_state_dict(state)
    return LocalStream(split, table, schedule, workers=workers, part=part, decode=not training.decode_on_device)
