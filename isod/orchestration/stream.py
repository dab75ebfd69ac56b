"""Drawn crops as a Ray Data stream: long-lived decode workers, exact order, fixed lag (spec §10)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from isod.config.settings import RunConfig
from isod.data.store.crops import Crops
from isod.data.store.split import CropSplit, CropStore
from isod.objects import Objects
from isod.orchestration.ray_metrics import RunMetrics, labels_of
from isod.orchestration.table_actor import Assignment, TableActor
from isod.sampling.examples import as_arrays, as_tensors
from isod.sampling.table import Draw
from isod.training.examples import TrainingExamples
from isod.training.process import keep_memory
from isod.training.stream import WHOLE_BATCH, Batch, BatchPart, TableSummary


class DecodeWorker:
    """Worker k of K yields the batches of steps start + k, start + k + K, … of one run after the other, or its rank's
    part of them, one row, and so one block, a step.

    A row cannot be cut, so a step arrives whole; and it leaves the worker at once, because a block is closed as soon as
    it exceeds ``target_max_block_size``, which the stream sets to a single byte.
    """

    def __init__(self, table: Any, workers: int, part: BatchPart) -> None:
        self._table = table
        self._workers = workers
        self._part = part
        keep_memory()

    def __call__(self, batch: dict[str, NDArray]) -> Iterator[dict[str, NDArray]]:
        run, split = 0, None
        while True:
            run, store_uri, start, stop, decode, labels = ray.get(self._table.assignment.remote(run))
            if split is None or split.uri != store_uri:
                split = CropStore.open(store_uri).split("train")
            steps = range(start + int(batch["worker"][0]), stop, self._workers)
            yield from self._steps(run, split, steps, decode, RunMetrics(labels))

    def _steps(
        self, run: int, split: CropSplit, steps: range, decode: bool, metrics: RunMetrics
    ) -> Iterator[dict[str, NDArray]]:
        asked = [self._table.draw.remote(run, step) for step in steps[:1]]
        for step, following in zip_longest(steps, steps[1:]):
            draw: Draw | None = ray.get(asked.pop())
            if draw is None:
                metrics.update(last=True)
                return
            if following is not None:  # asked for early: the answer may have to wait for scores
                asked.append(self._table.draw.remote(run, following))
            crops = split.read(self._part.of(draw.indices), quarantine=True, decode=decode)
            metrics.add("isod_crops", len(crops.indices))
            metrics.update(last=following is None)
            yield pack(run, step, draw, crops)


def pack(run: int, step: int, draw: Draw, crops: Crops) -> dict[str, NDArray]:
    """Return one batch as a row of fixed-shape tensors."""
    row = {
        "run": np.int64(run),
        "step": np.int64(step),
        "indices": draw.indices,
        "probabilities": draw.probabilities,
        "weights": draw.weights,
        "version": np.int64(draw.version),
        "images": crops.images,
        **vars(crops.objects),
        "unreadable": crops.unreadable,
        "packed_at": np.float64(time.time()),
    }
    return {name: np.asarray(value)[None] for name, value in row.items()}


def unpack(row: dict[str, NDArray], part: BatchPart) -> tuple[int, Batch]:
    """The run and the batch that ``pack`` made a row of, from the crops of a part of it; images stay in shared memory,
    and are read-only."""
    value = {name: column[0] for name, column in row.items()}
    draw = Draw(
        indices=value["indices"],
        probabilities=value["probabilities"],
        weights=value["weights"],
        step=int(value["step"]),
        version=int(value["version"]),
    )
    crops = Crops(
        indices=part.of(draw.indices),
        images=value["images"],
        objects=Objects(value["boxes"], value["labels"], value["dont_care"], value["counts"]),
        unreadable=value["unreadable"],
    )
    return int(value["run"]), Batch(int(value["step"]), draw, crops)


def start_table() -> Any:
    """A table actor; it ends with the process that started it."""
    return ray.remote(TableActor).options(num_cpus=0, max_concurrency=1000).remote()


def workers_place(part: BatchPart) -> dict[str, Any]:
    """Where decode workers run: in the CPUs that their trial reserved for them, if this is a trial; those of a rank
    beside it, in the CPUs that the rank reserved for itself and them.

    Ray 2.60 deprecates the setting and offers nothing instead; it goes with Ray 2.64, and Ray is pinned.
    """
    if part.ranks > 1:
        here = ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}
    group = ray.util.get_current_placement_group()
    return {} if group is None else {"scheduling_strategy": PlacementGroupSchedulingStrategy(group)}


class RayStream:
    """One table actor and one Ray Data stream, for one run after the other.

    Starting a stream costs seconds, so a process that runs several trials keeps it: ``begin`` turns it to the next one.

    Args:
        workers: decode processes.
        cpus_per_worker: CPUs that each of them uses, out of what the trial reserved.
        table: the actor; one of its own if not given.
        part: of every batch that it yields. Where several ranks share a run, each has a stream, and all have one table:
            rank 0's stream begins the run and sends the scores, those of the others ``join`` it.
    """

    def __init__(
        self, *, workers: int, cpus_per_worker: float, table: Any = None, part: BatchPart = WHOLE_BATCH
    ) -> None:
        self.workers = workers
        self.cpus_per_worker = cpus_per_worker
        self._run = 0
        self._table = start_table() if table is None else table
        self._part = part
        self._rows: Iterator[dict[str, NDArray]] | None = None
        self._metrics = RunMetrics({})

    def begin(
        self,
        store_uri: str,
        config: RunConfig,
        examples: TrainingExamples,
        state: dict[str, Any] | None = None,
        *,
        sweep: str = "",
    ) -> RayStream:
        """Turn to a run; what was left of the one before is dropped.

        Args:
            store_uri: the crop store, readable from every node.
            state: the saved table and draws, where the run resumes: with the step that follows the last update.
            sweep: whose name the run's metrics in Ray have; without it there are none.
        """
        training = config.training
        self._run += 1
        self._examples = examples
        self._last = training.iterations - 1
        labels = labels_of(sweep, config) if sweep else {}
        self._metrics.update(last=True)
        self._metrics = RunMetrics(labels)
        assignment = Assignment(
            number=self._run,
            store_uri=store_uri,
            sampler=config.sampler,
            examples=examples,
            seed=training.seed,
            batch_size=config.draw_size,
            lag=training.lag,
            start=0 if state is None else int(state["applied"]),
            stop=training.iterations,
            decode=not training.decode_on_device,
            state=None if state is None else as_arrays(state),
            labels=labels,
        )
        ray.get(self._table.begin.remote(assignment))
        return self

    def join(self) -> RayStream:
        """Turn to the run that rank 0's stream begins."""
        self._run += 1
        return self

    @property
    def num_examples(self) -> int:
        return self._examples.count

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start … stop − 1 of the present run, ``start`` being its first."""
        early: dict[int, tuple[Batch, float]] = {}
        step = start
        while step < stop:
            asked_at = time.perf_counter()
            row = next(self._start_once(), None)
            self._metrics.add("isod_wait_seconds", time.perf_counter() - asked_at)
            if row is None:
                raise RuntimeError(f"the stream ended at step {step} of {stop}")
            run, batch = unpack(row, self._part)
            if run != self._run:
                continue
            early[batch.step] = batch, float(row["packed_at"][0])
            while step in early and step < stop:
                batch, packed_at = early.pop(step)
                self._metrics.add("isod_queued_seconds", max(time.time() - packed_at, 0.0))  # of two clocks, perhaps
                yield batch
                step += 1

    def _start_once(self) -> Iterator[dict[str, NDArray]]:
        """The rows of the Ray Data stream, which starts when the first one is asked for."""
        if self._rows is None:
            context = DataContext.get_current().copy()
            context.target_max_block_size = 1
            context.enable_progress_bars = False
            context.enable_operator_progress_bars = False
            with DataContext.current(context):
                # blocks made right here: ray.data.range and from_arrow would each run tasks that want their own CPU
                items = [{"worker": k} for k in range(self.workers)]
                stream = ray.data.from_items(items, override_num_blocks=self.workers).map_batches(
                    DecodeWorker,
                    fn_constructor_args=(self._table, self.workers, self._part),
                    batch_size=1,
                    compute=ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=1),
                    num_cpus=self.cpus_per_worker,
                    **workers_place(self._part),
                )
                # prefetching here would hold batches whose scores are owed, and wait for itself when the lag is 0
                batches = stream.iterator().iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy")
                self._rows = iter(batches)
        return self._rows

    def send_scores(
        self,
        step: int,
        indices: NDArray[np.int64],
        scores: NDArray[np.float64],
        observed: NDArray[np.float64] | None = None,
    ) -> None:
        # nobody waits for an answer: refused scores surface in the draw, or in the summary, that must see them
        if self._part.rank == 0:
            self._table.update.options(num_returns=0).remote(self._run, step, indices, scores, observed)
            self._metrics.add("isod_steps", 1)
            self._metrics.add("isod_images", len(indices))
            self._metrics.update(last=step == self._last)

    def summary(self, step: int) -> TableSummary:
        return ray.get(self._table.summary.remote(self._run, step))

    def statistics(self, step: int) -> dict[str, NDArray]:
        return ray.get(self._table.statistics.remote(self._run, step))

    def state_dict(self, step: int) -> dict[str, Any]:
        return as_tensors(ray.get(self._table.snapshot.remote(self._run, step)))

    def close(self) -> None:
        """Ends the table actor, and with it the workers; its draws and scores are gone."""
        self._metrics.update(last=True)
        ray.kill(self._table)
        self._rows = None
