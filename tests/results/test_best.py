"""The best model of a sweep, and the commands that predict with it."""

import shlex

import pytest

from isod.results.statistics.best import best_model, predict_commands
from isod.tracking.sweep_reader import load_runs
from tests.tracking.mlflow_store import Store


@pytest.fixture
def store(tmp_path):
    """Three runs: the one that was best in between is not the one that ends best."""
    (tmp_path / "a folder").mkdir()
    store = Store(tmp_path / "a folder")
    parent = store.sweep()
    values = {("UIS", 0): (0.9, 0.2), ("UIS", 1): (0.1, 0.4), ("LIS", 0): (0.3, 0.3)}
    for sampler, seed in values:
        store.run(parent, sampler, seed, grid=(5, 10),
                  metrics=lambda sampler, seed, step: {"mAP": values[sampler, seed][step == 10]})  # fmt: skip
    return store


def test_the_run_that_ends_best(store, tmp_path):
    runs = load_runs(store.uri, "grid")
    best = best_model(runs)
    assert (best.name, best.value) == ("UIS-seed1", 0.4)
    assert runs.runs.loc[best.run_id, "seed"] == 1
    assert best.sentence == "best model: UIS-seed1, mAP 0.400 at the end"


def test_the_command_names_its_folder_where_there_is_one(store, tmp_path):
    runs = load_runs(store.uri, "grid")
    best = best_model(runs)
    fetch, predict = predict_commands(runs, best)  # the run has logged no model, as if it were elsewhere
    assert f"--run-id {best.run_id}" in fetch
    assert predict == "isod predict best/model IMAGES --out predictions"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    store.client.log_artifacts(best.run_id, str(tmp_path / "model"), "model")
    (command,) = predict_commands(runs, best)
    words = shlex.split(command)
    assert words[:2] == ["isod", "predict"]
    assert words[2].startswith(str(tmp_path / "a folder"))
    assert words[2].endswith("/model")
