"""Growth: does a run slow down with the number of examples, and how do trials share the machine?

    python -m benchmarks.growth [--sizes 1000 10000 100000 1000000] [--turns 5] [--trials 1 2 4 8] [--rounds 2]

First table: the loop of a UIS run, preset demo, on crops in memory (the same few for every size, so that nothing but
the number of examples differs): draw, step, update the table, record. All sizes take turns; ours is compared with
itself at the smallest size. Second table: a sweep of as many UIS runs on demo crops as the largest of ``--trials``
says, which each of the others should divide, so many of them at once; iterations per second of all together, from the
first validation to the last, as trials of the preset's length per hour, and the cores that were busy meanwhile. Its
last column is the machine's own limit: the loop of the first table in as many processes that share nothing, no Ray, no
stream and no decoding, beside one. All of them take turns, so many rounds; the medians stand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import ray
import torch

from benchmarks.harness import medians, number, seconds, spread, take_turns, yes
from benchmarks.overhead import random_batch
from benchmarks.table import fill
from benchmarks.whole_run import sweep_of_uis
from isod.cli.main import exit_cleanly
from isod.cli.sweep import demo_store
from isod.config.presets import PRESETS
from isod.config.settings import Preset, RunConfig
from isod.data.store.meta import StoreMeta
from isod.data.store.split import CropStore
from isod.orchestration.cluster import connect
from isod.sampling import DrawSchedule, ImportanceTable
from isod.sampling.samplers import SAMPLERS
from isod.training.device import choose_device
from isod.training.statistics import RunStatistics
from isod.training.trainer import Trainer

FLAT = 0.95  # share of the smallest size's iterations per second that every size has to reach
LINEAR = 0.9  # share of one trial's rate, times the trials, up to the cores


class GrowingRun:
    """The loop of a run over N examples, its table filled with random scores."""

    def __init__(self, trainer: Trainer, examples: int) -> None:
        training = trainer.config.training
        rng = np.random.default_rng(0)
        self.table = ImportanceTable(examples, sampler=trainer.config.sampler, seed=0)
        fill(self.table, rng.random(examples))
        self._schedule = DrawSchedule(self.table, batch_size=training.batch_size, lag=training.lag)
        self._trainer, self._record = trainer, RunStatistics(examples)
        self._batch = random_batch(training.batch_size, *trainer.meta.crop_size)
        self._step = 0
        self.table_seconds: list[float] = []  # of each step's draw and update

    def steps(self, count: int) -> None:
        """Train on."""
        for _ in range(count):
            began = time.perf_counter()
            draw = self._schedule.draw(self._step)
            drawn = time.perf_counter()
            result = self._trainer.step(replace(self._batch, step=self._step, draw=draw))
            trained = time.perf_counter()
            self._schedule.update(self._step, draw.indices, result.scores)
            self.table_seconds.append(time.perf_counter() - trained + drawn - began)
            self._record.add(draw.indices, result)
            self._step += 1

    @property
    def nbytes(self) -> int:
        """Of what is kept for each example: in the table, and in the record."""
        state = self._record.state_dict()
        return self.table.nbytes + sum(item.nbytes for item in state.values() if isinstance(item, torch.Tensor))


def demo_trainer() -> Trainer:
    """Of a UIS run, preset demo, as many threads as one of its trials has."""
    preset = PRESETS["demo"]
    torch.set_num_threads(preset.resources.threads)
    config = RunConfig(sampler=SAMPLERS["UIS"], detector=preset.detector, training=preset.training)
    meta = StoreMeta(class_names=("a", "b", "c", "d"), crop_size=(48, 160), source="random", demo=True, settings={},
                     rows={}, lost={}, counts={})  # fmt: skip
    return Trainer(config, meta, choose_device())


def _bare_loop(start: Any, steps: int, rates: Any) -> None:
    """A process of ``bare_rate``: warms up, waits for the others, and puts its iterations per second."""
    run = GrowingRun(demo_trainer(), 1000)
    run.steps(5)
    start.wait()
    rates.put(steps / seconds(partial(run.steps, steps)))


def bare_rate(processes: int, steps: int) -> float:
    """Iterations per second of the bare loop in so many processes at once, all together."""
    context = get_context("spawn")
    start, rates = context.Barrier(processes, timeout=300), context.Queue()
    running = [context.Process(target=_bare_loop, args=(start, steps, rates), daemon=True) for _ in range(processes)]
    for process in running:
        process.start()
    total = sum(rates.get(timeout=600) for _ in running)
    for process in running:
        process.join()
    return total


def by_examples(sizes: list[int], turns: int, steps: int) -> None:
    """Prints the first table."""
    trainer = demo_trainer()
    runs = {n: GrowingRun(trainer, n) for n in sizes}
    contenders: dict[str, Callable[[], float]] = {}
    for n, run in runs.items():
        contenders[str(n)] = lambda r=run: steps / seconds(partial(r.steps, steps))  # type: ignore[misc]
    figures = take_turns(contenders, turns, warm_up=1)
    print("| examples | iterations/s | lowest … highest | of the fewest's | target | met? | draw + update, µs | MB |")
    print("|---|---|---|---|---|---|---|---|")
    fewest = figures[str(sizes[0])]
    for n, run in runs.items():
        found = figures[str(n)]
        assert isinstance(found, list)
        assert isinstance(fewest, list)
        ratio, table = median(found) / median(fewest), 1e6 * median(run.table_seconds)
        met = yes(ratio >= FLAT)
        print(
            f"| {n:,} | {number(median(found))} | {spread(found)} | {ratio:.2f} × | ≥ {FLAT:g} × | {met} "
            f"| {number(table)} | {number(run.nbytes / 1e6)} |"
        )


@contextlib.contextmanager
def watched_cores(every: float = 0.2) -> Iterator[Callable[[float, float], float]]:
    """Within it, how many cores of the machine were busy on average between two times, in seconds since the epoch."""
    samples: list[tuple[float, float]] = []  # time, processor time of all cores until then
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            now = psutil.cpu_times()
            samples.append((time.time(), now.user + now.nice + now.system))

    def average(first: float, last: float) -> float:
        times, busy = zip(*samples, strict=True)
        return float(np.diff(np.interp([first, last], times, busy))[0]) / (last - first)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield average
    finally:
        ended.set()


def run_together(store: CropStore, preset: Preset, runs: int, trials: int, folder: str) -> tuple[float, float]:
    """A sweep of so many runs, so many trials at once: iterations per second of all, and cores busy meanwhile."""
    cpus = os.cpu_count() or 1
    training, worker = 0.75 * cpus / trials, 0.25 * cpus / trials
    resources = replace(preset.resources, decode_workers=1, cpus_per_trial=training, cpus_per_worker=worker)
    with watched_cores() as cores:
        found = sweep_of_uis(store, replace(preset, resources=resources), runs, Path(tempfile.mkdtemp(dir=folder)))
        times = [time for points in found for _, time in points]
        first, last = min(times), max(times)
        return preset.training.validate_every * (len(times) - 1) / (last - first), cores(first, last)


def by_trials(counts: list[int], iterations: int, rounds: int) -> None:
    """Prints the second table."""
    length = PRESETS["demo"].training.iterations
    training = replace(PRESETS["demo"].training, iterations=iterations, validate_every=iterations // 4)
    preset = replace(PRESETS["demo"], training=training)
    busy: dict[int, list[float]] = {n: [] for n in counts}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        connect()
        store = CropStore.open(demo_store(Path(folder), 100))

        def ours(n: int) -> float:
            rate, cores = run_together(store, preset, max(counts), n, folder)
            busy[n].append(cores)
            return rate

        contenders = {f"ours {n}": partial(ours, n) for n in counts}
        contenders |= {f"bare {n}": partial(bare_rate, n, iterations) for n in counts}
        rates = medians(take_turns(contenders, rounds))
        ray.shutdown()
    cores = os.cpu_count() or 1
    print(f"\n{max(counts)} runs of {iterations} iterations, on {cores} cores, {rounds} rounds:\n")
    print("| trials at once | iterations/s of all | trials of the demo preset an hour | cores busy | beside one "
          "| target | met? | bare processes beside one |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for n in counts:
        rate = rates[f"ours {n}"]
        ratio, least = rate / rates[f"ours {counts[0]}"], LINEAR * min(n, cores)
        judged = f"≥ {least:.2g} × | {yes(ratio >= least)}" if n > 1 else " | "
        print(
            f"| {n} | {number(rate)} | {number(3600 * rate / length)} | {median(busy[n]):.2f} | {ratio:.2f} × "
            f"| {judged} | {rates[f'bare {n}'] / rates[f'bare {counts[0]}']:.2f} × |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of a turn, in the first table")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="of the first table")
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="the first is compared with"
    )
    parser.add_argument("--iterations", type=int, default=60, metavar="N", help="of a run, in the second table")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="of the second table")
    options = parser.parse_args()
    by_examples(options.sizes, options.turns, options.steps)
    by_trials(options.trials, options.iterations, options.rounds)


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.growth", None, main))
