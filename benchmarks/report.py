"""How long the report of a thesis-sized grid takes, and how much memory: ``isod results`` on a real MLflow store.

The store has the size of the thesis's grid: 80 runs (eight samplers × ten seeds), 350 validations, 30 metrics, and the
statistics of 90 thousand examples per run. The numbers in it are made up. MLflow creates the database, the runs, their
parameters and artifacts; the 840 thousand metric values go into its two metric tables with one insert each, as its own
calls would take an hour. The store stays in the folder and is used again.

    python -m benchmarks.report --folder DIR
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities import Param
from mlflow.tracking import MlflowClient

SAMPLERS = {"baseline": 1.0, "LIS": 0.8, "UIS": 1.9, "LIS-RB": 0.7, "UIS-RB": 1.4, "LIS-RHO": 0.9, "LIS-IR": 0.8,
            "UIS-IR": 2.2}  # fmt: skip  # how much faster than the baseline the made-up curves rise
CLASSES = {"Vehicle": 3000, "Pedestrian": 800, "Animal": 21}  # objects of a size
EXPERIMENT = "report-benchmark"


def made_up_metrics(speed: float, grid: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """[T] curves by metric, 30 of them: those that the figures draw, and those of the sampler."""
    learnt = 1 - np.exp(-grid * speed / (grid[-1] / 4)) + rng.normal(0, 0.01)

    def noisy(level: float) -> np.ndarray:
        return level * learnt + rng.normal(0, 0.01, len(grid))

    out = {"mAP": noisy(0.45), "binary_AP": noisy(0.7), "train/loss": 3 - 2 * learnt}
    out |= {"time/seconds": grid * 0.6, "sampler/ess": noisy(0.5), "sampler/repeats": noisy(0.1)}
    out |= {"sampler/correlation_class_loss": noisy(0.4), "sampler/correlation_box_loss": noisy(0.2)}
    for size in ("small", "medium", "large"):
        out[f"mAP_{size}"] = noisy(0.4)
    for name, count in CLASSES.items():
        out[f"AP/{name}"], out[f"GT/{name}"] = noisy(0.4), np.full(len(grid), 3.0 * count)
        out[f"FP/{name}"] = rng.poisson(count / 5, len(grid)).astype(float)
    for size in ("small", "medium"):
        for name in CLASSES:
            out[f"AP_{size}/{name}"] = noisy(0.4)
    for name, count in CLASSES.items():
        out[f"GT_small/{name}"] = np.full(len(grid), float(count))
    out |= {"GT_medium/Vehicle": np.full(len(grid), float(CLASSES["Vehicle"]))}
    return out


def write_store(folder: Path, *, seeds: int, validations: int, examples: int) -> str:
    """A sweep in ``folder``/mlflow.db; returns the tracking URI."""
    path = folder / "mlflow.db"
    uri = f"sqlite:///{path}"
    if path.exists():
        return uri
    client = MlflowClient(uri)
    experiment = client.create_experiment(EXPERIMENT, artifact_location=str(folder / "artifacts"))
    parent = client.create_run(experiment, tags={"isod.sweep": EXPERIMENT, "isod.demo": "true"})
    grid = np.arange(1, validations + 1) * 700
    rng = np.random.default_rng(0)
    common = rng.gamma(0.5, size=examples)
    rows: list[tuple] = []
    latest: list[tuple] = []
    for sampler, speed in SAMPLERS.items():
        for seed in range(seeds):
            run_id = client.create_run(experiment, tags={"mlflow.parentRunId": parent.info.run_id}).info.run_id
            client.log_batch(run_id, params=[Param("sampler", sampler), Param("seed", str(seed)), Param("store", "x")])
            for metric, curve in made_up_metrics(speed, grid, rng).items():
                at = [(metric, float(v), int(s), run_id, int(s), 0) for s, v in zip(grid, curve, strict=True)]
                rows += at
                latest.append(at[-1])
            write_examples(folder / "examples.parquet", common, grid[-1], rng)
            client.log_artifact(run_id, str(folder / "examples.parquet"))
            client.set_terminated(run_id)
    with sqlite3.connect(path) as database:
        for table, values in (("metrics", rows), ("latest_metrics", latest)):
            database.executemany(
                f"INSERT INTO {table} (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)", values
            )
    client.set_terminated(parent.info.run_id)
    return uri


def write_examples(path: Path, common: np.ndarray, last: int, rng: np.random.Generator) -> None:
    """Statistics as a run leaves them: importance that runs share in part, draws in proportion to it."""
    importance = common + rng.gamma(0.5, size=len(common))
    frame = {
        "index": np.arange(len(common)),
        "frame_id": [f"{i:06d}" for i in range(len(common))],
        "draw_count": rng.poisson(350 * importance).astype(np.int32),
        "mean_importance": importance.astype(np.float32),
        "last_step": rng.integers(last, size=len(common)).astype(np.int32),
        "margin": rng.normal(2, 3, len(common)).astype(np.float32),
    }
    pd.DataFrame(frame).to_parquet(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the store and the report")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--validations", type=int, default=350)
    parser.add_argument("--examples", type=int, default=90_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    uri = write_store(options.folder, seeds=options.seeds, validations=options.validations, examples=options.examples)
    print(f"store: {time.perf_counter() - start:.0f} s")

    command = [sys.executable, "-m", "isod.cli.main", "results", "--tracking-uri", uri, "--experiment", EXPERIMENT]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(options.folder / "report")])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20
    print(
        f"isod results: exit code {process.returncode}, {seconds:.1f} s, {cpu:.1f} s of CPU, {memory:.2f} GiB at most"
    )
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
