"""`ray job submit` on a real Ray head with its dashboard: a sweep, and one that `ray job stop` ends."""

import json
import os
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray.job_submission import JobStatus

from tests.system.cluster.local import ENDS, RayHead
from tests.system.faults.conftest import TRAINING, assert_recorded, grid_command, rows_of, undisturbed, until

ROOT = Path(__file__).parents[2]
CPUS = (os.cpu_count() or 1) + 1  # which a Ray of the sweep's own would not have

__all__ = ["undisturbed"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(560)]  # a minute each, most of it Ray's


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with RayHead(CPUS, tmp_path_factory.mktemp("head")) as made:
        yield made


def parent_of(out, experiment):
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    (parent,) = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id], "tags.`isod.sweep` LIKE '%'"
    )
    return parent


def test_the_submitted_sweep_of_the_docs_runs_on_the_cluster_that_took_it(head, tmp_path):
    page = (ROOT / "docs" / "cluster.md").read_text()
    (line,) = re.findall(r"^ray job submit --address http://127\.0\.0\.1:8265 .*--demo-frames.*$", page, re.MULTILINE)
    line = line.replace("http://127.0.0.1:8265", f"{head.jobs} --submission-id sweep")
    small = "--demo-frames 40 --iterations 6 --batch-size 4 --validate-every 3 --width 0.125 --workers 1"
    printed = head.paste(f"{line} {small}", tmp_path)
    assert head.status("sweep") == JobStatus.SUCCEEDED
    assert "compare runs:" in printed
    out = tmp_path / "out"
    (store,) = out.glob("demo-store-*")
    assert f"{CPUS} CPUs" in parent_of(out, f"sweep-{store.name}").data.tags["isod.machine"]
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(f"sweep-{store.name}").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert {run.data.params.get("sampler") for run in runs} == {None, "baseline", "LIS"}


def test_a_stopped_job_ends_its_sweep_and_another_one_resumes_it(head, tiny_store, tmp_path, undisturbed):
    command = grid_command(tiny_store, tmp_path, ["UIS"])
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}})
    head.submit("--no-wait", "--submission-id", "stopped", "--runtime-env-json", patience, "--", *command)
    until(lambda: head.status("stopped") in ENDS or rows_of(tmp_path, "UIS-seed0") >= 3)
    assert head.status("stopped") == JobStatus.RUNNING, head.output("stopped")
    head.stop("stopped")
    until(lambda: head.status("stopped") in ENDS)
    assert head.status("stopped") == JobStatus.STOPPED
    assert "repeat the command with --resume" in head.output("stopped")
    experiment = f"thesis-grid-{Path(tiny_store).name}"
    assert parent_of(tmp_path, experiment).info.status == "KILLED"
    assert 3 <= rows_of(tmp_path, "UIS-seed0") < TRAINING.iterations / TRAINING.validate_every

    head.submit("--submission-id", "resumed", "--", *command, "--resume")
    assert head.status("resumed") == JobStatus.SUCCEEDED
    assert_recorded(f"sqlite:///{tmp_path}/mlflow.db", experiment, {"UIS": undisturbed("UIS")})
