"""The same seeds give what they gave at commit 2c226b9: the draws of every named sampler, and short runs.

draws.npz and run.json were recorded there. Draws are held exactly. The floats of a run are held exactly on the
processor and the torch that they were recorded with; elsewhere sums may round otherwise, so there only the first
validation's losses are compared, to one in a thousand.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isod.config.settings import DetectorConfig, HoldoutConfig, RunConfig, TrainingConfig
from isod.sampling.samplers import SAMPLERS
from isod.sampling.schedule import DrawSchedule
from isod.sampling.table import ImportanceTable
from isod.training.device import cpu_model
from tests.training.tiny_run import run_here, weights_of

HERE = Path(__file__).parent
DRAWS = np.load(HERE / "draws.npz")
RUNS = json.loads((HERE / "run.json").read_text())
EXAMPLES, BATCH, STEPS = 97, 8, 200
TINY = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1))


def scores_at(step, indices):
    rng = np.random.default_rng([7, step])
    hard = np.random.default_rng(5).gamma(0.7, 1.0, EXAMPLES)
    return (hard[indices] * rng.uniform(0.5, 1.5, len(indices))).round(6)


@pytest.mark.parametrize("name", DRAWS.files)
def test_draws(name):
    table = ImportanceTable(EXAMPLES, sampler=SAMPLERS[name], seed=3, run_length=STEPS * BATCH)
    if SAMPLERS[name].holdout:
        table.set_offset(np.random.default_rng(6).gamma(0.7, 0.5, EXAMPLES).round(6))
    schedule = DrawSchedule(table, batch_size=BATCH, lag=2, steps=STEPS)
    for step, expected in enumerate(DRAWS[name]):
        indices = schedule.draw(step).indices
        assert indices.tolist() == expected.tolist(), f"draw {step}"
        schedule.update(step, indices, scores_at(step, indices))


def weights_digest(folder):
    weights = weights_of(folder)
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", RUNS["runs"])
def test_a_short_run(name, tiny_store, tmp_path):
    recorded = RUNS["runs"][name]
    training = {"iterations": 24, "batch_size": 8, "validate_every": 12, "lag": 2, "lr": 2e-3, **recorded["training"]}
    config = RunConfig(
        sampler=SAMPLERS[name],
        detector=TINY,
        training=TrainingConfig(**training),
        holdout=HoldoutConfig(epochs=4, batch_size=8, detector=TINY),
    )
    run_here(config, tiny_store, tmp_path / "run")
    rows = pd.read_csv(tmp_path / "run" / "metrics.csv").to_dict("records")
    draws = pd.read_parquet(tmp_path / "run" / "examples.parquet")["draw_count"].tolist()
    if (RUNS["processor"], RUNS["torch"]) == (cpu_model(), torch.__version__):
        for row, expected in zip(rows, recorded["metrics"], strict=True):
            now = {key: None if row[key] != row[key] else row[key] for key in expected}
            assert now == expected
        assert draws == recorded["draw_count"]
        assert weights_digest(tmp_path / "run") == recorded["weights"]
    first = recorded["metrics"][0]
    for key in ("train/loss", "train/class_loss", "train/box_loss"):
        assert rows[0][key] == pytest.approx(first[key], rel=1e-3)
    assert sum(draws) == sum(recorded["draw_count"])
