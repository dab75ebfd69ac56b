"""The README's first command, made small, on a fresh folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from isod.cli import main as cli
from isod.cli import sweep as study
from sweeps.thesis_grid import STUDY

SCRIPT = Path(__file__).parents[2] / "sweeps" / "thesis_grid.py"
pytestmark = pytest.mark.xdist_group("end to end")  # nearly all of it is a process with a Ray of its own
SMALL = ["--demo-frames", "40", "--samplers", "baseline", "UIS", "--seeds", "1", "--iterations", "6",
         "--batch-size", "8", "--validate-every", "3", "--width", "0.125"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fresh")


@pytest.fixture(scope="module")
def printed(folder):
    """What the command prints; Ray, demo data, store, sweep and report are all its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL], cwd=folder, env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_ends_with_the_table_the_report_and_the_command_to_compare(printed, folder):
    assert "DEMO DATA: a synthetic stand-in, not ZOD" in printed
    assert "2 samplers × 1 seeds, 6 iterations each" in printed
    for sampler in ("baseline", "UIS"):
        assert f"{sampler}-seed0 done: mAP 0." in printed
        assert re.search(rf"^\W*{sampler}\b.*\d\.\d", printed, re.MULTILINE)  # its row of the table
    report = Path(re.search(r"^report: (.+)$", printed, re.MULTILINE)[1])
    assert report == folder / "out/report/report.html"
    assert "mAP" in report.read_text()
    assert len(printed.splitlines()) < 60


def test_the_command_to_compare_names_the_store_of_the_runs(printed, folder):
    command = shlex.split(re.search(r"^compare runs: (.+)$", printed, re.MULTILINE)[1])
    assert command[:3] == ["mlflow", "ui", "--backend-store-uri"]
    (uri,) = command[3:]
    assert uri == f"sqlite:///{folder}/out/mlflow.db"
    client = MlflowClient(uri)
    (experiment,) = (item for item in client.search_experiments() if item.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["UIS-seed0", "baseline-seed0", "thesis_grid"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.tags["isod.demo"] == "true" for run in runs)

    results = ["results", "--tracking-uri", uri, "--experiment", experiment.name, "--out", str(folder / "later")]
    assert cli.main(results) == 0
    assert (folder / "later/report.html").exists()


def test_the_demo_data_is_made_once(printed, folder, ray_local, capsys):
    """Also when the second call then fails for another reason."""
    made = (folder / "out/demo-store-40-160x48/store.json").stat().st_mtime_ns
    again = [*SMALL, "--out", str(folder / "out"), "--workers", "50"]
    assert study.main(STUDY, None, again) == 2
    said = capsys.readouterr().out
    assert f"demo data, made earlier: {folder}/out/demo-store-40-160x48" in said
    assert "making" not in said
    assert (folder / "out/demo-store-40-160x48/store.json").stat().st_mtime_ns == made
