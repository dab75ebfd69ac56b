"""The notebooks run from top to bottom."""

import copy
import re
from pathlib import Path
from xml.etree import ElementTree

import nbclient
import nbformat
import pytest

from tests.results.made_store import scene, write_store
from tests.tracking.full_sweep import EXAMPLES, write_full_sweep
from tests.tracking.mlflow_store import GRID, Store

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
CELL_SECONDS = 240  # a few are enough on a core of its own


@pytest.fixture(scope="module")
def mlflow_runs(tmp_path_factory):
    """A small MLflow store for the notebooks that read one."""
    store = Store(tmp_path_factory.mktemp("mlflow"))
    write_full_sweep(store, ["baseline", "LIS", "UIS"], grid=GRID[::4])
    return store


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A crop store of the examples whose statistics are in that MLflow store."""
    train = [(f"{i:06d}", scene(i), [(1, 4, 4, 20, 20)] * (i % 2)) for i in range(EXAMPLES)]
    return write_store(tmp_path_factory.mktemp("crops") / "store", train, train[:1], ("car",))


class Client(nbclient.NotebookClient):
    """Runs notebooks, and counts how often what they show is updated."""

    updates = 0

    def process_message(self, message, cell, index):
        self.updates += message["msg_type"] == "update_display_data"
        return super().process_message(message, cell, index)


def client(notebook, folder, tmp_path, monkeypatch):
    """What runs the notebook in a folder; neither reads from nor writes to the user's home."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    return Client(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}})


def execute(notebook, folder, tmp_path, monkeypatch):
    return client(notebook, folder, tmp_path, monkeypatch).execute()


def tables_in(html):
    """The text of each cell of each row of each table."""
    tables = ElementTree.fromstring(f"<all>{html}</all>").iter("table")
    return [[["".join(cell.itertext()) for cell in row] for row in table.iter("tr")] for table in tables]


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


RESULTS = ("05_real_traffic", "06_real_tiles")
OTHER_TRAINERS = "other_trainers"  # trains with five libraries, on images that are not part of the repository
KEPT = (*RESULTS, OTHER_TRAINERS)  # with their output
SLOW = ("04_your_own_dataset", OTHER_TRAINERS)
BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in SLOW), id=path.stem) for path in PATHS]
)
def test_a_notebook_runs(path, tmp_path, monkeypatch, mlflow_runs, crops):
    if path.stem == OTHER_TRAINERS:
        for library in ("lightning", "transformers", "accelerate"):
            pytest.importorskip(library, reason=f"needs the extra {library}")
        if not BCCD.is_dir():
            pytest.skip("no shared data beside the repository")
    monkeypatch.setenv("ISOD_BCCD", str(BCCD))
    monkeypatch.setenv("ISOD_STORE", crops)
    monkeypatch.setenv("ISOD_TRACKING_URI", mlflow_runs.uri)
    monkeypatch.setenv("ISOD_EXPERIMENT", mlflow_runs.experiment)
    notebook = execute(nbformat.read(path, as_version=4), tmp_path, tmp_path, monkeypatch)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    shown = [output.data for output in outputs if "data" in output]
    assert [data for data in shown if data["text/plain"].startswith("<Figure") and "image/png" not in data] == []


def test_the_speed_up_table_is_shown_as_html(tmp_path, monkeypatch, mlflow_runs):
    """The last line of a cell, as print gives the text in the next one; of demo data, which both say."""
    where = f"{mlflow_runs.uri!r}, {mlflow_runs.experiment!r}"
    notebook = notebook_of(
        f"from isod.results import format_table, load_runs\nformat_table(load_runs({where}))", "print(_)"
    )
    shown, printed = (cell.outputs for cell in execute(notebook, tmp_path, tmp_path, monkeypatch).cells)
    html, text = shown[-1].data["text/html"], printed[-1].text  # the last: a library may have warned before
    for heading, *rows in tables_in(html):
        assert [row[0] for row in rows] == ["baseline", "LIS", "UIS"]
        for row in rows:
            assert all(cell in text for cell in row)
        assert heading[-1] in ("in time", "s/run")  # all columns
    warning = "DEMO data, synthetic and made by isod: these numbers say nothing about real images."
    assert warning in html
    assert warning in text


SWEEP = """
from isod.cli.sweep import DEFAULT, main
small = "--iterations 6 --batch-size 4 --validate-every 2 --width 0.125 --threads 1 --workers 1 --seeds 1"
main(DEFAULT, None, ["--store", {store!r}, "--samplers", "baseline", "UIS", *small.split()])
"""


@pytest.mark.slow
def test_a_sweep_is_a_table_that_changes_while_it_runs(tmp_path, monkeypatch, tiny_store):
    runs = client(notebook_of(SWEEP.format(store=tiny_store)), tmp_path, tmp_path, monkeypatch)
    (cell,) = runs.execute().cells
    (table,) = [output.data for output in cell.outputs if output.output_type == "display_data"]
    assert runs.updates >= 3
    (rows,) = tables_in(table["text/html"])
    assert [rows[0][0], rows[0][2]] == ["sweep", "2/2 runs"]
    assert {row[0]: row[2] for row in rows[1:]} == {"baseline-seed0": "6/6", "UIS-seed0": "6/6"}
    assert all(row[3].endswith(", done") for row in rows[1:])
    assert "sweep 2/2 runs" in table["text/plain"]
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert "DEMO data" in printed  # below the speed-up table
    assert "\x1b" not in printed
    assert " done: " not in printed  # the table has it
    assert cell.outputs[-1].data["text/plain"] == "0"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_output(path):
    """But for those whose output cannot be made everywhere; they name no folder of the machine that made it."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.id
        if cell.cell_type == "code" and path.stem not in KEPT:
            assert not cell.outputs
            assert cell.execution_count is None
        elif cell.cell_type == "code":
            assert cell.execution_count or not cell.source
            assert not re.search(r"site-packages|[\s\"'=](/\w+){2}|Error", str(texts_of(cell)))


@pytest.mark.parametrize("name", RESULTS)
def test_the_kept_result_is_what_the_kept_runs_give(name, tmp_path, monkeypatch):
    """Every text and table of it, made again from notebooks/data."""
    monkeypatch.delenv("ISOD_TRACKING_URI", raising=False)
    monkeypatch.delenv("ISOD_EXPERIMENT", raising=False)
    kept = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    again = execute(copy.deepcopy(kept), NOTEBOOKS, tmp_path, monkeypatch)
    assert texts(kept) == texts(again)
    assert len(texts(kept)) >= 5
    assert any("image/png" in output.get("data", {}) for cell in kept.cells for output in cell.get("outputs", []))


def test_the_kept_runs_are_small():
    files = [path for path in (NOTEBOOKS / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    tables = {"runs.parquet", "curves.parquet", "real_traffic_labels.csv"}
    assert {path.name for path in files} == tables  # no frames


def texts_of(cell):
    """All that a cell prints and shows but pictures."""
    shown = [output.get("text", "") + str(output.get("traceback", "")) for output in cell.outputs]
    return shown + [v for o in cell.outputs for k, v in o.get("data", {}).items() if k.startswith("text/")]


def texts(notebook):
    """What each cell prints and shows, but for figures and what is meant for a person's log."""
    shown = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])  # one print or two: when they were flushed decides into how many parts
        shown += filter(None, ["".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")])
        for output in outputs:
            if output.output_type == "execute_result" and "image/png" not in output.data:
                shown.append(output.data["text/plain"])
    return shown
