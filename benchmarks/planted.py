"""Does a sampler work at all? The planted problem of spec §11, trained by the product's own parts.

    python -m benchmarks.planted [--iterations N] [--seeds 3] [--samplers NAME …] [--images 10000] [--workers 2]

Every sampler trains with every seed, on clean labels and with planted errors (6 % of the labels swapped, 6 % of the
boxes missing); validation labels are always right. The table gives the speed-up of the mean curve over the baseline's
(eq. 5.1), each seed's own, where the baseline's best is passed, and what was drawn. ``LIS-shifted`` is the negative
control: LIS whose scores go to the next index, which is what an off-by-one would do. It must gain nothing. RFS, CAP,
class-max and progress read the labels, errors included.

The defaults are half of spec §11's images and half of its iterations, so that the whole of it fits 15 minutes on two
cores: the first epoch, in which every sampler draws alike, is then as small a part of a run as it is there. At full
size: ``--images 20000 --iterations 1200``.

Runs are dealt to processes of one torch thread each, so the numbers do not depend on how many there are.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from isod.cli.main import exit_cleanly
from isod.config.settings import DetectorConfig, RunConfig, TrainingConfig
from isod.data.demo.planted import (
    CLASS_NAMES,
    HEIGHT,
    WIDTH,
    PlantedSplit,
    planted_meta,
    render,
    with_label_errors,
)  # fmt: skip
from isod.errors import require
from isod.results.statistics.speedup import best_iteration, passing_iteration, speedup
from isod.sampling import DrawSchedule, ImportanceTable, Labels
from isod.sampling.catalogue import weighs_classes
from isod.sampling.priors import class_weights
from isod.sampling.samplers import SAMPLERS
from isod.training.device import cpu_model
from isod.training.loop import train
from isod.training.process import configure_process
from isod.training.stream import LocalStream
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from isod.vocabulary import size_codes

SHIFTED = "LIS-shifted"
LABELS = {"clean": 0.0, "noisy": 0.06}  # share of labels swapped, and of boxes missing
DEFAULT_SAMPLERS = {
    "clean": ("LIS", "UIS", "UIS-asymmetric", "RFS", "CAP", "class-max", "progress", SHIFTED),
    "noisy": ("LIS", "UIS", "UIS-asymmetric", "RFS", "CAP", "class-max", "progress"),
}  # beside the baseline
VALIDATION_IMAGES = 600
TRAIN_SEED, VALIDATION_SEED, ERROR_SEED = 0, 1, 2
DETECTOR = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1), score_floor=0.02)  # 0.1 million parameters
LEARNING_RATE = 4e-3


class ShiftedStream(LocalStream):
    """Sends every score to the next index: the negative control."""

    def send_scores(
        self,
        step: int,
        indices: NDArray[np.int64],
        scores: NDArray[np.float64],
        observed: NDArray[np.float64] | None = None,
    ) -> None:
        super().send_scores(step, (indices + 1) % len(self._split), scores)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    labels: str  # a key of LABELS
    sampler: str
    seed: int
    iterations: int
    images: int
    batch_size: int
    validate_every: int


@dataclass(frozen=True)
class Result:
    """What one run showed."""

    job: Job
    curve: dict[int, float]  # iteration → mAP
    ess: float  # of N, at the end
    rare: float  # share of the draws by the strategy that hold a faint object; 0.03 is uniform
    seconds: float


@functools.cache
def splits(images: int, error_share: float) -> tuple[PlantedSplit, PlantedSplit]:
    """Training and validation images; rendered once per process."""
    if error_share:
        clean, validation = splits(images, 0.0)
        return with_label_errors(clean, swapped=error_share, missing=error_share, seed=ERROR_SEED), validation
    return render(images, seed=TRAIN_SEED), render(VALIDATION_IMAGES, rare_share=0.5, seed=VALIDATION_SEED)


def planted_labels(split: PlantedSplit) -> Labels:
    """What the sampler may know of the images, label errors included."""
    sizes = [size_codes(boxes, (HEIGHT, WIDTH)) for boxes in split.boxes]
    return Labels.from_lists(split.labels, len(CLASS_NAMES), sizes=sizes)


def planted_stream(config: RunConfig, split: PlantedSplit, *, shifted: bool) -> LocalStream:
    """The run's table and its draws, as isod.training.local makes them for a store."""
    training = config.training
    run_length = training.iterations * config.draw_size
    table = ImportanceTable(
        len(split), sampler=config.sampler, seed=training.seed, eligible=split.readable, run_length=run_length
    )
    if config.sampler.prior is not None:
        table.set_labels(planted_labels(split))
    schedule = DrawSchedule(table, batch_size=config.draw_size, lag=training.lag)
    return (ShiftedStream if shifted else LocalStream)(split, table, schedule)  # type: ignore[arg-type]


