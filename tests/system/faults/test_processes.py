"""Processes that die: the trial's, its table's, its decode worker's, and the driver of the whole sweep."""

import signal
from pathlib import Path

import psutil
import pytest

from isod.orchestration.sweep import run_sweep
from tests.system.faults.conftest import (
    TABLE,
    TRIAL,
    WORKER,
    all_end,
    assert_recorded,
    grid_command,
    in_background,
    processes,
    rows_of,
    start_driver,
    until,
)

SAMPLERS = ["baseline", "UIS"]


@pytest.mark.timeout(540)
@pytest.mark.parametrize(
    ("sweep", "kills"),  # sampler; title, validations
    [
        ("UIS", [(TABLE, 2)]),
        pytest.param("UIS", [(TRIAL, 2), (TABLE, 6), (WORKER, 10)], marks=pytest.mark.slow),
        pytest.param("RFS", [(TABLE, 2)], marks=pytest.mark.slow),
        pytest.param("CAP", [(TRIAL, 2), (TABLE, 6)], marks=pytest.mark.slow),  # its first window closes at 100 of 120
    ],
    ids=["table", "all", "RFS", "CAP"],
    indirect=["sweep"],
)
def test_a_trial_outlives_its_process_its_table_and_its_decode_worker(ray_local, sweep, undisturbed, capsys, kills):
    """Killed with -9 in one run, each at a later validation; what MLflow has is the undisturbed run. The table's end is
    the trial's too, whose process then starts anew."""
    (sampler,) = (item.name for item in sweep.samplers)
    trial = f"{sampler}-seed0"
    expected = undisturbed(sampler)
    killed = []

    def kill_one_after_the_other():
        for title, rows in kills:
            until(lambda rows=rows: rows_of(sweep.out, trial) >= rows)
            (process, *_) = processes(title)
            process.kill()
            killed.append(title)
            seen = rows_of(sweep.out, trial)
            until(lambda seen=seen: rows_of(sweep.out, trial) != seen)  # it continues

    join = in_background(kill_one_after_the_other)
    result = run_sweep(sweep)
    join()
    assert killed == [title for title, _ in kills]
    assert (result.failed, result.unfinished, result.undelivered) == ({}, 0, "")
    said = capsys.readouterr().out
    assert said.count(f"{trial} was lost") == len(kills)
    assert said.count("resuming after iteration") == len(kills)
    assert_recorded(sweep.tracking_uri, "faults", {sampler: expected})


def assert_complete(store, out, undisturbed):
    uri, experiment = f"sqlite:///{out}/mlflow.db", f"thesis-grid-{Path(store).name}"
    assert_recorded(uri, experiment, {name: undisturbed(name) for name in SAMPLERS})


@pytest.mark.slow  # minutes, most of it two drivers that start
@pytest.mark.timeout(400)
def test_a_driver_that_is_killed_goes_on_where_it_was(tiny_store, tmp_path, undisturbed):
    """kill -9 in the second of two trials; nothing stays behind, and MLflow has each point once."""
    arguments = grid_command(tiny_store, tmp_path, SAMPLERS)
    driver = start_driver(arguments, tmp_path)
    until(lambda: rows_of(tmp_path, "UIS-seed0") >= 3)
    descendants = psutil.Process(driver.pid).children(recursive=True)
    assert len(descendants) > 3
    driver.kill()
    driver.communicate(timeout=60)

    driver = start_driver([*arguments, "--resume"], tmp_path)
    out, error = driver.communicate(timeout=240)
    assert driver.returncode == 0, error[-2000:]
    assert "1 of 2 runs are finished and not run again" in out
    assert "baseline-seed0 done" not in out
    assert "UIS-seed0 done" in out
    all_end(descendants)
    assert_complete(tiny_store, tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_interrupted_ends_cleanly_and_goes_on_where_it_was(tiny_store, tmp_path, undisturbed, number):
    """Ctrl-C or SIGTERM in the first of two trials."""
    arguments = grid_command(tiny_store, tmp_path, SAMPLERS)
    driver = start_driver(arguments, tmp_path)
    until(lambda: rows_of(tmp_path, "baseline-seed0") >= 1)
    descendants = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "no finished run" not in error
    assert "Traceback" not in error
    assert "2 runs were not finished: repeat the command with --resume to finish them" in error
    all_end(descendants)

    driver = start_driver([*arguments, "--resume"], tmp_path)
    _, error = driver.communicate(timeout=240)
    assert driver.returncode == 0, error[-2000:]
    assert_complete(tiny_store, tmp_path, undisturbed)
