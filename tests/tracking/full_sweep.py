"""A sweep in a real MLflow store with everything that a run leaves: curves, what was drawn, statistics of examples."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from tests.tracking.mlflow_store import GRID, made_up_metrics

EXAMPLES = 400


def all_metrics(sampler, seed, step):
    """What a run logs, with the drawing's own metrics; the baseline has no score to correlate. LIS forgets large
    vehicles, which is worse than any spread over seeds."""
    rng = np.random.default_rng([seed, step])
    out = made_up_metrics(sampler, seed, step)
    out |= {"sampler/repeats": 0.02, "sampler/recent_repeats": 0.1, "sampler/wrong_labels": rng.uniform(0.05, 0.1)}
    if sampler == "LIS":
        out["AP_large/Vehicle"] = 0.05 + 0.001 * seed
    if sampler != "baseline":
        out["sampler/ess"] = 0.5 if sampler.startswith("U") else 0.95
        out["sampler/correlation_class_loss"] = step / GRID[-1] - 0.2
        out["sampler/correlation_box_loss"] = 0.3
    return out


def examples_of(sampler, seed):
    """Statistics of one run: some examples are harder than others in every run; a tenth hold no object."""
    hard = np.random.default_rng(0).gamma(0.7, 1, EXAMPLES)
    rng = np.random.default_rng([seed, len(sampler)])
    score = hard * rng.lognormal(0, 0.3, EXAMPLES)
    draws = np.full(EXAMPLES, 30) if sampler == "baseline" else 1 + rng.poisson(29 * score / score.mean())
    return pd.DataFrame(
        {
            "index": np.arange(EXAMPLES),
            "frame_id": [f"{i:06d}" for i in range(EXAMPLES)],
            "draw_count": draws,
            "mean_importance": 0.0 if sampler == "baseline" else score,
            "last_step": -1 if sampler == "baseline" else 1000,
            "margin": np.where(np.arange(EXAMPLES) % 10 == 0, np.nan, 5 - 4 * hard + rng.normal(0, 1, EXAMPLES)),
        }
    )


def write_full_sweep(store, samplers, seeds=2, grid=GRID[::3], demo=True, name="thesis_grid"):
    """Writes the sweep into a ``mlflow_store.Store``; returns the parent's run id."""
    parent = store.sweep(name, demo=demo)
    for sampler in samplers:
        for seed in range(seeds):
            run_id = store.run(parent, sampler, seed, grid=grid, metrics=all_metrics)
            store.client.set_tag(run_id, "mlflow.runName", f"{sampler}-seed{seed}")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "examples.parquet"
                examples_of(sampler, seed).to_parquet(path)
                store.client.log_artifact(run_id, str(path))
    store.client.set_terminated(parent)
    return parent