def run(job: Job) -> Result:
    """Trains once, on one thread."""
    configure_process(1)
    began = time.perf_counter()
    shifted = job.sampler == SHIFTED
    config = RunConfig(
        sampler=SAMPLERS["LIS" if shifted else job.sampler],
        detector=DETECTOR,
        training=TrainingConfig(
            iterations=job.iterations,
            batch_size=job.batch_size,
            validate_every=job.validate_every,
            lr=LEARNING_RATE,
            lag=1,
            seed=job.seed,
        ),
    )
    split, validation = splits(job.images, LABELS[job.labels])
    stream = planted_stream(config, split, shifted=shifted)
    curve: dict[int, float] = {}
    ess = math.nan

    def report(metrics: dict[str, float], iteration: int) -> None:
        nonlocal ess
        curve[iteration], ess = metrics["mAP"], metrics["sampler/ess"]

    weights = class_weights(planted_labels(split), config.sampler) if weighs_classes(config.sampler.reduction) else None
    trainer = Trainer(config, planted_meta(), torch.device("cpu"), class_weights=weights)
    record = train(trainer, stream, ValidationCrops(validation, job.batch_size), report)  # type: ignore[arg-type]
    drawn = stream.statistics(job.iterations - 1)["draw_count"]
    if config.sampler.candidates > 1:
        drawn = record.examples()["trained_count"]
    elif config.sampler.start == "scores":
        drawn -= 1  # the first epoch draws each image once
    rare = float(drawn[split.rare].sum() / drawn.sum()) if drawn.sum() > 0 else math.nan
    return Result(job, curve, ess, rare, time.perf_counter() - began)


def summary(results: list[Result], labels: str) -> pd.DataFrame:
    """One row per sampler for one kind of labels; curves are means over seeds."""
    chosen = [result for result in results if result.job.labels == labels]
    curves = {(r.job.sampler, r.job.seed): pd.Series(r.curve) for r in chosen}
    names = list(dict.fromkeys(r.job.sampler for r in chosen))
    seeds = sorted({r.job.seed for r in chosen})
    mean = {name: pd.concat([curves[name, seed] for seed in seeds], axis=1).mean(axis=1) for name in names}
    best = best_iteration(mean["baseline"])
    rows = []
    for name in names:
        runs = [r for r in chosen if r.job.sampler == name]
        last = [curves[name, seed].iloc[-1] for seed in seeds]
        row = {"sampler": name, "mAP at the end": f"{np.mean(last):.3f} ± {np.std(last):.3f}",
               "best mAP": f"{mean[name].max():.3f}", "ESS/N": f"{np.mean([r.ess for r in runs]):.2f}",
               "rare drawn": _share(float(np.mean([r.rare for r in runs])))}  # fmt: skip
        if name == "baseline":
            row |= {"speed-up": "–", "by seed": "–", "passes at": f"{best} (its best)"}
        else:
            passes = passing_iteration(mean["baseline"], mean[name])
            row |= {
                "speed-up": _percent(speedup(mean["baseline"], mean[name])),
                "by seed": ", ".join(_percent(speedup(curves["baseline", s], curves[name, s])) for s in seeds),
                "passes at": "–" if passes is None else f"{passes} ({passes / best:.0%})",
            }
        rows.append(row)
    columns = ["sampler", "speed-up", "by seed", "passes at", "best mAP", "mAP at the end", "ESS/N", "rare drawn"]
    return pd.DataFrame(rows)[columns]


def _percent(value: float | None) -> str:
    return "not reached" if value is None else f"{value:+.0%}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def main() -> None:
    """Runs the grid and prints one table for clean and one for noisy labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=650)
    parser.add_argument("--seeds", type=int, default=3, help="runs per sampler, seeds 0 … N-1")
    defaults = "; ".join(f"{labels}: {' '.join(names)}" for labels, names in DEFAULT_SAMPLERS.items())
    text = f"of isod.config.SAMPLERS, or {SHIFTED}, beside the baseline (default: {defaults})"
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help=text)
    parser.add_argument("--labels", nargs="+", default=list(LABELS), choices=list(LABELS))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--validate-every", type=int, default=50, metavar="N", help="iterations")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one process and one thread each")
    parser.add_argument("--out", type=Path, metavar="CSV", help="also write every curve here")
    options = parser.parse_args()
    require(options.seeds >= 1, "--seeds must be ≥ 1", options.seeds)
    for name in options.samplers or ():
        require(name in SAMPLERS or name == SHIFTED, f"a sampler must be one of {SHIFTED}, {', '.join(SAMPLERS)}", name)
    jobs = [
        Job(
            labels=labels,
            sampler=sampler,
            seed=seed,
            iterations=options.iterations,
            images=options.images,
            batch_size=options.batch_size,
            validate_every=options.validate_every,
        )
        for labels in options.labels
        for seed in range(options.seeds)
        for sampler in dict.fromkeys(["baseline", *(options.samplers or DEFAULT_SAMPLERS[labels])])
    ]
    began = time.perf_counter()
    results = []
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for result in pool.map(run, jobs):
            results.append(result)
            print(f"{len(results):>3}/{len(jobs)}  {result.job.labels}  {result.job.sampler}  seed {result.job.seed}  "
                  f"mAP {max(result.curve.values()):.3f}  {result.seconds:.0f} s", flush=True)  # fmt: skip
    if options.out:
        pd.DataFrame(
            [(r.job.labels, r.job.sampler, r.job.seed, i, value) for r in results for i, value in r.curve.items()],
            columns=["labels", "sampler", "seed", "iteration", "mAP"],
        ).to_csv(options.out, index=False)
    for labels in options.labels:
        share = LABELS[labels]
        errors = f"{share:.0%} of labels swapped, {share:.0%} of boxes missing" if share else "no label errors"
        print(f"\n{labels}: {errors}; {options.images} images, {options.iterations} iterations of "
              f"{options.batch_size}, {options.seeds} seeds")  # fmt: skip
        print(summary(results, labels).to_string(index=False))
    print(f"\n{time.perf_counter() - began:.0f} s; {options.workers} processes on {cpu_model()} "
          f"({multiprocessing.cpu_count()} cores), torch {torch.__version__}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.planted", None, main))
