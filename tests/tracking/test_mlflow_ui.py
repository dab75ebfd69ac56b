"""What a person sees in MLflow's own UI: a real server, a real browser."""

import html
import re

import pytest

from isod.data.store.split import CropStore
from isod.results.command import results_command
from isod.tracking.dataset import store_input
from isod.tracking.published import publish_results, runs_page
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


@pytest.fixture(scope="module")
def parent(store):
    """Run id of the sweep."""
    (run,) = store.client.search_runs([store.experiment_id], filter_string="tags.`isod.sweep` != ''")
    return run.info.run_id


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
def test_the_note_leads_to_the_curves_of_two_samplers_in_one_plot(store, server, parent):
    page = page_with(f"{server}/#/experiments/{store.experiment_id}/runs/{parent}", "mAP of all runs")
    (link,) = re.findall(r'<a [^>]*href="([^"]*)"[^>]*>mAP of all runs', page)
    dom = page_with(f"{server}/{html.unescape(link)}", "UIS-seed0", "baseline-seed0")
    assert dom.count("scatterlayer") >= 1


@needs_chromium
def test_the_address_of_the_runs_opens_mlflows_pages_for_training(store, server, parent):
    """MLflow's own address of an experiment opens those for language models."""
    page_with(server + runs_page(store.uri, parent), "thesis_grid", "<strong>3</strong> matching runs")


@pytest.mark.parametrize(("rows", "kept"), [(1, ["mAP of all runs", "row"]), (990, ["row"]), (1100, [])])
def test_a_note_is_as_long_as_mlflow_takes(tmp_path, rows, kept):
    """8000 characters; what does not fit is among the artifacts."""
    store, report = Store(tmp_path), tmp_path / "report"
    report.mkdir()
    parent = store.sweep()
    store.run(parent, "UIS", 0, grid=[100])
    assert publish_results(store.uri, parent, report, "row\nrow\n" * rows) == ""
    note = store.client.get_run(parent).data.tags["mlflow.note.content"]
    assert [word for word in ("mAP of all runs", "row") if word in note] == kept
    assert note.endswith("The report is among the artifacts, in report.")


@needs_chromium
def test_the_page_of_a_sweep_has_its_table_its_dataset_and_its_report(store, server, parent, tiny_store):
    page = f"{server}/#/experiments/{store.experiment_id}/runs/{parent}"
    dom = page_with(page, "speed-up", "to target", "dataset")
    assert tiny_store.rpartition("/")[2] in dom
    assert "UIS" in dom  # in the table
    files = page_with(f"{page}/artifacts", "report")
    assert "report" in files


def test_a_server_that_is_away_keeps_the_report(parent, tmp_path):
    (tmp_path / "report.html").write_text("page")
    said = publish_results("http://127.0.0.1:9", parent, tmp_path, "table")
    assert said.startswith("the MLflow store http://127.0.0.1:9 cannot be used")
    assert "\n" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
