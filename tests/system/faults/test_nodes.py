"""Several machines: a real Ray cluster of a head and two nodes, of which one is lost in the middle of a trial."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from isod.tracking.search_reader import read_trials
from tests.system.cluster.local import RayHead
from tests.system.faults.conftest import assert_recorded, grid_command, rows_of, until

# What a trial of the sweep reserves: a machine
ONE_CPU = ["resources.decode_workers=1", "resources.cpus_per_worker=0.25", "resources.cpus_per_trial=0.75"]

# Runs alone in a process: the tests' own Ray is another one.
DRIVER = """
import sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from isod.orchestration.cluster import QUIET
from isod.cli import sweep as study
from sweeps.thesis_grid import STUDY
from tests.system.faults.conftest import rows_of, until
import os

os.environ.update(QUIET)
out, arguments = Path(sys.argv[1]), sys.argv[2:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

def lose_one():
    until(lambda: min(rows_of(out, name) for name in ("baseline-seed0", "UIS-seed0")) >= 3)
    print("both trials run at once, one on each node; one node is lost", flush=True)
    cluster.remove_node(nodes[1], allow_graceful=False)

threading.Thread(target=lose_one, daemon=True).start()
sys.exit(study.main(STUDY, None, [*arguments, "--address", cluster.address]))
"""


@pytest.mark.slow  # about two minutes, most of it Ray's, to start three nodes and to notice that one is gone
@pytest.mark.timeout(400)
def test_a_trial_outlives_its_machine(tiny_store, tmp_path, undisturbed):
    arguments = [*grid_command(tiny_store, tmp_path, ["baseline", "UIS"])[2:], "--set", *ONE_CPU]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), *arguments], env=environment | {"PYTHONPATH": root},
        capture_output=True, text=True, timeout=360, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    assert "one node is lost" in done.stdout
    assert "was lost" in done.stdout
    uri, experiment = f"sqlite:///{tmp_path}/mlflow.db", f"thesis-grid-{Path(tiny_store).name}"
    assert_recorded(uri, experiment, {name: undisturbed(name) for name in ("baseline", "UIS")})
    client = MlflowClient(uri)
    (parent,) = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id], "tags.`isod.sweep` LIKE '%'"
    )
    assert "2 CPUs" in parent.data.tags["isod.machine"]


SEARCH = """
sampler = "UIS"
[search]
algorithm = "grid"
scheduler = "none"
[settings]
training.lr = [1e-3, 2e-3]
[detector]
width = 0.125
blocks = [1, 1, 1, 1]
[training]
iterations = 180  # the sweep begins while it runs
validate_every = 6
batch_size = 8
[resources]
decode_workers = 1
cpus_per_worker = 0.25
cpus_per_trial = 0.75
"""


@pytest.mark.slow  # minutes, most of them Ray's, to start three machines and to notice that one is gone
@pytest.mark.timeout(1200)
def test_a_sweep_and_a_search_share_a_cluster_that_grows_from_zero_and_loses_a_machine(
    tiny_store, tmp_path, undisturbed
):
    """As on spot instances: a head without CPUs, and machines that come when there is work and are taken away."""
    sweep, search = tmp_path / "sweep", tmp_path / "search"
    for folder in (sweep, search):
        folder.mkdir()
    (search / "rates.toml").write_text(SEARCH)
    with RayHead(0, tmp_path, machines=3) as head:
        address = ["--address", head.address]
        commands = (
            [*grid_command(tiny_store, sweep, ["baseline", "UIS"]), "--set", *ONE_CPU, *address],
            [sys.executable, "-m", "isod", "search", search / "rates.toml", "--store", tiny_store, "--out", search,
             *address],
        )  # fmt: skip
        assert head.machines() == []
        drivers = []
        for command, folder in zip(commands, (sweep, search), strict=True):
            with (folder / "said").open("w") as said:
                drivers.append(subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=head.environment))
        try:
            until(lambda: rows_of(sweep, "baseline-seed0") >= 3 and rows_of(search, "UIS-001-seed0") >= 3, 400)
            assert all(driver.poll() is None for driver in drivers)
            head.machines()[0].send_signal(signal.SIGKILL)
            end = time.monotonic() + 700
            while any(driver.poll() is None for driver in drivers):
                assert time.monotonic() < end, (sweep / "said").read_text() + (search / "said").read_text()
                time.sleep(1)
        finally:
            for driver in drivers:
                driver.kill()
        said = [(folder / "said").read_text() for folder in (sweep, search)]
        assert [driver.returncode for driver in drivers] == [0, 0], said
        assert any("was lost" in text for text in said), said
        assert any("waiting for the cluster to grow" in text for text in said), said
    expected = {name: undisturbed(name) for name in ("baseline", "UIS")}
    assert_recorded(f"sqlite:///{sweep}/mlflow.db", f"thesis-grid-{Path(tiny_store).name}", expected)
    uri = f"sqlite:///{search}/mlflow.db"
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(experiments, "tags.`isod.search` = 'rates'")
    trials = read_trials(uri, parent.info.run_id)
    assert [trial.state for trial in trials] == ["finished"] * 2
    assert [[step for step, _ in trial.curve] for trial in trials] == [list(range(6, 181, 6))] * 2
