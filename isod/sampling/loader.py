"""The importance table in your own PyTorch loop.

    sampler = ImportanceBatchSampler(table, batch_size=128, lag=prefetched(num_workers=4))
    for images, targets in DataLoader(dataset, batch_sampler=sampler, num_workers=4):
        ...                                  # losses [128]: one number ≥ 0 per example
        sampler.update(losses)

A DataLoader asks for batches ahead of the one in training: ``num_workers · prefetch_factor`` of them. The sampler
counts these as its lag, so that the batches are the same with any number of workers that the lag allows for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Sampler

from isod.errors import InputError
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import Draw, ImportanceTable


def prefetched(num_workers: int, prefetch_factor: int = 2) -> int:
    """Return how many batches a torch DataLoader draws ahead: the smallest lag that it can work with."""
    return num_workers * prefetch_factor


class ImportanceBatchSampler(Sampler[list[int]]):
    """Batches of indices for ``DataLoader(batch_sampler=…)``, drawn from an importance table.

    Draw t has seen the scores of steps ≤ t − 1 − lag. Call ``update`` once per batch, before the loop asks for the next
    one. Iterating again starts with the first batch that has no scores yet, so a loop that was left early, or resumed
    from ``state_dict`` in another process, skips and repeats nothing.

    Under torch.distributed every rank holds an identical table (same arguments, same seed) and gets its own part of
    one global batch of ``batch_size · world_size`` examples. ``update`` gathers the scores of all ranks.

    Args:
        table: an importance table; its scores mean what you define.
        batch_size: examples per batch and rank.
        lag: batches drawn ahead; at least ``prefetched(num_workers, prefetch_factor)`` of the DataLoader.
        length: batches per iteration; by default the number of full batches of an epoch, at least one.
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
        length: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.world_size = world_size or (torch.distributed.get_world_size() if distributed else 1)
        self.rank = rank if rank is not None else (torch.distributed.get_rank() if distributed else 0)
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank must be in 0 … {self.world_size - 1}, got {self.rank}")
        if length is not None and length < 1:
            raise InputError(f"length must be ≥ 1, got {length}")
        self.batch_size = batch_size
        self.schedule = DrawSchedule(table, batch_size=batch_size * self.world_size, lag=lag)
        self.length = length or max(1, table.examples.eligible // (batch_size * self.world_size))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.step, self.step + self.length):
            if not self.schedule.ready(step):
                raise InputError(
                    f"batch {step} was asked for, but only the scores of steps < {self.step} have come: call update() "
                    f"once per batch, and give the sampler a lag of at least num_workers · prefetch_factor (it is "
                    f"{self.schedule.lag})"
                )
            yield self._mine(self.schedule.draw(step).indices).tolist()

    @property
    def step(self) -> int:
        """Number of the batch in training: the first one that has no scores yet."""
        return self.schedule.applied

    @property
    def batch(self) -> Draw:
        """This rank's part of the batch in training: indices, probabilities, and weights for its losses."""
        draw = self.schedule.draw(self.step)
        return Draw(
            self._mine(draw.indices), self._mine(draw.probabilities), self._mine(draw.weights), draw.step, draw.version
        )

    def update(self, scores: Tensor) -> None:
        """Give the batch in training its scores, in the order of its indices.

        Args:
            scores: [batch_size], 0 … 10¹⁵, on any device; they are copied to the host once.

        Raises:
            InputError: the shape is wrong, or the table rejects a score.
        """
        if scores.shape != (self.batch_size,):
            raise InputError(f"update needs {self.batch_size} scores, one per example, got {tuple(scores.shape)}")
        scores = scores.detach()
        if self.world_size > 1:
            parts = [torch.empty_like(scores) for _ in range(self.world_size)]
            torch.distributed.all_gather(parts, scores.contiguous())
            scores = torch.cat(parts)
        draw = self.schedule.draw(self.step)
        self.schedule.update(self.step, draw.indices, scores.double().cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of table and schedule, the same on every rank."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned. Raises InputError if it belongs to other settings."""
        self.schedule.load_state_dict(state)

    def _mine(self, values: Any) -> Any:
        return values[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
