"""The notebooks run from top to bottom."""

import copy
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.tracking.full_sweep import write_full_sweep
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


def execute(notebook, folder, tmp_path, monkeypatch):
    """The notebook, run in a folder; neither reads from nor writes to the user's home."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


RESULTS = ("05_real_traffic", "06_real_tiles")
OTHER_TRAINERS = "other_trainers"  # trains with five libraries, on images that are not part of the repository
KEPT = (*RESULTS, OTHER_TRAINERS)  # with their output
SLOW = ("04_your_own_dataset", OTHER_TRAINERS)
BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in SLOW), id=path.stem) for path in PATHS]
)
def test_a_notebook_runs(path, tmp_path, monkeypatch, mlflow_runs):
    if path.stem == OTHER_TRAINERS:
        for library in ("lightning", "transformers", "accelerate"):
            pytest.importorskip(library, reason=f"needs the extra {library}")
        if not BCCD.is_dir():
            pytest.skip("no shared data beside the repository")
    monkeypatch.setenv("ISOD_BCCD", str(BCCD))
    monkeypatch.setenv("ISOD_TRACKING_URI", mlflow_runs.uri)
    monkeypatch.setenv("ISOD_EXPERIMENT", mlflow_runs.experiment)
    notebook = execute(nbformat.read(path, as_version=4), tmp_path, tmp_path, monkeypatch)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    shown = [output.data for output in outputs if "data" in output]
    assert [data for data in shown if data["text/plain"].startswith("<Figure") and "image/png" not in data] == []


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
