"""What a person sees in MLflow's own UI: a real server, a real browser."""

import json
from urllib.parse import quote

import pytest

from isod.data.store.split import CropStore
from isod.results.command import results_command
from isod.tracking.dataset import store_input
from isod.tracking.published import publish_results
from tests.results.browser import dump_dom, needs_chromium
from tests.tracking.full_sweep import write_full_sweep
from tests.tracking.mlflow_server import MlflowServer
from tests.tracking.mlflow_store import GRID, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_store):
    store = Store(tmp_path_factory.mktemp("mlflow"))
    parent = write_full_sweep(store, ["baseline", "UIS"], seeds=1, grid=GRID[::4])
    _, table = results_command(store.uri, None, store.folder / "report")
    assert publish_results(store.uri, parent, store.folder / "report", table) == ""
    store.client.log_inputs(parent, [store_input(CropStore.open(tiny_store))])
    return store


@pytest.fixture(scope="module")
def server(store):
    """Address of ``mlflow server`` on a free port of the loopback."""
    with MlflowServer(store.uri, store.folder) as server:
        yield server.uri


def page_with(url, *words):
    """The page once it shows all these words: its scripts ask the server for more while they run."""
    for milliseconds in (5_000, 15_000, 30_000):
        dom = dump_dom(url, milliseconds=milliseconds)
        if all(word in dom for word in words):
            return dom
    raise AssertionError(f"{[word for word in words if word not in dom]} not in {url}")


@needs_chromium
def test_a_sweep_is_one_row_that_opens(store, server):
    """Children nest under their parent: of the three runs that match, the list shows the sweep until it is opened."""
    dom = page_with(
        f"{server}/#/experiments/{store.experiment_id}/runs", "thesis_grid", "<strong>3</strong> matching runs"
    )
    assert "UIS-seed0" not in dom
    assert "baseline-seed0" not in dom


@needs_chromium
def test_curves_of_two_samplers_lie_in_one_plot(store, server):
    runs = store.client.search_runs([store.experiment_id], filter_string="tags.mlflow.parentRunId LIKE '%'")
    query = {
        "runs": [run.info.run_id for run in runs],
        "metric": "mAP",
        "experiments": [store.experiment_id],
        "plot_metric_keys": ["mAP"],
        "plot_layout": {},
    }
    encoded = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in query.items())
    dom = page_with(f"{server}/#/metric?{encoded}&x_axis=step", "UIS-seed0", "baseline-seed0")
    assert dom.count("scatterlayer") >= 1


@needs_chromium
def test_the_page_of_a_sweep_has_its_table_its_dataset_and_its_report(store, server, tiny_store):
    (parent,) = store.client.search_runs([store.experiment_id], filter_string="tags.`isod.sweep` != ''")
    page = f"{server}/#/experiments/{store.experiment_id}/runs/{parent.info.run_id}"
    dom = page_with(page, "speed-up", "not reached" if "not reached" in str(parent.data.tags) else "+", "dataset")
    assert tiny_store.rpartition("/")[2] in dom
    assert "UIS" in dom  # in the table
    files = page_with(f"{page}/artifacts", "report")
    assert "report" in files


def test_a_server_that_is_away_keeps_the_report(store, tmp_path):
    (parent,) = store.client.search_runs([store.experiment_id], filter_string="tags.`isod.sweep` != ''")
    (tmp_path / "report.html").write_text("page")
    said = publish_results("http://127.0.0.1:9", parent.info.run_id, tmp_path, "table")
    assert said.startswith("the MLflow store http://127.0.0.1:9 cannot be used")
    assert "\n" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
