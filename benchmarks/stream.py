"""Decoded crops per second: the Ray stream beside a torch DataLoader and WebDataset; the store beside whole frames.

    python -m benchmarks.stream [--workers 2] [--batch-size 32] [--steps 60] [--repeats 3] [--frames 200 | --store S]

The same for all in the first table: the crops and their JPEG bytes, the number of worker processes, libjpeg-turbo on
one thread, batches of as many crops, uint8 images and padded boxes handed to the main process through shared memory,
where nothing is trained. Ours and the DataLoader read a crop store at indices drawn at random with replacement, one
Lance take a batch. Ours besides that asks an importance table for every batch, sends scores back after every step, and
keeps the steps in order under a fixed lag. The DataLoader fetches whole batches (``__getitems__``), in spawned
processes, with its usual prefetching. WebDataset reads tar files from front to end, which is all it can do, and draws
through a shuffle buffer. All take turns; a turn counts its steps after a warm-up, its start is not in the rate. The
second table decodes the same crops, with the same decoder and one thread, from the store and out of whole frames;
reading the frames' files is not counted. Where there is a GPU, it also has the store's crops decoded there, a batch at
a time.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.harness import Figures, comparison, installed, seconds, take_turns
from isod.cli.main import exit_cleanly
from isod.config.settings import RunConfig, TrainingConfig
from isod.data.demo.zod_layout import write_demo
from isod.data.prepare.job import prepare
from isod.data.prepare.region import FAR
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.zod import ZodReader
from isod.data.store.crops import Crops
from isod.data.store.split import CropSplit, CropStore
from isod.objects import Objects
from isod.orchestration.cluster import connect
from isod.orchestration.stream import RayStream
from isod.sampling.samplers import SAMPLERS
from isod.training.decode import decode_batch
from isod.training.examples import TrainingExamples

WARM_UP = 10  # steps that are not counted
SHARD = 25  # crops in a tar file: every worker needs some, also of little data
BUFFER = 100  # crops of WebDataset's shuffle buffer


class BatchDataset:
    """The training crops, a whole batch at a time: what a careful user would give a DataLoader."""

    def __init__(self, split: CropSplit, *, decode: bool = True) -> None:
        self.split = split
        self.decode = decode

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        crops = self.split.read(indices, decode=self.decode)
        objects = vars(crops.objects).values()
        return tuple(map(torch.from_numpy, (crops.images, *objects)))  # tensors travel in shared memory, arrays do not


def unchanged(batch: Any) -> Any:
    """The DataLoader's collate function: the batch is whole already."""
    return batch


def rate(batches: Iterator[object], batch_size: int, steps: int) -> float:
    """Crops per second over ``steps`` steps after the warm-up."""
    counted = 0.0
    for step, _ in enumerate(batches):
        if step == WARM_UP - 1:
            counted = time.perf_counter()
        if step == WARM_UP + steps - 1:
            break
    return steps * batch_size / (time.perf_counter() - counted)


def ray_stream(store: CropStore, batch_size: int, steps: int, workers: int, lag: int) -> float:
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


def torch_loader(store: CropStore, batch_size: int, steps: int, workers: int) -> float:
    """A DataLoader: random batches of as many indices."""
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


