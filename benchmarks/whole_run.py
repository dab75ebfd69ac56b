"""Images per second of a whole UIS run, through Tune, stream, actor, table and MLflow, beside a bare PyTorch loop.

    python -m benchmarks.whole_run [--preset demo] [--windows 5] [--window 50] [--turns 3] [--full-size | --store S]
                                   [--lag 4] [--decode-on-device]

The same for both: the crop store, the network and its initial weights, the loss, Adam, the batch size, torch's threads,
the number of decode workers, where crops are decoded, and a validation with every metric at the end of each window of
steps, which the times include. The bare loop is a DataLoader in spawned processes that fetches whole batches drawn
uniformly with replacement, forward, loss, backward, step; it scores, draws by score, records, logs and saves nothing.
Ours does all that a run of a sweep does. The first window of both warms up and is not counted: start-up is in neither.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch.utils.data import DataLoader

from benchmarks.harness import comparison, medians, take_turns
from benchmarks.stream import BatchDataset, unchanged
from isod.cli import set_given
from isod.config import PRESETS, SAMPLERS, Preset, RunConfig
from isod.data.demo import write_demo
from isod.data.store import CropStore
from isod.detector import detection_loss
from isod.detector.targets import Objects
from isod.orchestration.cluster import connect
from isod.orchestration.mlflow_callback import EVERY_RUN, children_of
from isod.orchestration.prepare import prepare_demo
from isod.orchestration.sweep import Sweep, run_sweep
from isod.orchestration.tracking import open_experiment
from isod.study import DEMO_SIZE
from isod.training.decode import decode_batch
from isod.training.run import Trainer, ValidationCrops, choose_device

TARGETS = {"cpu": 0.95, "cuda": 0.97}  # share of the bare loop's images per second that ours has to reach


def sweep_of_uis(store: CropStore, preset: Preset, seeds: int, out: Path) -> list[list[tuple[int, float]]]:
    """Trains UIS with each seed. Of each run (iteration, time in seconds) of every validation, as MLflow has them."""
    uri, experiment = f"sqlite:///{out / 'mlflow.db'}", "benchmark"
    result = run_sweep(
        Sweep(
            name="benchmark",
            store=store.uri,
            preset=preset,
            samplers=[SAMPLERS["UIS"]],
            seeds=seeds,
            tracking_uri=uri,
            experiment=experiment,
            out=out,
        )
    )
    if result.failed or result.unfinished:
        raise RuntimeError(f"the sweep did not end well: {result}")
    client, experiment_id = open_experiment(uri, experiment, out / "artifacts")
    return [
        [(point.step, 1e-3 * point.timestamp) for point in client.get_metric_history(run.info.run_id, EVERY_RUN)]
        for run in children_of(client, experiment_id, result.parent_run_id)
    ]


def whole(store: CropStore, preset: Preset, out: Path) -> float:
    """Ours: a sweep of one UIS run. Images per second between its first report to MLflow and its last."""
    (points,) = sweep_of_uis(store, preset, 1, out)
    steps, times = zip(*points, strict=True)
    return preset.training.batch_size * (max(steps) - min(steps)) / (max(times) - min(times))


def bare(store: CropStore, preset: Preset, device: torch.device) -> float:
    """The peer. Images per second after the first window."""
    torch.set_num_threads(preset.resources.threads)
    training, split = preset.training, store.split("train")
    trainer = Trainer(
        RunConfig(sampler=SAMPLERS["UIS"], detector=preset.detector, training=training), store.meta, device
    )
    model, optimizer = trainer.model, trainer.optimizer
    validation = ValidationCrops(store.split("val"), training.batch_size)
    began = 0.0
    for step, (images, boxes, labels, dont_care, counts) in enumerate(uniform(split, preset, device), 1):
        model.train()
        valid = torch.arange(labels.shape[1], device=device) < counts[:, None]
        objects = Objects(boxes, labels.masked_fill(dont_care, 0), dont_care, valid)
        loss, _ = detection_loss(*trainer.forward(images), objects)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        if step % training.validate_every == 0:
            trainer.validate(validation)
        if step == training.validate_every:
            began = time.perf_counter()
    return training.batch_size * (training.iterations - training.validate_every) / (time.perf_counter() - began)


def uniform(split: Any, preset: Preset, device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
    """Uniformly drawn batches on the device: images [B, 3, H, W], and padded objects."""
    rng = np.random.default_rng(0)
    training = preset.training
    loader: DataLoader[Any] = DataLoader(
        BatchDataset(split, decode=not training.decode_on_device),  # type: ignore[arg-type]
        batch_sampler=[rng.choice(split.readable, training.batch_size).tolist() for _ in range(training.iterations)],
        num_workers=preset.resources.decode_workers,
        collate_fn=unchanged,
        multiprocessing_context="spawn",
        pin_memory=device.type == "cuda",
    )
    for crops, *objects in loader:
        if training.decode_on_device:
            images, _ = decode_batch(crops.numpy(), split.meta.crop_size, device)
        else:
            images = crops.to(device, non_blocking=True).permute(0, 3, 1, 2)
        yield images, *(item.to(device, non_blocking=True) for item in objects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", choices=list(PRESETS))
    parser.add_argument("--windows", type=int, default=5, metavar="N", help="validations; the first window warms up")
    parser.add_argument("--window", type=int, default=50, metavar="N", help="steps between two of them")
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="demo frames to train on")
    parser.add_argument("--full-size", action="store_true", help="their crops of 1280×384, in place of 160×48")
    parser.add_argument("--store", metavar="STORE", help="a crop store to train on, in place of demo data")
    parser.add_argument("--lag", type=int, metavar="N", help="ours reads so many batches ahead (default: the preset's)")
    parser.add_argument("--decode-on-device", action=argparse.BooleanOptionalAction, help="default: the preset's")
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    training = replace(preset.training, iterations=options.windows * options.window, validate_every=options.window)
    training = set_given(training, lag=options.lag, decode_on_device=options.decode_on_device)
    preset = replace(preset, training=training)
    device = choose_device("cuda" if preset.resources.gpus_per_trial else "cpu")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # a sweep tells how it goes
        connect()
        out = Path(folder)
        uri = options.store or str(out / "store")
        if options.store is None:
            write_demo(out / "zod", frames=options.frames)
            prepare_demo(out / "zod", uri, resize=None if options.full_size else DEMO_SIZE)
        store = CropStore.open(uri)
        figures = take_turns(
            {
                "isod, whole": lambda: whole(store, preset, Path(tempfile.mkdtemp(dir=out))),
                "bare loop": lambda: bare(store, preset, device),
            },
            options.turns,
        )
        ray.shutdown()
    height, width = store.meta.crop_size
    decoder = "the device" if training.decode_on_device else "the workers"
    print(
        f"The same for both: preset {options.preset}, batches of {training.batch_size} crops of {width}×{height}, "
        f"{preset.resources.decode_workers} decode worker(s), {preset.resources.threads} torch thread(s), crops "
        f"decoded by {decoder}, a validation of {store.meta.rows['val']} crops every {options.window} steps, "
        f"{options.windows - 1} windows. Ours runs with a lag of {training.lag}.\n"
    )
    print(comparison(figures, "images/s", less_is_better=False, targets={"bare loop": TARGETS[device.type]}))
    if options.preset == "thesis":
        thesis = PRESETS["thesis"].training
        hours = thesis.iterations * thesis.batch_size / medians(figures)["isod, whole"] / 3600
        print(
            f"\n{thesis.iterations} iterations of {thesis.batch_size} would take {hours:.1f} h (thesis: 40 to 50, A100)"
        )


if __name__ == "__main__":
    main()
