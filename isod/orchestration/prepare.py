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

from isod.data.prepare.chunk import ChunkStatus, MapChunks
from isod.data.prepare.journal import Chunk
from isod.orchestration.cluster import connect


def on_cluster(address: str | None = None) -> MapChunks:
    """Return a ``map_chunks`` for ``prepare`` that uses a Ray cluster.

    If a worker or its machine is lost, Ray processes the chunk again. Every machine of the cluster must see the dataset
    and the store under the same paths.

    Args:
        address: of the cluster; None starts Ray on this machine, or uses the one that runs in this process.
    """
    return partial(_map_chunks, address)


def _map_chunks(
    address: str | None, work: Callable[[Chunk], ChunkStatus], chunks: Sequence[Chunk]
) -> Iterator[ChunkStatus]:
    def make(batch: dict[str, Any]) -> dict[str, Any]:
        status = work(pickle.loads(batch["chunk"][0]))  # our own, from the driver
        return {"frames": np.array([status.frames]), "failure": np.array([status.failure])}

    connect(address)
    with _quiet_ray_data():
        items = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(make, batch_size=1)  # type: ignore[arg-type]
        for row in results.iter_rows():
            yield ChunkStatus(int(row["frames"]), str(row["failure"]))


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Switch off Ray Data's own progress bars and messages, as the job has a bar; its errors are still logged."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
