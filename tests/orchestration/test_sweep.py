"""A sweep on real Ray and real MLflow: what it records, that it changes nothing in a run, and what a failure leaves."""

import functools
import logging
import math
import os
import signal
import sqlite3
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import ray
from mlflow import MlflowClient
from ray import tune

from isod.config.presets import PRESETS
from isod.config.record import flatten
from isod.config.settings import Preset, ResourceConfig
from isod.data.store.meta import StoreMeta
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.orchestration.resources import concurrent_trials, reservation
from isod.orchestration.sweep import Plan, Sweep, _tune, run_sweep, trial_grid
from isod.orchestration.trial import run_trial
from isod.sampling import DrawSchedule, ImportanceTable
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from isod.signals import handlers_kept
from tests.tracking.mlflow_store import Store
from tests.training.tiny_run import DETECTOR, UNTIMED, run_here, tiny_run

TRAINING = tiny_run(iterations=14, validate_every=6).training
BROKEN = SamplerConfig(name="broken", heuristic="loss")
object.__setattr__(BROKEN, "heuristic", "no such heuristic")  # start-up would refuse it
KEPT = range(20)
TWO_AT_ONCE = ResourceConfig(decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75)  # on two CPUs


@pytest.fixture(scope="module")
def sweep(tiny_store, tmp_path_factory):
    """Two samplers, one that fails in its trial, and one of a relative keep-list; two trials at once on two CPUs."""
    out = tmp_path_factory.mktemp("sweep")
    frames = CropStore.open(tiny_store).split("train").annotations().frame_ids
    (out / "keep.csv").write_text("index,frame_id\n" + "".join(f"{i},{frames[i]}\n" for i in KEPT))
    kept = replace(SAMPLERS["baseline"], name="kept", subset=os.path.relpath(out / "keep.csv"))
    return Sweep(
        name="little_grid",
        store=tiny_store,
        preset=Preset(detector=DETECTOR, training=TRAINING, resources=TWO_AT_ONCE, seeds=1),
        samplers=[SAMPLERS["baseline"], BROKEN, SAMPLERS["UIS"], kept],
        seeds=1,
        tracking_uri=f"sqlite:///{out}/mlflow.db",
        experiment="little",
        out=out,
    )


@pytest.fixture(scope="module")
def result(ray_local, sweep):
    """The sweep, which tries its broken trial twice only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isod.orchestration.sweep.ATTEMPTS", 2)
        return run_sweep(sweep)


@pytest.fixture(scope="module")
def runs(sweep, result):
    """The children of the sweep's run, by sampler, and the client."""
    client = MlflowClient(sweep.tracking_uri)
    experiment = client.get_experiment_by_name("little").experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.parent_run_id}'")
    assert len(client.search_runs([experiment])) == len(children) + 1
    return {run.data.params["sampler"]: run for run in children}, client


def config_of(sweep, sampler):
    training = replace(sweep.preset.training, seed=0)
    return replace(tiny_run(), sampler=sampler, training=training, holdout=sweep.preset.holdout)


def curves(client, run):
    """Metric → {step: value}."""
    return {
        name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }


