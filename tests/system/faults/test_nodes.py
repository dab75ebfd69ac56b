"""Several machines: a real Ray cluster of a head and two nodes, of which one is lost in the middle of a trial."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.system.faults.conftest import TRAINING, assert_recorded
from tests.training.tiny_run import DETECTOR

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
    arguments = ["--store", tiny_store, "--preset", "demo", "--samplers", "baseline", "UIS", "--seeds", "1",
                 "--width", str(DETECTOR.width), "--iterations", str(TRAINING.iterations),
                 "--batch-size", str(TRAINING.batch_size), "--validate-every", str(TRAINING.validate_every),
                 "--lr", str(TRAINING.lr), "--lag", str(TRAINING.lag), "--out", str(tmp_path)]  # fmt: skip
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
