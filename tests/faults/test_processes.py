"""Processes that die: the trial's, its table's, its decode worker's, and the driver of the whole sweep."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from isod.orchestration.sweep import run_sweep
from tests.faults.conftest import (
    TABLE,
    TRAINING,
    TRIAL,
    WORKER,
    assert_recorded,
    in_background,
    processes,
    rows_of,
    until,
)
from tests.tiny_run import DETECTOR

SCRIPT = Path(__file__).parent.parent.parent / "sweeps" / "thesis_grid.py"


@pytest.mark.timeout(300)
def test_a_trial_outlives_its_process_its_table_and_its_decode_worker(ray_local, sweep, undisturbed, capsys):
    """All three are killed with -9 in one run, each at a later validation; what MLflow has is the undisturbed run."""
    expected = undisturbed("UIS")
    killed = []

    def kill_one_after_the_other():
        for title, rows in ((TRIAL, 2), (TABLE, 6), (WORKER, 10)):
            until(lambda rows=rows: rows_of(sweep.out, "UIS-seed0") >= rows)
            (process, *_) = processes(title)
            process.kill()
            killed.append(title)
            seen = rows_of(sweep.out, "UIS-seed0")
            until(lambda seen=seen: rows_of(sweep.out, "UIS-seed0") != seen)  # it goes on

    join = in_background(kill_one_after_the_other)
    result = run_sweep(sweep)
    join()
    assert killed == [TRIAL, TABLE, WORKER]
    assert (result.failed, result.unfinished, result.undelivered) == ({}, 0, "")
    said = capsys.readouterr().out
    assert said.count("UIS-seed0 was lost") == 3
    assert said.count("going on after iteration") == 3
    assert_recorded(sweep.tracking_uri, "faults", {"UIS": expected})


def command(store, out):
    """The thesis grid's script with baseline and UIS, one trial at a time."""
    training = ["--iterations", str(TRAINING.iterations), "--batch-size", str(TRAINING.batch_size), "--validate-every",
                str(TRAINING.validate_every), "--lr", str(TRAINING.lr), "--lag", str(TRAINING.lag)]  # fmt: skip
    return [sys.executable, str(SCRIPT), "--store", store, "--preset", "demo", "--samplers", "baseline", "UIS",
            "--seeds", "1", "--out", str(out), "--width", str(DETECTOR.width), *training,
            "--workers", "2"]  # fmt: skip  # two workers and so 1.25 CPUs a trial: one at a time on two CPUs


def start(arguments, out):
    """The driver, as a process of its own with a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out, env=environment
    )


def all_end(descendants):
    """What a driver had started ends by itself, within a minute or so."""
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in descendants), 150)


def assert_complete(store, out, undisturbed):
    uri, experiment = f"sqlite:///{out}/mlflow.db", f"thesis-grid-{Path(store).name}"
    assert_recorded(uri, experiment, {name: undisturbed(name) for name in ("baseline", "UIS")})


@pytest.mark.slow  # minutes, most of it two drivers that start
@pytest.mark.timeout(400)
def test_a_driver_that_is_killed_goes_on_where_it_was(tiny_store, tmp_path, undisturbed):
    """kill -9 in the second of two trials; nothing stays behind, and MLflow has each point once."""
    arguments = command(tiny_store, tmp_path)
    driver = start(arguments, tmp_path)
    until(lambda: rows_of(tmp_path, "UIS-seed0") >= 3)
    descendants = psutil.Process(driver.pid).children(recursive=True)
    assert len(descendants) > 3
    driver.kill()
    driver.communicate(timeout=60)

    driver = start([*arguments, "--resume"], tmp_path)
    out, error = driver.communicate(timeout=240)
    assert driver.returncode == 0, error[-2000:]
    assert "1 of 2 runs are finished and not run again" in out
    assert "baseline-seed0 done" not in out
    assert "UIS-seed0 done" in out
    all_end(descendants)
    assert_complete(tiny_store, tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sweep_that_is_interrupted_ends_cleanly_and_goes_on_where_it_was(tiny_store, tmp_path, undisturbed):
    """Ctrl-C in the first of two trials."""
    arguments = command(tiny_store, tmp_path)
    driver = start(arguments, tmp_path)
    until(lambda: rows_of(tmp_path, "baseline-seed0") >= 1)
    descendants = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGINT)
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 2  # no run has finished, so there is nothing to compare
    assert "Traceback" not in error
    assert "2 runs were not finished: the same command with --resume goes on" in error
    all_end(descendants)

    driver = start([*arguments, "--resume"], tmp_path)
    _, error = driver.communicate(timeout=240)
    assert driver.returncode == 0, error[-2000:]
    assert_complete(tiny_store, tmp_path, undisturbed)
