"""The importance table in your own PyTorch loop: samplers for a DataLoader.

    sampler = ImportanceBatchSampler(table, batch_size=128, lag=lag_for(num_workers=4))
    for indices, (images, targets) in DataLoader(sampler.indexed(dataset), batch_sampler=sampler, num_workers=4):
        ...                                  # losses [n]: one number ≥ 0 per example
        sampler.update(losses, indices)

A DataLoader asks for batches ahead of the one in training. The sampler counts these as its lag, so that the batches are
the same with any number of workers that the lag allows for.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

from isod.errors import InputError
from isod.sampling.examples import FloatArray, IntArray, as_numpy, as_tensors
from isod.sampling.kernels import UNSCORED
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import ImportanceTable


def lag_for(num_workers: int = 0, prefetch_factor: int = 2, *, lookahead: int = 0, accumulation: int = 1) -> int:
    """Return the smallest lag for a loop: how many batches are asked for beyond the oldest one without scores.

    Args:
        num_workers, prefetch_factor: of the torch DataLoader, which fetches their product of batches ahead.
        lookahead: batches that the framework reads ahead of the one in training: 1 with accelerate.
        accumulation: batches that are fetched, or scored, together: gradient_accumulation_steps in transformers.

    Raises:
        InputError: a number is out of its range.
    """
    if min(num_workers, prefetch_factor, lookahead, accumulation - 1) < 0:
        raise InputError(
            f"num_workers, prefetch_factor and lookahead must be ≥ 0 and accumulation ≥ 1, got {num_workers}, "
            f"{prefetch_factor}, {lookahead} and {accumulation}"
        )
    return num_workers * prefetch_factor + lookahead + accumulation - 1


class IndexedDataset(Dataset[tuple[int, Any]]):
    """A dataset whose items are (index, item): what ``ImportanceSampler.indexed`` returns."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]


class _Slot(NamedTuple):
    """One place of one draw."""

    step: int
    place: int  # within the global batch


