"""What the fault tests share: a small sweep, and ways to wait for a moment and to hit a process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from isod.config.record import flatten
from isod.config.settings import Preset, ResourceConfig, RunConfig
from isod.orchestration.sweep import Sweep
from isod.sampling.samplers import SAMPLERS
from tests.tracking.mlflow_server import MlflowServer
from tests.training.tiny_run import DETECTOR, UNTIMED, run_here, tiny_run

RESOURCES = ResourceConfig(decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75, checkpoint_share=1.0)
TRAINING = tiny_run(iterations=120, validate_every=6).training  # long enough to be hit in the middle
SCRIPT = Path(__file__).parents[3] / "sweeps" / "thesis_grid.py"
TRIAL, TABLE, WORKER = "ray::ImplicitFunc", "ray::TableActor", "ray::MapWorker"


def until(holds: Callable[[], object], seconds: float = 240) -> None:
    """Wait for a condition; it is asked often, so that a fault comes right behind it. The first sweep of a fresh
    environment, with a busy neighbour, was seen to take 137 s until its first validation."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def processes(title: str, root: int | None = None) -> list[psutil.Process]:
    """Descendants of a process (this one) whose title begins so."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


def grid_command(store: str, out: Path, samplers: list[str]) -> list[str]:
    """The thesis grid's script with some samplers and one seed, one trial at a time on two CPUs."""
    config = flatten(RunConfig(sampler=SAMPLERS["baseline"], detector=DETECTOR, training=TRAINING))
    settings = [
        f"{name}={value}" for name, value in config.items()
        if name.startswith(("detector.", "training.")) and name not in ("training.seed", "detector.weights")
    ]  # fmt: skip  # all of them, as the preset has a recipe of its own
    return [sys.executable, str(SCRIPT), "--store", store, "--preset", "demo", "--samplers", *samplers,
            "--seeds", "1", "--out", str(out), "--workers", "2", "--set", *settings]  # fmt: skip
    # two workers and so 1.25 CPUs a trial


def start_driver(arguments: list[str], out: Path, output: int | IO = subprocess.PIPE) -> subprocess.Popen[str]:
    """The driver of a sweep, as a process of its own with a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return subprocess.Popen(arguments, stdout=output, stderr=output, text=True, cwd=out, env=environment)


def all_end(descendants: list[psutil.Process]) -> None:
    """What a driver had started ends by itself, within a minute or so."""
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in descendants), 150)


def in_background(work: Callable[[], object]) -> Callable[[], None]:
    """Run something beside the sweep; call the result to wait for it and to get its failure."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> None:
        thread.join(300)
        assert not thread.is_alive()
        if failure:
            raise failure[0]

    return join


def rows_of(out: Path, trial: str) -> int:
    """Validations that a trial has written so far."""
    for path in out.glob(f"runs/*/{trial}/metrics.csv"):
        return len(path.read_text().splitlines()) - 1
    return 0


@pytest.fixture
def sweep(request, tiny_store, tmp_path):
    """One trial, of UIS or of the sampler that the test is parametrised with."""
    sampler = SAMPLERS[getattr(request, "param", "UIS")]
    return Sweep(
        name="faults",
        store=tiny_store,
        preset=Preset(detector=DETECTOR, training=TRAINING, resources=RESOURCES, seeds=1),
        samplers=[sampler],
        seeds=1,
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        experiment="faults",
        out=tmp_path,
    )


def config_of(sweep: Sweep, sampler: str) -> RunConfig:
    return replace(tiny_run(sampler), training=sweep.preset.training, holdout=sweep.preset.holdout)


@pytest.fixture(scope="session")
def undisturbed(tiny_store, tmp_path_factory):
    """Metrics of the run that nothing happened to, by sampler; iteration → value per metric."""
    made: dict[str, pd.DataFrame] = {}

    def table(sampler: str) -> pd.DataFrame:
        if sampler not in made:
            out = tmp_path_factory.mktemp("undisturbed") / "run"
            config = replace(tiny_run(sampler), training=TRAINING)
            run_here(config, tiny_store, out)
            made[sampler] = pd.read_csv(out / "metrics.csv", index_col="iteration")
        return made[sampler]

    return table


def assert_recorded(uri: str, experiment: str, expected: dict[str, pd.DataFrame]) -> None:
    """MLflow has one finished run per trial, and each with every point of the undisturbed run once, to the last bit."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (parent,) = (run for run in runs if "isod.sweep" in run.data.tags)
    children = {run.data.params["sampler"]: run for run in runs if run is not parent}
    assert len(children) == len(runs) - 1
    assert children.keys() == expected.keys()
    assert {run.info.status for run in runs} == {"FINISHED"}
    for sampler, table in expected.items():
        assert_points(client, children[sampler], table)
        artifacts = client.list_artifacts(children[sampler].info.run_id)
        assert {item.path for item in artifacts} == {"examples.parquet", "model"}


def assert_points(client: MlflowClient, run: Run, expected: pd.DataFrame) -> None:
    """An MLflow run has every point of a table once, to the last bit, and no other."""
    for name in expected.columns.difference(UNTIMED):
        points = client.get_metric_history(run.info.run_id, name) if name in run.data.metrics else []
        assert [(p.step, p.value) for p in sorted(points, key=lambda p: p.step)] == [
            (step, value) for step, value in expected[name].dropna().items()
        ], name


@pytest.fixture
def server(tmp_path):
    with MlflowServer(f"sqlite:///{tmp_path}/server.db", tmp_path) as made:
        yield made
