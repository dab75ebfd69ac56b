"""A real MLflow store with made-up curves, written the way the sweep's callback writes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

CLASSES = {"Vehicle": 3000, "Pedestrian": 800, "Animal": 21}  # ground truth of a size
SPEED = {"baseline": 1.0, "UIS": 2.0, "LIS": 0.8, "UIS-IR": 1.5}  # how much faster than the baseline it learns
ESS = {"UIS": 0.43, "LIS": 0.95, "UIS-IR": 0.5}
GRID = tuple(range(100, 1300, 100))  # iterations


@dataclass
class Store:
    """Writes sweeps into one sqlite store."""

    folder: Path
    experiment: str = "grid"

    def __post_init__(self) -> None:
        self.uri = f"sqlite:///{self.folder}/mlflow.db"
        self.client = MlflowClient(self.uri)
        self.experiment_id = self.client.create_experiment(self.experiment, artifact_location=str(self.folder))

    def sweep(self, name="thesis_grid", demo=False, start=1_000):
        tags = {"isod.sweep": name, "isod.machine": "2 cores <no GPU>"} | ({"isod.demo": "true"} if demo else {})
        return self.client.create_run(self.experiment_id, tags=tags, start_time=start, run_name=name).info.run_id

    def run(self, parent, sampler, seed, status="FINISHED", grid=GRID, metrics=None, store="/data/store", start=2_000,
            tags=None, params=None):  # fmt: skip
        tags = {"mlflow.parentRunId": parent, "isod.commit": "abc1234"} | (tags or {})
        run_id = self.client.create_run(self.experiment_id, tags=tags, start_time=start).info.run_id
        heuristic = {"U": "uncertainty", "L": "loss", "<": "loss"}.get(sampler[0])
        values = {"sampler": sampler, "seed": seed, "store": store, "iterations": max(grid), "batch_size": 64,
                  "sampler.heuristic": heuristic, **(params or {})}  # fmt: skip
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in values.items()])
        metrics = made_up_metrics if metrics is None else metrics
        for step in grid:
            values = metrics(sampler, seed, step)
            self.client.log_batch(run_id, [Metric(k, float(v), step, step) for k, v in values.items() if v == v])
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id


def made_up_metrics(sampler, seed, step):
    """Curves that saturate, at a speed of the sampler's own, with noise of the seed's own; no large animals."""
    rng = np.random.default_rng([seed, step, len(sampler)])
    learnt = 1 - np.exp(-step * SPEED.get(sampler, 1.0) / 700)
    ap = {c: level * learnt + rng.normal(0, 0.01) for c, level in zip(CLASSES, (0.7, 0.5, 0.25), strict=True)}
    out = {"train/loss": 3 - 2 * learnt, "time/seconds": step * (0.11 if sampler == "baseline" else 0.13)}
    for suffix, easier in (("", 1.0), ("_small", 0.5), ("_medium", 1.0), ("_large", 1.3)):
        for name, count in CLASSES.items():
            here = 0 if (name, suffix) == ("Animal", "_large") else count * (2 if suffix == "" else 1)
            out[f"AP{suffix}/{name}"] = ap[name] * easier if here else np.nan
            out[f"GT{suffix}/{name}"] = here
            out[f"FP{suffix}/{name}"] = rng.poisson(count * 0.2 * (1.5 - learnt) * (1 if suffix == "" else 1 / 3))
        out[f"mAP{suffix}"] = np.nanmean([out[f"AP{suffix}/{name}"] for name in CLASSES])
        out[f"binary_AP{suffix}"] = min(1.0, 0.8 * learnt * easier)
    if sampler in ESS:
        out["sampler/ess"] = ESS[sampler]
    return out
