"""The validation split, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from isod.data.store.crops import Crops
from isod.data.store.split import CropSplit

log = logging.getLogger(__name__)

CACHE_BYTES = 512 * 2**20  # decoded validation crops are kept in memory up to this size


def in_batches(indices: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """The indices in order, in as few nearly equal parts as hold at most ``batch_size`` each; at least one part."""
    return np.array_split(indices, max(1, -(-len(indices) // batch_size)))


def read_ahead(
    split: CropSplit, batches: Sequence[NDArray[np.int64]], *, threads: int, quarantine: bool = False
) -> Iterator[Crops]:
    """The crops of each batch of indices, in order; while one batch is in use the next one is read.

    Args:
        batches: at least one.
        threads, quarantine: as in ``CropSplit.read``.
    """
    read = partial(split.read, threads=threads, quarantine=quarantine)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, batches[0])
        for following in batches[1:]:
            crops = ahead.result()
            ahead = reader.submit(read, following)
            yield crops
        yield ahead.result()


class ValidationCrops:
    """The validation split in fixed batches; decoded once where it fits in memory.

    A crop that does not decode is left out, and logged.

    Args:
        threads: how many decode.
    """

    def __init__(self, split: CropSplit, batch_size: int, *, threads: int = 1) -> None:
        self._threads = threads
        self._unreadable: set[int] = set()
        self._split = split
        self.sizes = split.sizes()  # [N, 2] height and width of each crop, pixels, without padding
        self.batch_size = batch_size
        self._batches = in_batches(split.readable, batch_size)
        self._cache: list[Crops] | None = []

    def __iter__(self) -> Iterator[Crops]:
        if self._cache:
            yield from self._cache
            return
        kept: list[Crops] = []
        for crops in read_ahead(self._split, self._batches, threads=self._threads, quarantine=True):
            if crops.unreadable.any():
                self._log_unreadable(crops)
                crops = crops.without(crops.unreadable)
            if self._cache is not None:
                kept.append(crops)
                if sum(item.images.nbytes for item in kept) > CACHE_BYTES:
                    self._cache = None
                    kept = []
            yield crops
        if self._cache is not None:
            self._cache = kept

    def _log_unreadable(self, crops: Crops) -> None:
        for index in set(crops.indices[crops.unreadable].tolist()) - self._unreadable:
            self._unreadable.add(index)
            log.warning("the image of validation example %s does not decode: it is left out of every metric", index)
