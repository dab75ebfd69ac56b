"""The chunks of a prepare job on all cores of a cluster, through Ray Data."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import ray

from isod.data.prepare.job import MadeChunk, MapChunks
from isod.data.prepare.journal import Chunk
from isod.orchestration.cluster import connect


def on_cluster(address: str | None = None) -> MapChunks:
    """Return a ``map_chunks`` for ``prepare`` on a Ray cluster; without an address, on a Ray that starts here.

    All machines of the cluster must see the dataset and the store under the same names.
    """
    return partial(_map_chunks, address)


def _map_chunks(
    address: str | None, work: Callable[[Chunk], MadeChunk], chunks: Sequence[Chunk]
) -> Iterator[MadeChunk]:
    def make(batch: dict[str, Any]) -> dict[str, Any]:
        made = work(pickle.loads(batch["chunk"][0]))  # our own, from the driver
        return {"frames": np.array([made.frames]), "failure": np.array([made.failure])}

    connect(address)
    with _quiet_ray_data():
        items = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(make, batch_size=1)  # type: ignore[arg-type]
        for row in results.iter_rows():
            yield MadeChunk(int(row["frames"]), str(row["failure"]))


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Switch off Ray Data's own bars and news, as there is one bar already; its errors still come through."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
