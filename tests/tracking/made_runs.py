"""Runs made from numbers written in a test, as ``load_runs`` would give them."""

import pandas as pd

from isod.results import Runs


def made_runs(values, **tags):
    """Runs from {(sampler, seed): {metric: {step: value}}}."""
    curves = pd.DataFrame(
        [
            (sampler, seed, metric, step, value)
            for (sampler, seed), metrics in values.items()
            for metric, curve in metrics.items()
            for step, value in curve.items()
        ],
        columns=["sampler", "seed", "metric", "step", "value"],
    ).astype({"sampler": "category", "metric": "category", "value": float})
    ids = [f"{sampler}-{seed}" for sampler, seed in values]
    runs = pd.DataFrame(list(values), columns=["sampler", "seed"], index=pd.Index(ids, name="run_id"))
    left_out = pd.DataFrame(columns=["run_id", "sampler", "seed", "status", "reason"])
    return Runs("sqlite:///made.db", "made", "sweep", "sweep", dict(tags), runs, curves, left_out)
