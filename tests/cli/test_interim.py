"""The report of a sweep that still runs, made by a real process from a real MLflow store."""

import logging
import time

import pytest

from isod.cli.interim import InterimReport
from tests.tracking.full_sweep import write_full_sweep
from tests.tracking.mlflow_store import GRID, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("mlflow"))
    store.parent = write_full_sweep(store, ["baseline", "UIS"], grid=GRID[::5])
    return store


def test_the_first_comparison_is_logged_once_and_the_report_is_there(store, tmp_path, caplog):
    page = tmp_path / "report" / "report.html"
    interim = InterimReport(["--tracking-uri", store.uri, "--experiment", store.experiment, "--out", str(page.parent)])
    with caplog.at_level(logging.INFO, "isod"):
        interim.run_finished(store.parent, "UIS")
        interim.run_finished(store.parent, "UIS")  # another seed of it; there is nothing to compare it with
        assert interim._process is None
        interim.run_finished(store.parent, "baseline")
        deadline = time.monotonic() + 300
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.1)
    assert caplog.messages[0].startswith("the first comparison; the report is written anew as runs finish\n\nsampler ")
    assert "\nUIS " in caplog.messages[0]
    assert caplog.messages[0].endswith(f"\nreport: {page}")
    assert page.exists()
    first = interim._process
    interim.run_finished(store.parent, "UIS")  # too early
    assert interim._process is first
    interim._due = 0.0
    interim.run_finished(store.parent, "UIS")
    second = interim._process
    interim.close()
    assert second is not first
    assert second.returncode is not None
    assert len(caplog.messages) == 1
