"""What somebody does to an MLflow store while isod uses it: one sentence each, and nothing is lost (docs/mlflow.md)."""

import shutil
import sqlite3
import subprocess

import pytest
from mlflow.entities import ViewType

from isod.cli.main import main
from isod.errors import InputError
from isod.tracking.client import Experiment, children_of, open_experiment, open_for_reading
from isod.tracking.sweep_reader import load_runs
from isod.tracking.sweep_writer import SweepWriter, begin_sweep, resume_sweep
from isod.training.folder import RunFolder
from tests.training.tiny_run import tiny_run

NAMES = ("UIS-seed0", "UIS-seed1")
SETTINGS = {"store": "/s"}


@pytest.fixture
def folder(tmp_path):
    """A run's results."""
    made = tmp_path / "run"
    (made / "model").mkdir(parents=True)
    for file in ("examples.parquet", "model/model.json"):
        (made / file).write_text("x")
    return made


def config_of(name):
    return tiny_run(seed=int(name[-1]))


def write(experiment, record, folder, names=NAMES, between=lambda: None, patience=0.5):
    """Two runs with two validations each; something happens between them. Returns what was not delivered."""
    writer = SweepWriter(experiment, record, params=SETTINGS, tags={})
    for name in names:
        writer.trial_started(name, config_of(name))
        writer.trial_reported(name, [(6, {"mAP": 0.25})], "")
    writer._deliveries.put(None, between)
    for name in names:
        writer.trial_reported(name, [(6, {"mAP": 0.25}), (12, {"mAP": 0.5})], "")
        writer.trial_finished(name, RunFolder(folder))
    return writer.close("FINISHED", patience=patience)


def assert_complete(experiment, parent):
    """Both runs are finished, with both points each and their files."""
    runs = {run.info.run_name: run for run in children_of(experiment.client, experiment.id, parent)}
    assert sorted(runs) == list(NAMES)
    for run in runs.values():
        assert run.info.status == "FINISHED"
        points = experiment.client.get_metric_history(run.info.run_id, "mAP")
        assert [(point.step, point.value) for point in points] == [(6, 0.25), (12, 0.5)]
        assert [file.path for file in experiment.client.list_artifacts(run.info.run_id)] == [
            "examples.parquet", "model",
        ]  # fmt: skip
    assert experiment.client.get_run(parent).info.status == "FINISHED"


def resumed(experiment, folder):
    """What --resume delivers."""
    record = resume_sweep(experiment, "grid", SETTINGS, {}, {name: config_of(name) for name in NAMES})
    return write(experiment, record, folder, [name for name in NAMES if name not in record.finished])


def test_a_deleted_experiment_is_named_before_a_sweep_starts(store, tmp_path):
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(InputError, match=r"^\S+ has a deleted experiment 'grid': restore it, or choose another name$"):
        open_experiment(store.uri, "grid", tmp_path.as_uri())
    with pytest.raises(InputError, match="has no experiment 'grid'; it has: Default"):
        load_runs(store.uri, "grid")


def test_an_experiment_that_is_deleted_during_a_sweep(store, experiment, folder, caplog):
    record = begin_sweep(experiment, "grid", SETTINGS, {})
    undelivered = write(experiment, record, folder, between=lambda: store.client.delete_experiment(store.experiment_id))
    assert "messages did not reach MLflow (The run " in undelivered
    assert undelivered.endswith("must be in the 'active' state. Current state is deleted: restore it in MLflow)")
    assert len(caplog.messages) <= 3  # one for each run and the parent, not one for each attempt
    store.client.restore_experiment(store.experiment_id)
    assert resumed(experiment, folder) == ""
    assert_complete(experiment, record.parent_run_id)


@pytest.mark.parametrize("restored", [True, False])
def test_a_run_that_is_deleted_while_it_trains(store, experiment, folder, restored):
    """The other run gets everything at once; the deleted one when it is restored, or else as a new run."""
    record = begin_sweep(experiment, "grid", SETTINGS, {})

    def delete():
        store.client.delete_run(record.runs["UIS-seed0"])

    undelivered = write(experiment, record, folder, between=delete)
    assert undelivered.endswith("Current state is deleted: restore it in MLflow)")
    (left,) = children_of(store.client, store.experiment_id, record.parent_run_id)
    assert (left.info.run_name, left.info.status) == ("UIS-seed1", "FINISHED")
    if restored:
        store.client.restore_run(record.runs["UIS-seed0"])
    assert resumed(experiment, folder) == ""
    assert_complete(experiment, record.parent_run_id)
    every = store.client.search_runs([store.experiment_id], run_view_type=ViewType.ALL)
    assert len(every) == (3 if restored else 4)


@pytest.mark.parametrize("revision", ["451aebb31d03", "of_a_later_one"])
def test_a_database_of_another_version_of_mlflow(store, tmp_path, capsys, revision):
    """MLflow itself would bring the older one, which lacks a table, up to date."""
    database = tmp_path / "another.db"
    shutil.copy(tmp_path / "mlflow.db", database)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
        if revision == "451aebb31d03":
            connection.execute("DROP TABLE logged_model_tags")
    connection.close()
    before = database.read_bytes()
    uri = f"sqlite:///{database}"
    sentence = f"the MLflow store {uri} was written by another version of MLflow: install that one, or back "
    for opens in (lambda: open_experiment(uri, "new", tmp_path.as_uri()), lambda: load_runs(uri)):
        with pytest.raises(InputError, match=f"^{sentence}") as rejected:
            opens()
        assert str(rejected.value).endswith(f"run `mlflow db upgrade {uri}`")
    assert main(["results", "--tracking-uri", uri]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert database.read_bytes() == before


def test_an_artifact_root_that_becomes_read_only(store, small_disk, tmp_path):
    """At the start it is rejected; later the metrics arrive, and the files after --resume."""
    disk, _ = small_disk

    def mount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    for file in ("examples.parquet", "model/model.json"):
        (folder / file).write_text("x")
    place = store.client.create_experiment("on a disk", disk.as_uri())
    experiment = Experiment(store.uri, store.client, place)
    mount("ro")
    with pytest.raises(InputError, match=r"^MLflow cannot store files at \S+ \(.*Read-only file system.*\): give it"):
        begin_sweep(experiment, "grid", SETTINGS, {})
    assert not store.client.search_runs([place])
    mount("rw")
    record = begin_sweep(experiment, "grid", SETTINGS, {})
    undelivered = write(experiment, record, folder, between=lambda: mount("ro"))
    assert "messages did not reach MLflow (" in undelivered
    assert "Read-only file system" in undelivered
    for run in children_of(store.client, place, record.parent_run_id):
        assert len(store.client.get_metric_history(run.info.run_id, "mAP")) == 2
    mount("rw")
    assert resumed(experiment, folder) == ""
    assert_complete(experiment, record.parent_run_id)


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("жирафы / 🦒 <b>'\"`%", True), ("x" * 500, True), ("x" * 501, False)],
    ids=["any characters", "500 characters", "501 characters"],
)
def test_a_name_of_an_experiment(tmp_path, name, accepted):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    if accepted:
        experiment = open_experiment(uri, name, (tmp_path / "artifacts").as_uri())
        assert open_for_reading(uri).get_experiment(experiment.id).name == name
    else:
        with pytest.raises(
            InputError, match=r"^the MLflow store \S+ cannot be used: 'name' exceeds the maximum length"
        ):
            open_experiment(uri, name, (tmp_path / "artifacts").as_uri())
