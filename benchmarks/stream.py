"""Decoded crops per second: the Ray stream beside a torch DataLoader, and the crop store beside whole frames.

    python benchmarks/stream.py [--workers 2] [--batch-size 32] [--steps 60] [--repeats 3] [--frames 200 | --store S]

The same on both sides of the first table: the crop store, the number of worker processes, the batches (as many indices,
drawn at random with replacement), one Lance take and one libjpeg-turbo decode per batch and thread, uint8 images and
boxes handed to the main process through shared memory, where nothing is trained. Ours besides that asks an importance
table for every batch, sends scores back after every step, and keeps the steps in order under a fixed lag. The
DataLoader fetches whole batches (``__getitems__``), in spawned processes, with its usual prefetching. Both are measured
in turn, after a warm-up; the start is not counted in the rates. The second table decodes the same crops, with the same
decoder and one thread, from the store and out of whole frames; reading the frames' files is not counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from isod.config import SAMPLERS, RunConfig, TrainingConfig
from isod.data.crops import PrepareSettings
from isod.data.demo import write_demo
from isod.data.region import FAR
from isod.data.store import Crops, CropSplit, CropStore
from isod.data.zod import ZodReader
from isod.orchestration.cluster import connect
from isod.orchestration.prepare import prepare
from isod.orchestration.stream import RayStream
from isod.ragged import pad_objects
from isod.training.examples import TrainingExamples

WARM_UP = 10  # steps that are not counted


class BatchDataset:
    """The training crops, a whole batch at a time: what a careful user would give a DataLoader."""

    def __init__(self, split: CropSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        crops = self.split.read(indices)
        objects = pad_objects(crops.boxes, crops.labels, crops.dont_care)
        return tuple(map(torch.from_numpy, (crops.images, *objects)))  # tensors travel in shared memory, arrays do not


def unchanged(batch: Any) -> Any:
    """The DataLoader's collate function: the batch is whole already."""
    return batch


def rate(batches: Iterator[object], batch_size: int, steps: int) -> tuple[float, float]:
    """Seconds to the first batch, and crops per second over the steps after the warm-up."""
    began = time.perf_counter()
    first = counted = 0.0
    for step, _ in enumerate(batches):
        if step == 0:
            first = time.perf_counter() - began
        if step == WARM_UP - 1:
            counted = time.perf_counter()
    return first, steps * batch_size / (time.perf_counter() - counted)


def ray_stream(store: CropStore, batch_size: int, steps: int, workers: int, lag: int) -> tuple[float, float]:
    """Ours: a UIS table that is updated after every step."""
    split = store.split("train")
    config = RunConfig(
        sampler=SAMPLERS["UIS"],
        training=TrainingConfig(iterations=steps + WARM_UP, batch_size=batch_size, lag=lag),
    )
    examples = TrainingExamples(len(split), split.readable)
    stream = RayStream(workers=workers, cpus_per_worker=0.5).begin(store.uri, config, examples)

    def batches() -> Iterator[Crops]:
        for batch in stream.batches(0, steps + WARM_UP):
            yield batch.crops
            stream.send_scores(batch.step, batch.draw.indices, (1.0 + batch.draw.indices % 7).astype(np.float64))

    try:
        return rate(batches(), batch_size, steps)
    finally:
        stream.close()


def torch_loader(store: CropStore, batch_size: int, steps: int, workers: int) -> tuple[float, float]:
    """The peer: random batches of as many indices."""
    split = store.split("train")
    rng = np.random.default_rng(0)
    sampler = [rng.choice(split.readable, batch_size).tolist() for _ in range(steps + WARM_UP)]

    def batches() -> Iterator[Any]:
        yield from DataLoader(
            BatchDataset(split),  # type: ignore[arg-type]
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=unchanged,
            multiprocessing_context="spawn",
        )

    return rate(batches(), batch_size, steps)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])


