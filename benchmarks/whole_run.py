"""Images per second of a whole UIS run, through Tune, stream, actor, table and MLflow, beside a bare PyTorch loop.

    python -m benchmarks.whole_run [--preset demo] [--windows 14] [--window 50] [--turns 3] [--size 160 48 | --store S]
                                   [--slice 5] [--lag 4] [--decode-on-device]

The same for both: the crop store, the network and its initial weights, the loss, Adam, the batch size, torch's threads,
the number of decode workers, where crops are decoded, and a validation with every metric at the end of each window of
steps, which the times include. The bare loop is a DataLoader in spawned processes that fetches whole batches drawn
uniformly with replacement, forward, loss, backward, step; it scores, draws by score, records, logs and saves nothing.
Ours does all that a run of a sweep does. The first window of both warms up and is not counted: start-up is in neither.

From then on they take slices of a few seconds each, in which every process of the other one stands still, until one of
them is done: the speed of a machine may drift by more, within minutes, than what is to be measured. Steps per second of
the slices are counted from validation to validation.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
import torch
from torch.utils.data import DataLoader

from benchmarks.harness import comparison
from benchmarks.stream import BatchDataset, unchanged
from isod.cli.main import exit_cleanly
from isod.cli.sweep import DEMO_SIZE
from isod.config.presets import PRESETS
from isod.config.settings import Preset, RunConfig
from isod.data.demo.zod_layout import write_demo
from isod.data.prepare.job import prepare_demo
from isod.data.store.split import CropStore
from isod.errors import require
from isod.files import absolute_uri
from isod.objects import Objects
from isod.orchestration.cluster import connect
from isod.orchestration.sweep import Sweep, run_sweep
from isod.sampling.samplers import SAMPLERS
from isod.tracking.client import children_of, open_experiment
from isod.training.decode import decode_batch
from isod.training.device import choose_device
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from isod.vocabulary import HEADLINE

TARGETS = {"cpu": 0.95, "cuda": 0.97}  # share of the bare loop's images per second that ours has to reach
POINTS = "points.txt"  # iteration and time of every validation, one a line
FIRST_REPORT = {"bare": POINTS, "whole": "runs/*/*/metrics.csv"}  # side → what is there once its first window is done


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
    opened = open_experiment(uri, experiment, (out / "artifacts").as_uri())
    return [
        [(point.step, 1e-3 * point.timestamp) for point in opened.client.get_metric_history(run.info.run_id, HEADLINE)]
        for run in children_of(opened.client, opened.id, result.parent_run_id)
    ]


def bare(store: CropStore, preset: Preset, device: torch.device) -> Iterator[tuple[int, float]]:
    """The peer: (iteration, time in seconds) of every validation, once it is done."""
    torch.set_num_threads(preset.resources.threads)
    training, split = preset.training, store.split("train")
    trainer = Trainer(
        RunConfig(sampler=SAMPLERS["UIS"], detector=preset.detector, training=training), store.meta, device
    )
    model, optimizer = trainer.model, trainer.optimizer
    validation = ValidationCrops(store.split("val"), training.batch_size)
    for step, (images, boxes, labels, dont_care, counts) in enumerate(uniform(split, preset, device), 1):
        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, _ = model.loss(images, Objects(boxes, labels, dont_care, counts))
        optimizer.zero_grad()
        (loss.class_loss + loss.box_loss).backward()
        optimizer.step()
        if step % training.validate_every == 0:
            trainer.validate(validation)
            yield step, time.time()


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


def one_side(name: str, store: CropStore, preset: Preset, device: torch.device, out: Path) -> None:
    """In a process of its own: runs it, and leaves its points in ``out``."""
    points: Iterable[tuple[int, float]]
    if name == "whole":
        connect()
        (points,) = sweep_of_uis(store, preset, 1, out)
    else:
        points = bare(store, preset, device)  # as they come
    with (out / POINTS).open("w", buffering=1) as file:
        for step, when in points:
            file.write(f"{step} {when}\n")


def pair(command: Sequence[str], batch_size: int, seconds: float, folder: Path) -> dict[str, float]:
    """Images per second of ours and of the bare loop, in slices.

    Args:
        command: of a side, but for its name and its folder.
    """
    from benchmarks.slices import Side, alternate, rate  # needs psutil, which other users of this module do not

    sides: dict[str, Side] = {}
    with contextlib.ExitStack() as ended:
        for name, first in FIRST_REPORT.items():
            out = folder / name
            out.mkdir()
            side = Side([*command, "--side", name, "--into", str(out)], folder / f"{name}.log")
            sides[name] = ended.enter_context(side)
            while side.running() and not any(path.stat().st_size for path in out.glob(first)):
                time.sleep(0.05)
            side.pause()
        until = alternate(list(sides.values()), seconds)
        for side in sides.values():  # whoever is not done ends alone, and that does not count
            side.resume()
            while side.running():
                side.wait(1.0)
    found = {}
    for name, side in sides.items():
        points = [line.split() for line in (folder / name / POINTS).read_text().splitlines()]
        found[name] = batch_size * rate([(int(step), float(when)) for step, when in points], side.active, until)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", choices=list(PRESETS))
    parser.add_argument("--windows", type=int, default=14, metavar="N", help="validations; the first window warms up")
    parser.add_argument("--window", type=int, default=50, metavar="N", help="steps between two of them")
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--slice", type=float, default=5.0, metavar="S", help="seconds, at most 8")
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="demo frames to train on")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("W", "H"),
        help="of their crops; 1280 384 as they are (default: an eighth)",
    )
    parser.add_argument("--store", metavar="STORE", help="a crop store to train on, in place of demo data")
    parser.add_argument("--lag", type=int, metavar="N", help="ours reads so many batches ahead (default: the preset's)")
    parser.add_argument("--decode-on-device", action=argparse.BooleanOptionalAction, help="default: the preset's")
    parser.add_argument("--side", choices=list(FIRST_REPORT), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    require(
        0 < options.slice <= 8, "--slice must be in (0, 8]: Ray's processes miss one another after 10 s", options.slice
    )
    require(
        options.side or not (options.store and options.size), "--size is of demo data, not of a --store", options.size
    )
    preset = PRESETS[options.preset]
    training = replace(preset.training, iterations=options.windows * options.window, validate_every=options.window)
    given = {"lag": options.lag, "decode_on_device": options.decode_on_device}
    training = replace(training, **{name: value for name, value in given.items() if value is not None})
    preset = replace(preset, training=training)
    device = choose_device("cuda" if preset.resources.gpus_per_trial else "cpu")
    if options.side:
        one_side(options.side, CropStore.open(options.store), preset, device, options.into)
        return
    figures: dict[str, list[float]] = {name: [] for name in FIRST_REPORT}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # preparing tells how it goes
        out = Path(folder)
        uri = absolute_uri(options.store) if options.store else str(out / "store")
        if options.store is None:
            write_demo(out / "zod", frames=options.frames)
            prepare_demo(out / "zod", uri, resize=tuple(options.size or DEMO_SIZE))
            ray.shutdown()
        store = CropStore.open(uri)
        command = [sys.executable, "-m", "benchmarks.whole_run", *sys.argv[1:], "--store", uri]
        for _ in range(options.turns):
            found = pair(command, training.batch_size, options.slice, Path(tempfile.mkdtemp(dir=out)))
            for name, images_per_second in found.items():
                figures[name].append(images_per_second)
    height, width = store.meta.crop_size
    decoder = "the device" if training.decode_on_device else "the workers"
    print(
        f"The same for both: preset {options.preset}, batches of {training.batch_size} crops of {width}×{height}, "
        f"{preset.resources.decode_workers} decode worker(s), {preset.resources.threads} torch thread(s), crops "
        f"decoded by {decoder}, a validation of {store.meta.rows['val']} crops every {options.window} steps, "
        f"{options.windows} windows, slices of {options.slice:g} s. Ours runs with a lag of {training.lag}.\n"
    )
    named = {"isod, whole": figures["whole"], "bare loop": figures["bare"]}
    print(comparison(named, "images/s", less_is_better=False, targets={"bare loop": TARGETS[device.type]}))
    ratios = [ours / peer for ours, peer in zip(figures["whole"], figures["bare"], strict=True)]
    print(f"\nRatio of each turn: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    if options.preset == "thesis":
        thesis = PRESETS["thesis"].training
        hours = thesis.iterations * thesis.batch_size / median(figures["whole"]) / 3600
        print(
            f"\n{thesis.iterations} iterations of {thesis.batch_size} would take {hours:.1f} h (thesis: 40 to 50, A100)"
        )


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.whole_run", None, main))
