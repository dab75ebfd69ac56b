"""mAP of the thesis's detector under each part of the presets' recipe, apart and together, on stores of your own.

    python -m benchmarks.recipe STORE … [--batch-size 16] [--iterations 600] [--seeds 3]

The same for all: the store, the baseline sampler, the budget, the size of the preset ``small``. "as the thesis" trains
as the thesis does; every other row changes what it names. mAP is that of IoU 0.5 at the end, mean ± standard deviation
over seeds. Two processes with one thread each train side by side.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

from benchmarks.detectors import trained
from benchmarks.harness import machine
from isod.cli.train import run_settings
from isod.config.overrides import parse_assignment
from isod.data.store.split import CropStore

THESIS = ("training.lr=1e-3", "training.warmup=0", "training.ema=0", "training.loss_normalisation=location",
          "detector.quality=none")  # fmt: skip
RATE = ("training.lr=3e-3",)
OBJECT = ("training.loss_normalisation=object",)
BALANCED = ("training.loss_normalisation=balanced",)
QUALITY = ("detector.quality=iou",)
AVERAGED = ("training.warmup=50", "training.ema=0.99")
COSINE = ("training.warmup=50", "training.lr_schedule=cosine")
ROWS: dict[str, tuple[str, ...]] = {
    "as the thesis": (),
    "lr 3e-3": RATE,
    "lr 3e-3, object": RATE + OBJECT,
    "lr 3e-3, balanced": RATE + BALANCED,
    "lr 3e-3, predicted IoU": RATE + QUALITY,
    "lr 3e-3, warm-up and cosine": RATE + COSINE,
    "lr 3e-3, averaged weights": RATE + AVERAGED[1:],
    "lr 3e-3, balanced, predicted IoU": RATE + BALANCED + QUALITY,
    "the recipe: these, warm-up, averaged weights": RATE + BALANCED + QUALITY + AVERAGED,
    "the recipe with cosine": RATE + BALANCED + QUALITY + AVERAGED + COSINE,
}


def final(row: str, store: str, seed: int, batch_size: int, iterations: int) -> float:
    """Return the mAP of one run at its end."""
    budget = (f"training.iterations={iterations}", f"training.validate_every={iterations}",
              f"training.batch_size={batch_size}", f"training.seed={seed}")  # fmt: skip
    config, _ = run_settings("baseline", "small", [parse_assignment(text) for text in (*THESIS, *ROWS[row], *budget)])
    return float(trained(config, CropStore.open(store), threads=1)["mAP"].iloc[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", metavar="STORE")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--iterations", type=int, default=600, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    print(machine())
    print(f"\n{options.iterations} iterations of {options.batch_size}, {options.seeds} seeds\n")
    print("| store | under | mAP (IoU 0.5) | by seed |\n|---|---|---|---|")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for store in options.stores:
            runs = {
                row: [
                    pool.submit(final, row, store, seed, options.batch_size, options.iterations)
                    for seed in range(options.seeds)
                ]
                for row in options.rows
            }
            for row, futures in runs.items():
                found = [future.result() for future in futures]
                spread = f" ± {stdev(found):.3f}" if len(found) > 1 else ""
                seeds = ", ".join(f"{value:.3f}" for value in found)
                print(f"| {Path(store).name} | {row} | {mean(found):.3f}{spread} | {seeds} |", flush=True)


if __name__ == "__main__":
    main()
