"""What the adapters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from isod.errors import InputError
from isod.sampling.catalogue import strategy_properties
from isod.sampling.loader import ImportanceBatchSampler, ImportanceSampler, lag_for
from isod.sampling.table import ImportanceTable


def sampler_of(loader: DataLoader) -> ImportanceSampler:
    """Return the importance sampler of a loader. Raises InputError if it has another one."""
    for sampler in (loader.batch_sampler, loader.sampler):
        if isinstance(sampler, ImportanceBatchSampler):
            return sampler.sampler
        if isinstance(sampler, ImportanceSampler):
            return sampler
    raise InputError(
        f"the loader draws with {type(loader.batch_sampler).__name__} of {type(loader.sampler).__name__}: give it an "
        "ImportanceBatchSampler as batch_sampler, or an ImportanceSampler as sampler"
    )


def check_lag(sampler: ImportanceSampler, loader: DataLoader, *, lookahead: int = 0, accumulation: int = 1) -> None:
    """Raise InputError, with the number needed, if the sampler's lag is smaller than ``lag_for`` of the loop."""
    needed = lag_for(loader.num_workers, loader.prefetch_factor or 0, lookahead=lookahead, accumulation=accumulation)
    if sampler.schedule.lag < needed:
        raise InputError(
            f"the sampler's lag is {sampler.schedule.lag} and this loop needs {needed}: {loader.num_workers} workers · "
            f"{loader.prefetch_factor or 0} batches, {lookahead} read ahead, {accumulation} scored together"
        )


def require_no_weights(table: ImportanceTable, who: str) -> None:
    """Raise InputError if the table's sampler gives weights for the losses: ``who`` computes them without."""
    config = table.config
    if config.weight_exponent or strategy_properties(config.strategy).gives_weights:
        raise InputError(
            f"sampler {config.name!r} gives each example a weight for its loss, and {who} computes the loss without: "
            "choose one with weight_exponent = 0 and another strategy than 'prune'"
        )


def require_loss(table: ImportanceTable, who: str) -> None:
    """Raise InputError if the table's sampler asks for another score than the loss, which ``who`` hands in."""
    config = table.config
    if config.heuristic not in (None, "loss"):
        raise InputError(
            f"sampler {config.name!r} draws by {config.heuristic!r} and {who} scores images by their loss: choose one "
            "with heuristic 'loss', such as LIS"
        )


class IndexedCollate:
    """A collate function for (index, item) pairs: adds the indices, [n] int64, to the dict that ``collate`` returns."""

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], key: str):
        self.collate, self.key = collate, key

    def __call__(self, pairs: list[tuple[int, Any]]) -> dict[str, Any]:
        indices, items = zip(*pairs, strict=True)
        return {**self.collate(list(items)), self.key: torch.tensor(indices)}