class ImportanceSampler(Sampler[int]):
    """Single indices for ``DataLoader(sampler=…, batch_size=…)``, drawn from an importance table.

    Draws hold ``batch_size`` examples per rank. Draw t has seen the scores of steps ≤ t − 1 − lag. An iteration begins
    with the first draw that has not all its scores yet and ends with the epoch, so a loop that was left early, or
    resumed from ``state_dict`` in another process, skips and repeats no draw. One that has a part of its scores is
    handed out whole, as the loader's batches are the draws; ``batches`` hands out what has no score.

    Under torch.distributed every rank holds an identical table (same arguments, same seed) and gets its own part of
    one global batch of ``batch_size · world_size`` examples. ``update`` gathers the scores of all ranks: call it
    equally often on each. The framework must not shard the sampler again.

    Args:
        table: an importance table; its scores mean what you define.
        batch_size: examples per draw and rank; that of the loader.
        lag: batches drawn ahead; at least ``lag_for`` of the loop.
        drop_last: whether an epoch ends with its last full batch. If not, its last draw is smaller, and with several
            ranks padded to the same size on each.
        length: batches of an epoch, all of them full; by default the table's eligible examples decide.
        endless: whether an iteration runs on after the epoch, for loaders that begin the next epoch while batches are
            in flight, as ultralytics' does. All draws are full then; the length is that of an epoch.
        rank, world_size: by default those of torch.distributed if it is initialised, else 0 and 1.

    Raises:
        InputError: a number is out of its range.
    """

    def __init__(
        self,
        table: ImportanceTable,
        *,
        batch_size: int,
        lag: int = 0,
        drop_last: bool = False,
        length: int | None = None,
        endless: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ):
        self._given_ranks = world_size is not None
        here, ranks = _distributed()
        self.world_size = ranks if world_size is None else world_size
        self.rank = here if rank is None else rank
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank must be in 0 … {self.world_size - 1}, got {self.rank}")
        if length is not None and length < 1:
            raise InputError(f"length must be ≥ 1, got {length}")
        if batch_size < 1:
            raise InputError(f"batch_size must be ≥ 1, got {batch_size}")
        if table.config.candidates > 1:
            raise InputError(
                f"sampler {table.config.name!r} trains on a part of what it draws, which isod's own training alone "
                "does: in your loop, draw larger batches from a table with candidates=1 and choose with "
                "isod.sampling.selection"
            )
        self.table, self.batch_size, self.drop_last, self.endless = table, batch_size, drop_last, endless
        examples = -(-table.examples.eligible // self.world_size)  # of an epoch on each rank
        if length is not None:
            examples = length * batch_size
        elif drop_last:
            examples = max(1, table.examples.eligible // (batch_size * self.world_size)) * batch_size
        self._examples = examples
        self.length = -(-examples // batch_size)  # batches of an epoch
        partial = examples % batch_size and not endless
        self.schedule = DrawSchedule(
            table,
            batch_size=batch_size * self.world_size,
            lag=lag,
            epoch=examples * self.world_size if partial else None,
        )
        self.skipped = 0  # scores that were not finite and that update(skip_nonfinite=True) left out, on all ranks
        self._partial: dict[int, FloatArray] = {}  # scores of a step [n], NaN where there is none yet; inf: skipped
        self._in_flight: defaultdict[int, deque[_Slot]] = defaultdict(deque)  # of each index, in the order of delivery
        self._weighed: Counter[int] = Counter()  # how many of these, the first ones, weights() has returned
        self._warned = False
        self._iteration = 0

    def __len__(self) -> int:
        return self._examples

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches(whole=True):
            yield from batch

    def batches(self, *, whole: bool = False) -> Iterator[list[int]]:
        """Yield this rank's part of each draw, [n] indices, as ``__iter__`` does one by one.

        Args:
            whole: whether a draw is yielded with the examples that have their scores already.

        Raises:
            InputError: the loader reads further ahead than the lag allows, or two iterations run at once.
        """
        self._check_ranks()
        self._iteration += 1
        iteration = self._iteration
        self._in_flight.clear()
        self._weighed.clear()
        step = self.step
        end = (step // self.length + 1) * self.length
        while self.endless or step < end:
            if not self.schedule.released(step):
                if not self.schedule.ready(step):
                    raise InputError(self._too_far(step))
                indices, places = self._open(step, whole)
                for index, place in zip(indices, places, strict=True):
                    self._in_flight[index].append(_Slot(step, place))
                if indices:
                    yield indices
                if iteration != self._iteration:
                    raise InputError("a sampler serves one iteration at a time, and a newer one has begun")
            step += 1

    def _open(self, step: int, whole: bool) -> tuple[list[int], list[int]]:
        """Return the indices and places of this rank's part of a draw: the whole part, or what has no score yet."""
        indices = self.schedule.draw(step).indices
        n = len(indices) // self.world_size
        places = np.arange(self.rank * n, (self.rank + 1) * n)
        if step in self._partial and not whole:
            places = places[np.isnan(self._partial[step][places])]
        return indices[places].tolist(), places.tolist()

    def _too_far(self, step: int) -> str:
        ahead = step - self.step
        text = (
            f"the loader asked for batch {step} while batch {self.step} has no scores: it reads {ahead} ahead, and the "
            f"sampler's lag is {self.schedule.lag}. "
        )
        if any(self.schedule.released(later) or later in self._partial for later in range(self.step + 1, step)):
            return text + (
                f"Later batches have scores already, so batch {self.step} was left out: the framework shards the "
                "sampler a second time, update() was not called for it, or the loader has in_order=False, under which "
                "batches come as fast as the workers are and no lag is enough"
            )
        return text + (
            f"Give it lag=lag_for(num_workers, prefetch_factor, lookahead=…, accumulation=…), which is {ahead} or more "
            "here, and call update() for every batch"
        )

    @property
    def step(self) -> int:
        """Number of the first batch whose scores have not all arrived."""
        return self.schedule.applied

    def weights(self, indices: ArrayLike | Tensor) -> Tensor:
        """Return the weights for the losses of examples that the loader delivered, [n] float32, on the indices' device.

        Call it once per batch, in the order of delivery: an example that is in flight several times has a weight for
        each. Several batches may be weighed before one ``update``.

        Args:
            indices: [n], as for ``update``.

        Raises:
            InputError: an example was not delivered, was scored already, or its weight was asked for already.
        """
        device = indices.device if isinstance(indices, Tensor) else None
        index = _as_indices(indices)
        slots = self._match(index, after=self._weighed)
        self._weighed.update(index.tolist())
        weights = [self.schedule.draw(slot.step).weights[slot.place] for slot in slots]
        return torch.tensor(weights, dtype=torch.float32, device=device)

    def update(self, scores: ArrayLike | Tensor, indices: ArrayLike | Tensor, *, skip_nonfinite: bool = False) -> None:
        """Give examples that the loader delivered their scores. It changes nothing if it raises.

        Args:
            scores: [n], 0 … 10¹⁵, on any device; a tensor is copied to the host once.
            indices: [n] the examples that these are the scores of, as the loader delivered them: in any order, any
                number of them, each as often as it was delivered.
            skip_nonfinite: whether examples whose score is NaN or infinite keep their old one and are counted in
                ``skipped``, for steps that the framework skips because mixed precision overflowed.

        Raises:
            InputError: shapes differ, an example was not delivered or was scored already, the table rejects a score, or
                another rank failed or scored another batch.
        """
        self._check_ranks()
        slots: list[_Slot] = []
        values, fault = np.zeros(0), None
        try:
            slots, values = self._matched(scores, indices, skip_nonfinite)
        except Exception as error:  # whatever it is, the other ranks wait to be told
            if self.world_size == 1:
                raise
            fault = error
        everywhere = self._gather(slots, values, fault) if self.world_size > 1 else (slots, values)
        for slot in slots:
            self._take(slot)
        self._apply(*everywhere)

    def _matched(
        self, scores: ArrayLike | Tensor, indices: ArrayLike | Tensor, skip_nonfinite: bool
    ) -> tuple[list[_Slot], FloatArray]:
        """Return the place of each score, and the scores, inf where one is skipped."""
        index, found = _as_indices(indices), np.asarray(as_numpy(scores))
        if found.shape != index.shape:
            raise InputError(
                f"update needs one score per example, {len(index)} here, got shape {list(found.shape)}"
                + (": reduce the scores of an image's objects to one number" if found.size > len(index) else "")
            )
        if found.dtype.kind not in "fiu":
            raise InputError(f"scores must be real numbers, got {found.dtype}")
        slots = self._match(index)
        values = found.astype(np.float64)
        finite = np.isfinite(values) if skip_nonfinite else np.ones(len(values), bool)
        if finite.any():
            self.table.checked(index[finite], values[finite])
        return slots, np.where(finite, values, np.inf)

    def _match(self, indices: IntArray, after: Counter[int] | None = None) -> list[_Slot]:
        """Return for each index the oldest place in flight, one after the other if the index occurs again; ``after``
        says how many places of an index to pass over."""
        seen = Counter(after)
        slots = []
        for index in indices.tolist():
            waiting = self._in_flight.get(index, ())
            if seen[index] >= len(waiting):
                if after is not None and waiting:
                    raise InputError(f"example {index} has its weight already: call weights() once per batch")
                raise InputError(self._not_in_flight(index))
            slots.append(waiting[seen[index]])
            seen[index] += 1
        return slots

    def _not_in_flight(self, index: int) -> str:
        if not self._iteration:
            return (
                "the loader has not asked this sampler for an example yet: did the framework replace the sampler? "
                f"(example {index} was to be scored)"
            )
        return (
            f"example {index} is not in flight: this sampler has not handed it out, or it has its score already. Give "
            "update() the indices that the loader delivered, once each. If the framework replaced the sampler or "
            "shards it again, keep it from that; if its loader begins an epoch while batches are in flight, use "
            "endless=True"
        )

    def _gather(
        self, slots: Sequence[_Slot], values: FloatArray, fault: Exception | None
    ) -> tuple[list[_Slot], FloatArray]:
        """Return the places and scores of all ranks.

        Raises:
            InputError: on every rank, if a rank has a fault or scores other batches than this one.
        """
        where = _collective_device(torch.distributed.get_backend_config())
        counts = torch.empty(self.world_size, dtype=torch.int64, device=where)
        torch.distributed.all_gather_into_tensor(
            counts, torch.tensor([-1 if fault else len(slots)], dtype=torch.int64, device=where)
        )
        numbers = counts.tolist()
        if fault:
            raise fault
        if min(numbers) < 0:
            raise InputError(f"rank {numbers.index(-1)} could not use its scores: see its error")
        mine = torch.zeros(max(numbers), 3, dtype=torch.float64)
        if slots:
            mine[: len(slots), :2] = torch.tensor(slots, dtype=torch.float64)  # exact up to 2⁵³
            mine[: len(slots), 2] = torch.from_numpy(values)
        parts = torch.empty(self.world_size * max(numbers), 3, dtype=torch.float64, device=where)
        torch.distributed.all_gather_into_tensor(parts, mine.to(where))
        rows = parts.cpu().numpy().reshape(self.world_size, -1, 3)
        steps = [set(part[:n, 0].astype(int).tolist()) for part, n in zip(rows, numbers, strict=True)]
        for rank, others in enumerate(steps):
            if others != steps[0]:
                raise InputError(
                    f"rank 0 scored batches {sorted(steps[0])} and rank {rank} batches {sorted(others)} in the same "
                    "update: the framework shards the sampler a second time (see 'The exact rule' in the "
                    "documentation), or the ranks' loops are out of step"
                )
        flat = np.concatenate([part[:n] for part, n in zip(rows, numbers, strict=True)])
        return [_Slot(int(step), int(place)) for step, place, _ in flat], flat[:, 2]

    def _take(self, slot: _Slot) -> None:
        """Take a place of this rank out of flight."""
        index = int(self.schedule.draw(slot.step).indices[slot.place])
        if self._in_flight[index].index(slot) < self._weighed[index]:
            self._weighed[index] -= 1
        self._in_flight[index].remove(slot)
        if not self._in_flight[index]:
            del self._in_flight[index]

    def _apply(self, slots: Sequence[_Slot], values: FloatArray) -> None:
        """Note the scores, and hand each batch that is complete to the schedule."""
        for slot, value in zip(slots, values, strict=True):
            if slot.step not in self._partial:
                self._partial[slot.step] = np.full(len(self.schedule.draw(slot.step).indices), np.nan)
            self._partial[slot.step][slot.place] = value
        self.skipped += int(np.isinf(values).sum())
        for step in sorted({slot.step for slot in slots}):
            if not np.isnan(self._partial[step]).any():
                scores = self._partial.pop(step)
                kept = np.isfinite(scores)
                self.schedule.update(step, self.schedule.draw(step).indices[kept], scores[kept])
                if self.skipped and not self._warned and self.step >= 2 * self.length:
                    self._warn_of_unscored()

    def _warn_of_unscored(self) -> None:
        """Say so if examples have no score after two epochs: until then no strategy draws."""
        self._warned = True
        if not self.table.primed:
            unscored = np.flatnonzero(self.table.last_step == UNSCORED)
            warnings.warn(
                f"{len(unscored)} of {self.table.examples.eligible} examples, {unscored[0]} the first, have no score "
                "after two epochs, as theirs was never finite. Until each has one, all are drawn in sequence: leave "
                "these out with the table's eligible=, or mend what makes their loss infinite",
                stacklevel=4,
            )

    def _check_ranks(self) -> None:
        ranks = _distributed()[1]
        if self._given_ranks and self.world_size > 1 and ranks == 1:
            raise InputError(
                f"the sampler was built for {self.world_size} ranks, whose scores update() gathers, and "
                "torch.distributed is not initialised: call init_process_group first"
            )
        if not self._given_ranks and ranks != self.world_size:
            raise InputError(
                f"the sampler was built for {self.world_size} processes and torch.distributed now has {ranks}: build "
                "it after init_process_group"
            )

    def set_epoch(self, epoch: int) -> None:
        """No-op: the state says which epoch it is. Frameworks call it."""

    def indexed(self, dataset: Any) -> IndexedDataset:
        """Return the dataset with items (index, item), so that the loader delivers the indices for ``update``.

        Raises:
            InputError: the dataset has another length than the table.
        """
        self.check_length(dataset)
        return IndexedDataset(dataset)

    def check_length(self, dataset: Sized) -> None:
        """Raise InputError if the dataset has another length than the table."""
        if len(dataset) != self.table.num_examples:
            raise InputError(
                f"the dataset has {len(dataset)} examples and the importance table {self.table.num_examples}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of table and schedule and the scores of unfinished batches, the same on every rank.

        Batches in flight count as not trained: after ``load_state_dict`` they are handed out again.
        """
        return self.schedule.state_dict() | {
            "skipped": self.skipped,
            "partial": as_tensors({step: scores.copy() for step, scores in self._partial.items()}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned. Raises InputError if it belongs to other settings."""
        self.schedule.load_state_dict(state)
        self.skipped = int(state.get("skipped", 0))
        self._partial = {int(step): as_numpy(scores).copy() for step, scores in state.get("partial", {}).items()}
        self._in_flight.clear()
        self._weighed.clear()
        self._iteration += 1  # an iteration under way ends with an error


class ImportanceBatchSampler(BatchSampler):
    """Batches of indices for ``DataLoader(batch_sampler=…)``: each one is a draw of an ``ImportanceSampler``.

    Args:
        table, batch_size, lag, drop_last, settings: as of ``ImportanceSampler``, which is the attribute ``sampler``.
            Its methods are available here too.

    Raises:
        InputError: a number is out of its range.
    """

    sampler: ImportanceSampler

    def __init__(
        self, table: ImportanceTable, *, batch_size: int, lag: int = 0, drop_last: bool = True, **settings: Any
    ):
        sampler = ImportanceSampler(table, batch_size=batch_size, lag=lag, drop_last=drop_last, **settings)
        super().__init__(sampler, batch_size, drop_last)
        self.update, self.weights, self.indexed = sampler.update, sampler.weights, sampler.indexed
        self.state_dict, self.load_state_dict = sampler.state_dict, sampler.load_state_dict
        self.set_epoch, self.check_length = sampler.set_epoch, sampler.check_length

    def __len__(self) -> int:
        return self.sampler.length

    def __iter__(self) -> Iterator[list[int]]:
        return self.sampler.batches()

    @property
    def step(self) -> int:
        """Number of the first batch whose scores have not all arrived."""
        return self.sampler.step


def _distributed() -> tuple[int, int]:
    """Return rank and world size of torch.distributed; 0 and 1 if it is not initialised."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _collective_device(backends: str) -> torch.device:
    """Return a device whose tensors the ranks can exchange; ``backends`` as in "cpu:gloo,cuda:nccl"."""
    kinds = [backend.partition(":")[0] for backend in backends.split(",")]
    return torch.device("cpu" if "cpu" in kinds else kinds[0])


def _as_indices(indices: ArrayLike | Tensor) -> IntArray:
    array = np.asarray(as_numpy(indices))
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or not array.size):
        raise InputError(f"indices must be [n] integers, got {array.dtype} {list(array.shape)}")
    return array.astype(np.int64, copy=False)
