"""mAP of each detector after equal seconds of training, on stores of your own.

    python -m benchmarks.detectors STORE … [--detectors NAME …] [--seconds 300] [--seeds 1] [--set NAME=VALUE …]

The same for all: the store, the baseline sampler, the batch size, torch's threads, the preset and what --set changes.
Each detector first takes some steps, which tell how many fit the seconds; it is then trained for so many from the
beginning, on its own, and validated once, at the end. Seconds are those of training steps: reading of crops included,
start-up and validation not. mAP is that of IoU 0.5.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import torch

from benchmarks.harness import machine
from isod.cli.train import run_settings
from isod.config.overrides import parse_assignment
from isod.config.settings import RunConfig
from isod.data.store.split import CropStore
from isod.detector.model import DETECTORS
from isod.training.folder import RunFolder
from isod.training.run import Run

STEPS = 6  # of the first run; those before its first validation, at a third of it, are the warm-up
CPU = torch.device("cpu")


class Silent:
    """A reporter that reports nothing: the run's folder has it all."""

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        """Ignore it."""

    def replay(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Ignore them."""


def trained(config: RunConfig, store: CropStore, threads: int) -> pd.DataFrame:
    """The metrics of a run, by iteration."""
    _, resources = run_settings("baseline", "small", [])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            config=config,
            store=store,
            folder=RunFolder(Path(folder) / "run"),
            device=CPU,
            resources=replace(resources, threads=threads),
        )
        run.start(Silent())
        return pd.read_csv(Path(folder) / "run" / "metrics.csv", index_col="iteration")


def with_training(config: RunConfig, **training: Any) -> RunConfig:
    """The same run with other settings of its training."""
    return replace(config, training=replace(config.training, **training))


def measured(config: RunConfig, store: CropStore, seconds: float, seeds: int, threads: int) -> tuple[int, float, float]:
    """Steps, seconds and mean mAP of a detector."""
    third = STEPS // 3
    first = trained(with_training(config, iterations=STEPS, validate_every=third), store, threads)["time/seconds"]
    steps = max(1, int(seconds / (first[STEPS] - first[third]) * (STEPS - third)))
    rows = [
        trained(with_training(config, iterations=steps, validate_every=steps, seed=seed), store, threads).iloc[-1]
        for seed in range(seeds)
    ]
    return steps, mean(row["time/seconds"] for row in rows), mean(row["mAP"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", metavar="STORE")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), choices=list(DETECTORS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=300, metavar="S")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE", dest="settings")
    options = parser.parse_args()
    print(machine())
    print(f"\n{options.seconds:.0f} s of training each, {options.seeds} seed(s): {' '.join(options.settings)}\n")
    print("| store | detector | steps | seconds | mAP (IoU 0.5) |\n|---|---|---|---|---|")
    for uri in options.stores:
        store = CropStore.open(uri)
        for name in options.detectors:
            assignments = [parse_assignment(text) for text in (*options.settings, f"detector.name={name}")]
            config, _ = run_settings("baseline", "small", assignments)
            steps, seconds, found = measured(config, store, options.seconds, options.seeds, options.threads)
            print(f"| {Path(uri).name} | {name} | {steps} | {seconds:.0f} | {found:.3f} |", flush=True)


if __name__ == "__main__":
    main()