def test_one_parent_and_a_child_per_trial(sweep, result, runs):
    children, client = runs
    parent = client.get_run(result.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["isod.sweep"] == "little_grid"
    assert parent.data.tags["isod.demo"] == "true"
    assert sorted(children) == ["UIS", "baseline", "broken", "kept"]
    for name, run in children.items():
        assert run.info.run_name == f"{name}-seed0"
        assert run.data.tags["isod.commit"] == parent.data.tags["isod.commit"]
        if name != "broken":  # which ended before it had anything to report
            assert f"{run.data.tags['isod.device']}: 2 CPUs" in parent.data.tags["isod.machine"]


@pytest.mark.parametrize("sampler", ["baseline", "UIS"])
def test_a_trial_is_the_local_run(sweep, runs, tmp_path, sampler):
    """Same parameters, every metric at the same iterations to the last bit, same per-example statistics."""
    children, client = runs
    run = children[sampler]
    config = config_of(sweep, SAMPLERS[sampler])
    assert run.info.status == "FINISHED"
    expected = {name: str(value) for name, value in flatten(config).items() if name != "sampler.name"}
    params = dict(run.data.params)
    assert (params.pop("sampler"), params.pop("seed"), params.pop("store")) == (sampler, "0", sweep.store)
    assert expected.items() <= params.items()

    run_here(config, sweep.store, tmp_path / "local")
    local = pd.read_csv(tmp_path / "local/metrics.csv", index_col="iteration")
    assert local.index.tolist() == [6, 12, 14]
    recorded = curves(client, run)
    assert all(math.isfinite(value) for points in recorded.values() for value in points.values())
    assert set(recorded) <= set(local.columns)
    for name in local.columns.difference(UNTIMED):
        assert recorded.get(name, {}) == local[name].dropna().to_dict()
    assert local.isna().any().any()  # a stratum without ground truth has no points
    assert sorted(recorded["time/seconds"]) == [6, 12, 14]

    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["examples.parquet", "model"]
    artifact = client.download_artifacts(run.info.run_id, "examples.parquet", str(tmp_path))
    examples = pd.read_parquet(artifact)
    pd.testing.assert_frame_equal(examples, pd.read_parquet(tmp_path / "local/examples.parquet"), check_exact=True)
    assert examples["draw_count"].sum() == 14 * 8


def test_a_relative_file_is_seen_from_where_the_sweep_started(runs, tmp_path):
    """Tune gives each trial a working folder of its own. The settings are recorded as they were given."""
    children, client = runs
    run = children["kept"]
    assert not os.path.isabs(run.data.params["sampler.subset"])
    examples = pd.read_parquet(client.download_artifacts(run.info.run_id, "examples.parquet", str(tmp_path)))
    assert set(np.flatnonzero(examples["draw_count"])) == set(KEPT)


def test_a_trial_that_fails_says_why_and_stops_nobody(result, runs):
    children, client = runs
    assert list(result.failed) == ["broken-seed0"]
    assert "no such heuristic" in result.failed["broken-seed0"]
    assert "\n" not in result.failed["broken-seed0"]
    run = children["broken"]
    assert run.info.status == "FAILED"
    assert run.data.tags["isod.error"] == result.failed["broken-seed0"]
    assert not run.data.metrics
    assert not client.list_artifacts(run.info.run_id)


def test_tunes_own_tools_find_the_best_trial(ray_local, sweep, runs, tmp_path):
    """``mAP`` is in what a trial reports: here to a tuner that isod did not make."""
    children, client = runs
    grid = [config_of(sweep, SAMPLERS[name]) for name in ("baseline", "UIS")]
    trainable = functools.partial(
        run_trial,
        store_uri=sweep.store,
        runs=str(tmp_path / "runs"),
        holdout=str(tmp_path / "holdout"),
        resources=TWO_AT_ONCE,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, reservation(TWO_AT_ONCE)),
        param_space={"run": tune.grid_search(grid)},
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    with handlers_kept(signal.SIGINT):
        results = tuner.fit()
    last = {name: curves(client, children[name])["mAP"][14] for name in ("baseline", "UIS")}
    best = results.get_best_result("mAP", "max")
    assert best.metrics["mAP"] == max(last.values())
    assert sorted(result.metrics["mAP"] for result in results) == sorted(last.values())


def test_an_mlflow_store_that_refuses_a_new_run_is_told_in_a_sentence(ray_local, sweep, tmp_path):
    """A database that may be read and not written: a trigger stands in for a server's permissions."""
    store = Store(tmp_path)
    database = store.uri.removeprefix("sqlite:///")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'permission denied'); END"
        )
    refused = replace(sweep, tracking_uri=store.uri, experiment="mine", out=tmp_path)
    with pytest.raises(InputError, match=r"^the MLflow store \S+ cannot be used: .*permission denied") as failure:
        run_sweep(refused)
    assert "\n" not in str(failure.value)


def test_a_refused_resume_changes_nothing_in_mlflow(sweep, result, runs):
    _, client = runs
    other = replace(SAMPLERS["UIS"], floor=0.25)
    with pytest.raises(InputError, match=r"UIS-seed0 .* began with other settings"):
        run_sweep(replace(sweep, samplers=[other], resume=True))
    assert client.get_run(result.parent_run_id).info.status == "FINISHED"


def test_a_sweep_on_a_store_that_was_made_anew_is_not_gone_on_with(sweep, result, monkeypatch):
    held = CropStore.open(sweep.store).meta.contents
    monkeypatch.setattr(StoreMeta, "contents", "60 train + 20 val crops of 160×48")
    with pytest.raises(
        InputError, match=r"settings \(store\.contents was (.*) and is 60 train .* of 160×48\)"
    ) as refused:
        run_sweep(replace(sweep, resume=True))
    assert held in str(refused.value)


def test_seeds_that_another_machine_has_not_run(sweep):
    grid = trial_grid(replace(sweep, seeds=2, first_seed=3))
    assert [(config.sampler.name, config.training.seed) for config in grid] == [
        (name, seed) for seed in (3, 4) for name in ("baseline", "broken", "UIS", "kept")
    ]


def test_trials_may_run_in_the_processes_that_ray_started_in_advance(ray_local, sweep):
    """Those have no runtime environment; a trial that had one of its own, as Tune gives it one, would get new ones."""
    seen = []

    class Watch(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **info):
            seen.append(result["environment"])

    def trainable(params):
        tune.report({"environment": dict(ray.get_runtime_context().runtime_env)})

    _tune(sweep, trainable, Plan(1, {"run": tiny_run()}), 1, [Watch()])
    assert seen == [{}]


