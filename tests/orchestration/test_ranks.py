"""Trials on two ranks that Ray Train starts: what a sweep of them records, and what it survives."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from isod.config.settings import Preset, ResourceConfig
from isod.errors import InputError
from isod.orchestration.resources import concurrent_trials, rank_resources, reservation
from isod.orchestration.sweep import Sweep, run_sweep
from isod.sampling.samplers import SAMPLERS
from tests.system.faults.conftest import assert_points, in_background, processes, rows_of, until
from tests.training.tiny_run import DETECTOR, UNTIMED, run_here, tiny_run, weights_of

TWO_RANKS = ResourceConfig(
    workers_per_trial=2, decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75, checkpoint_share=1.0
)
RANK = "ray::RayTrainWorker"


def sweep_of(store, out, **training):
    return Sweep(
        name="ranks",
        store=store,
        preset=Preset(detector=DETECTOR, training=tiny_run(**training).training, resources=TWO_RANKS, seeds=1),
        samplers=[SAMPLERS["UIS"]],
        seeds=1,
        tracking_uri=f"sqlite:///{out}/mlflow.db",
        experiment="ranks",
        out=out,
    )


def table_of(folder):
    return pd.read_csv(folder / "metrics.csv", index_col="iteration").drop(columns=UNTIMED)


def trial_of(sweep):
    """The folder of the sweep's UIS trial, after a look at MLflow: it has each of the trial's points once."""
    (folder,) = sweep.out.glob("runs/*/UIS-seed0")
    client = MlflowClient(sweep.tracking_uri)
    experiment = client.get_experiment_by_name("ranks").experiment_id
    (run,) = client.search_runs([experiment], "params.sampler = 'UIS'")
    assert run.info.status == "FINISHED"
    assert_points(client, run, table_of(folder))
    assert {path.name for path in folder.iterdir()} == {"metrics.csv", "examples.parquet", "model"}
    return folder


@pytest.mark.slow  # Ray Train starts two workers, and each of these a stream
@pytest.mark.timeout(400)
def test_a_trial_on_two_ranks_is_the_run_of_one_process(ray_local, tiny_store, tmp_path):
    # sums of another order differ in their last bit; at a rate of 2e-3 that grew to 1 % of the loss within these steps
    sweep = sweep_of(tiny_store, tmp_path / "sweep", iterations=14, validate_every=6, lr=1e-5)
    result = run_sweep(sweep)
    assert (result.failed, result.unfinished, result.undelivered) == ({}, 0, "")
    config = replace(tiny_run(), training=sweep.preset.training, holdout=sweep.preset.holdout)
    alone = tmp_path / "alone"
    run_here(config, tiny_store, alone)
    trial = trial_of(sweep)
    assert table_of(trial).index.tolist() == [6, 12, 14]
    pd.testing.assert_frame_equal(table_of(trial), table_of(alone), rtol=1e-4, atol=1e-6)
    drawn = [pd.read_parquet(folder / "examples.parquet")["draw_count"] for folder in (trial, alone)]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.slow  # four starts of two workers
@pytest.mark.timeout(900)
def test_a_lost_rank_is_started_again_and_a_sentence_of_one_ends_its_trial(ray_local, tiny_store, tmp_path, capsys):
    """A rank killed with -9 in the first trial, which goes on from its checkpoint; a second trial that diverges. What
    the first one leaves is what it leaves undisturbed, to the last bit."""
    calm = sweep_of(tiny_store, tmp_path / "calm", iterations=120, validate_every=6)
    sweep = replace(
        sweep_of(tiny_store, tmp_path / "sweep", iterations=120, validate_every=6),
        samplers=[SAMPLERS["UIS"], SAMPLERS["baseline"]],
        training={"baseline": {"lr": 1e30}},
    )

    def kill_a_rank():
        until(lambda: rows_of(sweep.out, "UIS-seed0") >= 3)
        processes(RANK)[-1].kill()

    join = in_background(kill_a_rank)
    result = run_sweep(sweep)
    join()
    assert list(result.failed) == ["baseline-seed0"]
    assert re.fullmatch(r"loss is (nan|inf) at step \d+, examples \[[\d, ]+\]", result.failed["baseline-seed0"])
    said = capsys.readouterr().out
    assert said.count("UIS-seed0 was lost") == 1
    assert said.count("resuming after iteration") == 1

    run_sweep(calm)
    found, expected = trial_of(sweep), trial_of(calm)
    pd.testing.assert_frame_equal(table_of(found), table_of(expected), check_exact=True)
    weights = [weights_of(folder) for folder in (found, expected)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


# --- before anything starts ------------------------------------------------------------------------------------------


def test_a_batch_that_has_no_equal_parts_is_refused_with_the_arithmetic(tiny_store, tmp_path):
    sweep = sweep_of(tiny_store, tmp_path, batch_size=9)
    with pytest.raises(InputError, match=r"a batch of 9 crops has no 2 equal parts \(2 × 4 \+ 1\): set --batch-size 8"):
        run_sweep(sweep)


def test_a_sampler_that_chooses_among_candidates_is_refused(tiny_store, tmp_path):
    sweep = replace(sweep_of(tiny_store, tmp_path), samplers=[SAMPLERS["online-top"]])
    with pytest.raises(InputError, match=r"'online-top' chooses among .*: workers_per_trial must be 1, got 2"):
        run_sweep(sweep)


def test_ray_train_reserves_all_that_a_trial_needs_at_once():
    """A rank's decode workers live on what the rank reserves; Tune adds no CPU that could be missing for it."""
    assert rank_resources(TWO_RANKS) == {"CPU": 1.0}
    assert rank_resources(replace(TWO_RANKS, decode_workers=3, gpus_per_trial=1.0)) == {"CPU": 1.5, "GPU": 1.0}
    assert set(reservation(TWO_RANKS).required_resources) == {"memory"}
    assert concurrent_trials(TWO_RANKS, cpus=5, gpus=0, trials=9) == 2
    assert concurrent_trials(replace(TWO_RANKS, gpus_per_trial=1.0), cpus=64, gpus=8, trials=9) == 4
    with pytest.raises(InputError, match=r"needs 2 workers × \(0.75 CPU .* × 0.25 CPU\) = 2 CPUs and Ray has 1"):
        concurrent_trials(TWO_RANKS, cpus=1, gpus=0, trials=1)
    with pytest.raises(InputError, match="needs 2 GPU and there are 1"):
        concurrent_trials(replace(TWO_RANKS, gpus_per_trial=1.0), cpus=64, gpus=1, trials=1)
