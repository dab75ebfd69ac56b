"""Drawn crops as a Ray Data stream: long-lived decode workers, exact order, fixed lag (spec §10)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from isod.config import RunConfig
from isod.data.store import Crops, CropStore
from isod.orchestration.table_actor import TableActor
from isod.ragged import pad_objects
from isod.sampling.table import Draw
from isod.training.examples import TrainingExamples
from isod.training.stream import Batch, TableSummary


class DecodeWorker:
    """Worker k of K yields the batches of steps start + k, start + k + K, …: one row, and so one block, a step.

    A row cannot be cut, so a step arrives whole; and it leaves the worker at once, because a block is closed as soon as
    it exceeds ``target_max_block_size``, which the stream sets to a single byte.
    """

    def __init__(self, store_uri: str, table: Any, start: int, stop: int, workers: int) -> None:
        self._split = CropStore.open(store_uri).split("train")
        self._table = table
        self._start, self._stop, self._workers = start, stop, workers

    def __call__(self, batch: dict[str, NDArray]) -> Iterator[dict[str, NDArray]]:
        for first in batch["worker"].tolist():
            steps = range(self._start + first, self._stop, self._workers)
            asked = [self._table.draw.remote(step) for step in steps[:1]]
            for step, following in zip_longest(steps, steps[1:]):
                draw: Draw = ray.get(asked.pop())
                if following is not None:  # asked for early: the answer may have to wait for scores
                    asked.append(self._table.draw.remote(following))
                yield pack(step, draw, self._split.read(draw.indices))


def pack(step: int, draw: Draw, crops: Crops) -> dict[str, NDArray]:
    """One batch as a row of fixed-shape tensors; ragged objects are padded to the batch's largest count."""
    boxes, labels, dont_care, counts = pad_objects(crops.boxes, crops.labels, crops.dont_care)
    row = {
        "step": np.int64(step),
        "indices": draw.indices,
        "probabilities": draw.probabilities,
        "weights": draw.weights,
        "version": np.int64(draw.version),
        "images": crops.images,
        "boxes": boxes,
        "labels": labels,
        "dont_care": dont_care,
        "counts": counts,
    }
    return {name: np.asarray(value)[None] for name, value in row.items()}


def unpack(row: dict[str, NDArray]) -> Batch:
    """The inverse of ``pack``; images stay where they are, in shared memory, and are read-only."""
    value = {name: column[0] for name, column in row.items()}
    draw = Draw(
        indices=value["indices"],
        probabilities=value["probabilities"],
        weights=value["weights"],
        step=int(value["step"]),
        version=int(value["version"]),
    )
    counts = value["counts"].tolist()
    crops = Crops(
        indices=value["indices"],
        images=value["images"],
        boxes=[value["boxes"][b, :n] for b, n in enumerate(counts)],
        labels=[value["labels"][b, :n] for b, n in enumerate(counts)],
        dont_care=[value["dont_care"][b, :n] for b, n in enumerate(counts)],
    )
    return Batch(int(value["step"]), draw, crops)


def workers_place() -> dict[str, Any]:
    """Where decode workers run: in the CPUs that their trial reserved for them, if this is a trial.

    Ray 2.60 deprecates the setting and offers nothing instead; it goes with Ray 2.64, and Ray is pinned.
    """
    group = ray.util.get_current_placement_group()
    return {} if group is None else {"scheduling_strategy": PlacementGroupSchedulingStrategy(group)}


class RayStream:
    """A trial's one table actor and one stream, for its whole life.

    Args:
        store_uri: the crop store, readable from every node.
        config: the run.
        examples: which may be drawn.
        workers: decode processes.
        cpus_per_worker: CPUs that each of them uses, out of what the trial reserved.
    """

    def __init__(
        self,
        store_uri: str,
        config: RunConfig,
        examples: TrainingExamples,
        *,
        workers: int,
        cpus_per_worker: float,
    ) -> None:
        training = config.training
        self._store_uri = store_uri
        self._workers = workers
        self._cpus_per_worker = cpus_per_worker
        self._table: Any = (
            ray.remote(TableActor)
            .options(num_cpus=0, max_concurrency=1000)
            .remote(
                config.sampler,
                examples,
                seed=training.seed,
                batch_size=training.batch_size,
                lag=training.lag,
                steps=training.iterations,
            )
        )

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        workers = min(self._workers, max(1, stop - start))
        context = DataContext.get_current().copy()
        context.target_max_block_size = 1
        context.enable_progress_bars = False
        context.enable_operator_progress_bars = False
        with DataContext.current(context):
            # blocks made right here: ray.data.range and from_arrow would each run tasks that want a CPU of their own
            items = [{"worker": k} for k in range(workers)]
            stream = ray.data.from_items(items, override_num_blocks=workers).map_batches(
                DecodeWorker,
                fn_constructor_args=(self._store_uri, self._table, start, stop, workers),
                batch_size=1,
                compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
                num_cpus=self._cpus_per_worker,
                **workers_place(),
            )
            early: dict[int, Batch] = {}
            step = start
            # prefetching here would hold batches whose scores are owed, and wait for itself when the lag is 0
            for row in stream.iterator().iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
                batch = unpack(row)
                early[batch.step] = batch
                while step in early:
                    yield early.pop(step)
                    step += 1
        if step != stop:
            raise RuntimeError(f"the stream ended at step {step} of {stop}")

    def send_scores(self, step: int, indices: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        # nobody waits for an answer: refused scores surface in the draw, or in the summary, that must see them
        self._table.update.options(num_returns=0).remote(step, indices, scores)

    def summary(self, step: int) -> TableSummary:
        return TableSummary(ray.get(self._table.effective_sample_size.remote(step)))

    def statistics(self, step: int) -> dict[str, NDArray]:
        return ray.get(self._table.statistics.remote(step))

    def close(self) -> None:
        """Ends the table actor; its draws and scores are gone."""
        ray.kill(self._table)