def test_every_sentence_of_a_run_goes_with_the_report_that_comes_next(sweep, tmp_path, monkeypatch):
    """And with one report only."""

    def run(self, make_stream, reporter):
        for iteration in (6, 12):
            logging.getLogger("isod.training").info("before %s", iteration)
            reporter.report({}, iteration)
        logging.getLogger("isod.training").warning("the reason")
        raise InputError("the end")

    reports = []
    monkeypatch.setattr("isod.training.run.Run.train", run)
    monkeypatch.setattr("ray.tune.report", reports.append)
    run_trial({"run": tiny_run()}, store_uri=sweep.store, runs=str(tmp_path), holdout="", resources=TWO_AT_ONCE)
    assert [(r["iteration"], r["said"], r["failed"]) for r in reports] == [
        (6, [(logging.INFO, "before 6")], ""),
        (12, [(logging.INFO, "before 12")], ""),
        (12, [(logging.WARNING, "the reason")], "the end"),
    ]


# --- how many at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trial", "workers", "worker", "gpu", "machine", "trials", "expected"),
    [
        (0.75, 1, 0.25, 0, (2, 0), 16, 2),  # the demo and small presets on two cores
        (0.75, 1, 0.25, 0, (2, 0), 1, 1),
        (0.75, 1, 0.25, 0, (64, 0), 16, 16),
        (1, 1, 1, 0, (2, 0), 16, 1),
        (1, 1, 1, 0, (3, 0), 16, 1),  # the third CPU is not enough for a second trial
        (0.1, 1, 0.1, 0, (0.6, 0), 16, 3),  # 0.6 / 0.2 is just below 3 in floating point
        (1, 6, 1, 1, (16, 4), 80, 2),  # the thesis preset: 7 CPUs a trial
        (1, 6, 1, 1, (64, 4), 80, 4),
        (1, 2, 1, 0.25, (64, 1), 80, 4),  # four trials share a GPU
        (1, 2, 1, 0.3, (64, 1), 80, 3),
    ],
)
def test_concurrent_trials(trial, workers, worker, gpu, machine, trials, expected):
    resources = ResourceConfig(decode_workers=workers, cpus_per_worker=worker, cpus_per_trial=trial, gpus_per_trial=gpu)
    assert concurrent_trials(resources, cpus=machine[0], gpus=machine[1], trials=trials) == expected


@pytest.mark.parametrize(
    ("workers", "lag", "gpu", "expected"),
    [(6, 4, 1, 4), (6, 4, 0, 5), (6, 10, 1, 6), (2, 1, 0.2, 1), (2, 1, 0, 2), (2, 0, 0.2, 1), (2, 0, 0, 1)],
)
def test_a_lag_feeds_so_many_decode_workers(workers, lag, gpu, expected):
    """As many as there are draws, of those that may be made, whose batches the trainer has not got yet."""
    assert ResourceConfig(decode_workers=workers, gpus_per_trial=gpu).busy_workers(lag) == expected
    schedule = DrawSchedule(ImportanceTable(40, seed=0), batch_size=4, lag=lag)
    for step in range(5):
        schedule.update(step, schedule.draw(step).indices, np.ones(4))
    waits_for = 6 if gpu and lag else 5  # with the scores of steps 0 … 4, on a GPU while step 5 computes
    assert min(workers, sum(schedule.ready(step) for step in range(waits_for, 40))) == expected


def test_a_sweep_says_that_its_lag_leaves_decode_workers_without_work(ray_local, sweep, caplog):
    preset = replace(sweep.preset, resources=replace(TWO_AT_ONCE, decode_workers=2))
    own = {"baseline": {"lag": 0}}
    caplog.set_level("INFO", "isod")
    with pytest.raises(InputError):  # before anything is trained: there is no sweep to go on with
        run_sweep(replace(sweep, preset=preset, training=own, experiment="other", resume=True))
    assert "note: a lag of 0 gives work to 1 of a run's 2 decode workers at a time" in caplog.text
    assert caplog.text.count("note:") == 1
    assert "(baseline)" in caplog.text


def test_no_preset_leaves_a_decode_worker_without_work():
    for preset in PRESETS.values():
        assert preset.resources.busy_workers(preset.training.lag) == preset.resources.decode_workers


def test_every_trial_reserves_its_decode_workers():
    """The guard against a standstill: 2 CPUs taken by 2 trials whose decode workers then find none."""
    resources = ResourceConfig(decode_workers=2, cpus_per_worker=0.5, cpus_per_trial=1.0)
    assert reservation(resources).required_resources == {"CPU": 2.0}
    assert concurrent_trials(resources, cpus=2, gpus=0, trials=2) == 1
    with pytest.raises(InputError, match=r"1 CPU for training \+ 2 decode workers × 1 CPU = 3 CPUs and Ray has 2"):
        concurrent_trials(ResourceConfig(decode_workers=2), cpus=2, gpus=0, trials=2)
    with pytest.raises(InputError, match="needs 1 GPU and there are 0"):
        concurrent_trials(ResourceConfig(gpus_per_trial=1.0), cpus=1, gpus=0, trials=2)  # before the CPUs