def write_shards(store: CropStore, folder: Path) -> list[str]:
    """The training crops as WebDataset's tar files: each a .jpg with the store's bytes, and its objects as .json."""
    split = store.split("train")
    notes = split.annotations()
    folder.mkdir()
    paths = []
    for first in range(0, len(split.readable), SHARD):
        indices = split.readable[first : first + SHARD].tolist()
        path = folder / f"{first:06d}.tar"
        with tarfile.open(path, "w") as tar:
            for index, encoded in zip(indices, split.read_encoded(indices), strict=True):
                objects = {name: getattr(notes, name)[index].tolist() for name in ("boxes", "labels", "dont_care")}
                for suffix, content in (("jpg", encoded), ("json", json.dumps(objects).encode())):
                    entry = tarfile.TarInfo(f"{index:08d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        paths.append(str(path))
    return paths


def decode_sample(sample: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Image, boxes, labels and don't-care flags of one crop of a tar file."""
    objects = json.loads(sample["json"])
    return (
        simplejpeg.decode_jpeg(sample["jpg"]),
        np.asarray(objects["boxes"], np.float32).reshape(-1, 4),
        np.asarray(objects["labels"], np.int64),
        np.asarray(objects["dont_care"], bool),
    )


def join_samples(samples: list[tuple[np.ndarray, ...]]) -> tuple[Tensor, ...]:
    """A batch of them, as BatchDataset gives it."""
    images, boxes, labels, dont_care = map(list, zip(*samples, strict=True))
    objects = vars(Objects.from_lists(boxes, labels, dont_care)).values()
    return tuple(map(torch.from_numpy, (np.stack(images), *objects)))


def web_dataset(shards: Path, store: CropStore, batch_size: int, steps: int, workers: int) -> float:
    """WebDataset: tar files drawn at random with replacement, then a shuffle buffer."""
    installed("webdataset")
    import webdataset

    paths = [str(path) for path in sorted(shards.glob("*.tar"))] if shards.exists() else write_shards(store, shards)
    dataset = (
        webdataset.WebDataset(paths, resampled=True, shardshuffle=False)
        .shuffle(BUFFER)
        .map(decode_sample)
        .batched(batch_size, collation_fn=join_samples, partial=False)
    )
    return rate(
        iter(DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context="spawn")),
        batch_size,
        steps,
    )


def decode_costs(store: CropStore, frames: list[Path], repeats: int) -> dict[str, Figures]:
    """Milliseconds a crop, one thread: from the store, and by decoding the whole frame and cutting it; the store's also
    on a GPU.

    A demo frame is smooth outside of the far region and so decodes faster than a camera's. A detailed frame is the same
    with the far region repeated all over it: as much detail everywhere.
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

    def stored() -> float:
        return 1000 * seconds(lambda: split.read(split.readable[:count])) / count

    def whole(encoded: list[bytes]) -> float:
        work = lambda: [np.ascontiguousarray(simplejpeg.decode_jpeg(data)[region]) for data in encoded]  # noqa: E731
        return 1000 * seconds(work) / len(encoded)

    contenders: dict[str, Callable[[], float]] = {
        "from the store": stored,
        "whole demo frame, cut": partial(whole, plain),
        "whole detailed frame, cut": partial(whole, detailed),
    }
    if torch.cuda.is_available():
        device = torch.device("cuda")

        def on_device() -> None:
            crops = split.read(split.readable[:count], decode=False)
            decode_batch(crops.images, split.meta.crop_size, device)

        contenders["from the store, on the GPU"] = lambda: 1000 * seconds(on_device, device) / count
    return take_turns(contenders, repeats, warm_up=1)


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
        sizes = (options.batch_size, options.steps, options.workers)
        contenders = {
            "isod, Ray Data stream": lambda: ray_stream(store, *sizes, options.lag),
            "torch DataLoader": lambda: torch_loader(store, *sizes),
            "WebDataset": lambda: web_dataset(Path(folder) / "shards", store, *sizes),
        }
        figures = take_turns(contenders, options.repeats)
        print(
            f"The same for all: {width}×{height} crops of {options.store or 'demo data'}, {options.workers} workers, "
            f"one libjpeg-turbo thread each, batches of {options.batch_size} in shared memory, {options.steps} steps "
            f"after {WARM_UP}.\n"
        )
        targets = {name: 1.0 for name in figures}
        print(comparison(figures, "crops/s", less_is_better=False, targets=targets))
        if options.store is None:
            frames = sorted(root.glob("single_frames/*/camera_front_blur/*.jpg"))
            print("\nThe same crops, decoded on one thread, or on the GPU:\n")
            print(comparison(decode_costs(store, frames[:32], options.repeats), "ms a crop", less_is_better=True))
    ray.shutdown()


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.stream", None, main))