def decode_costs(store: CropStore, frames: list[Path], repeats: int) -> dict[str, float]:
    """Milliseconds a crop, one thread: from the store, and by decoding the whole frame and cutting it.

    A demo frame is smooth outside of the far region and so decodes faster than a camera's. The last entry is the same
    frame with the far region repeated all over it: as much detail everywhere.
    """
    split = store.split("train")
    count = min(len(frames), len(split.readable))
    region = (slice(FAR.y0, FAR.y1), slice(FAR.x0, FAR.x1))
    plain = [path.read_bytes() for path in frames[:count]]
    detailed = []
    for data in plain[:8]:
        frame = simplejpeg.decode_jpeg(data)
        height, width, _ = frame.shape
        pattern = np.tile(frame[region], (height // FAR.height + 1, width // FAR.width + 1, 1))[:height, :width]
        detailed.append(simplejpeg.encode_jpeg(np.ascontiguousarray(pattern), quality=85))

    def whole(encoded: list[bytes]) -> Callable[[], object]:
        return lambda: [np.ascontiguousarray(simplejpeg.decode_jpeg(data)[region]) for data in encoded]

    return {
        "from the store": milliseconds(lambda: split.read(split.readable[:count]), repeats) / count,
        "whole demo frame, cut": milliseconds(whole(plain), repeats) / count,
        "whole detailed frame, cut": milliseconds(whole(detailed), repeats) / len(detailed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="counted steps of each measurement")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--frames", type=int, default=200, metavar="N", help="demo frames to measure on")
    parser.add_argument("--lag", type=int, default=8, metavar="N", help="of the Ray stream: steps prepared ahead")
    parser.add_argument("--store", metavar="STORE", help="a crop store to stream from, in place of demo data")
    options = parser.parse_args()
    connect()
    with tempfile.TemporaryDirectory() as folder:
        root, uri = Path(folder) / "zod", options.store or str(Path(folder) / "store")
        if options.store is None:
            write_demo(root, frames=options.frames)
            prepare(ZodReader(root, "mini"), uri, PrepareSettings(roi=FAR), progress=False)
        store = CropStore.open(uri)
        height, width = store.meta.crop_size
        print(
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()},"
            f" ray {version('ray')}, torch {version('torch')}, pylance {version('pylance')}\n"
            f"crops {width}×{height} of {options.store or 'demo data'}, batch {options.batch_size},"
            f" {options.workers} workers, {options.steps} steps after {WARM_UP}, median of {options.repeats}"
        )
        print_rates(store, options)
        if options.store is None:
            print_decode_costs(store, sorted(root.glob("single_frames/*/camera_front_blur/*.jpg")), options.repeats)
    ray.shutdown()


def print_rates(store: CropStore, options: argparse.Namespace) -> None:
    """The first table."""
    results: dict[str, list[tuple[float, float]]] = {"isod, Ray Data stream": [], "torch DataLoader": []}
    for _ in range(options.repeats):
        results["isod, Ray Data stream"].append(
            ray_stream(store, options.batch_size, options.steps, options.workers, options.lag)
        )
        results["torch DataLoader"].append(torch_loader(store, options.batch_size, options.steps, options.workers))
    print(f"\n{'':26}{'crops/s':>9}{'lowest':>9}{'highest':>9}{'first batch, s':>16}")
    rates = {name: [each for _, each in runs] for name, runs in results.items()}
    for name, runs in results.items():
        first = statistics.median(seconds for seconds, _ in runs)
        speed = rates[name]
        print(f"{name:26}{statistics.median(speed):9.0f}{min(speed):9.0f}{max(speed):9.0f}{first:16.1f}")
    ours, peer = (statistics.median(speed) for speed in rates.values())
    print(f"{'ratio':26}{ours / peer:9.2f}")


def print_decode_costs(store: CropStore, frames: list[Path], repeats: int) -> None:
    """The second table."""
    costs = decode_costs(store, frames[:32], repeats)
    print(f"\n{'':26}{'ms a crop':>9}{'ratio':>9}")
    for name, cost in costs.items():
        print(f"{name:26}{cost:9.2f}{cost / costs['from the store']:9.1f}")


if __name__ == "__main__":
    main()
