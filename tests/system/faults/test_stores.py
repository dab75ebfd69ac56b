"""What a sweep writes to or reads from goes bad: MLflow away, locked or full, the crop store cut short."""

import os
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from mlflow import MlflowClient

from isod.orchestration import sweep as sweep_module
from isod.orchestration.sweep import run_sweep
from isod.sampling.samplers import SAMPLERS
from tests.system.faults.conftest import assert_recorded, in_background, rows_of, until

LAST = 20  # validations of the undisturbed run


@pytest.mark.slow  # a minute without the server; the full store below keeps what it has to say just so
@pytest.mark.timeout(300)
def test_an_mlflow_server_may_go_away_and_come_back(ray_local, sweep, server, undisturbed, capsys):
    """It dies after the second validation and is back when training is over: nothing waited for it, nothing is lost."""
    expected = undisturbed("UIS")

    def interrupt():
        until(lambda: rows_of(sweep.out, "UIS-seed0") >= 2)
        server.kill()
        until(lambda: rows_of(sweep.out, "UIS-seed0") >= LAST)  # training goes on without it
        server.start()

    join = in_background(interrupt)
    result = run_sweep(replace(sweep, tracking_uri=server.uri))
    join()
    assert (result.failed, result.unfinished, result.undelivered) == ({}, 0, "")
    said = capsys.readouterr().out
    assert "MLflow does not accept data" in said
    assert "MLflow accepts data again" in said
    assert "View run" not in said
    assert_recorded(server.uri, "faults", {"UIS": expected})


@pytest.mark.slow  # the full store below is the same story, told faster
@pytest.mark.timeout(300)
def test_a_store_that_takes_nothing_loses_nothing(ray_local, sweep, undisturbed, monkeypatch):
    """A database that somebody else has locked from the second validation on; the same sweep, resumed, delivers."""
    expected = undisturbed("UIS")
    monkeypatch.setattr(sweep_module, "PATIENCE", 2.0)
    locks = []

    def lock():
        until(lambda: rows_of(sweep.out, "UIS-seed0") >= 2)
        connection = sqlite3.connect(sweep.out / "mlflow.db", timeout=60, check_same_thread=False)
        connection.execute("BEGIN EXCLUSIVE")
        locks.append(connection)

    join = in_background(lock)
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "1")
    result = run_sweep(sweep)
    join()
    assert result.failed == {}
    assert "messages did not reach MLflow" in result.undelivered
    assert "locked" in result.undelivered
    locks[0].rollback()
    locks[0].close()
    again = run_sweep(replace(sweep, resume=True))
    assert (again.parent_run_id, again.failed, again.undelivered) == (result.parent_run_id, {}, "")
    assert_recorded(sweep.tracking_uri, "faults", {"UIS": expected})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_tracking_store_loses_nothing(ray_local, sweep, small_disk, undisturbed, monkeypatch):
    expected = undisturbed("UIS")
    monkeypatch.setattr(sweep_module, "PATIENCE", 2.0)
    disk, resize = small_disk
    resize("8m")
    full = replace(sweep, tracking_uri=f"sqlite:///{disk}/mlflow.db")
    filler = disk / "filler"

    def fill():
        until(lambda: rows_of(sweep.out, "UIS-seed0") >= 2)
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1024)):
                pass

    join = in_background(fill)
    result = run_sweep(full)
    join()
    assert "messages did not reach MLflow" in result.undelivered
    assert "(database or disk is full)" in result.undelivered
    filler.unlink()
    assert run_sweep(replace(full, resume=True)).undelivered == ""
    assert_recorded(full.tracking_uri, "faults", {"UIS": expected})


@pytest.mark.timeout(400)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_store_cut_short_stops_its_trials_with_a_sentence(
    ray_local, sweep, tiny_store, tmp_path, workers, monkeypatch
):
    """Every file of the crops is cut to a quarter in mid-run: the trial fails, and says which store and what to do."""
    monkeypatch.setattr(sweep_module, "ATTEMPTS", 2)
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store)

    def cut():
        until(lambda: rows_of(sweep.out, "UIS-seed0") >= 2)
        for file in (store / "train.lance/data").iterdir():
            os.truncate(file, file.stat().st_size // 4)

    join = in_background(cut)
    preset = replace(sweep.preset, resources=replace(sweep.preset.resources, workers_per_trial=workers))
    result = run_sweep(replace(sweep, store=str(store), preset=preset))
    join()
    reason = result.failed["UIS-seed0"]
    assert str(store) in reason
    assert "prepare" in reason
    assert "\n" not in reason
    client = MlflowClient(sweep.tracking_uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("faults").experiment_id], "attributes.run_name = 'UIS-seed0'"
    )
    assert run.info.status == "FAILED"
    assert run.data.tags["isod.error"] == reason
    assert len(client.get_metric_history(run.info.run_id, "mAP")) >= 2  # what was computed stays


@pytest.mark.timeout(540)
def test_a_loss_that_is_not_finite_stops_its_trial_alone(ray_local, sweep, undisturbed, monkeypatch):
    """LIS diverges, with a learning rate of its own; UIS beside it ends as ever."""
    monkeypatch.setattr(sweep_module, "ATTEMPTS", 2)
    expected = undisturbed("UIS")
    two = replace(sweep, samplers=[SAMPLERS["LIS"], SAMPLERS["UIS"]], training={"LIS": {"lr": 1e30}})
    result = run_sweep(two)
    assert list(result.failed) == ["LIS-seed0"]
    assert result.failed["LIS-seed0"].startswith("loss is ")
    assert " at step " in result.failed["LIS-seed0"]
    assert "examples [" in result.failed["LIS-seed0"]
    assert result.unfinished == 0
    client = MlflowClient(sweep.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("faults").experiment_id])
    states = {run.info.run_name: run for run in runs}
    assert states["LIS-seed0"].info.status == "FAILED"
    assert states["UIS-seed0"].info.status == "FINISHED"
    history = client.get_metric_history(states["UIS-seed0"].info.run_id, "mAP")
    np.testing.assert_array_equal([point.value for point in history], expected["mAP"])
