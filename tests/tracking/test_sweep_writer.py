"""What a sweep writes into a real MLflow store, trial by trial; without Ray."""

import math
from dataclasses import replace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, RESOURCE_DOES_NOT_EXIST
from mlflow.tracking import MlflowClient

from isod.config.record import flatten
from isod.errors import InputError
from isod.tracking.client import Experiment, children_of
from isod.tracking.logged_model import has_no_logged_models
from isod.tracking.metric_names import class_tags
from isod.tracking.sweep_reader import load_runs
from isod.tracking.sweep_writer import SweepRecord, SweepWriter, begin_sweep, require_same_trial, resume_sweep
from isod.training.folder import RunFolder
from tests.inference.blobs import save_blobs
from tests.tracking.mlflow_server import MlflowServer, OlderServer
from tests.training.tiny_run import tiny_run

NAME = "UIS-seed0"


@pytest.fixture
def write(experiment):
    """Opens a writer for the sweep of a parent run, as after --resume, which knows nothing of earlier ones."""
    return lambda parent: SweepWriter(experiment, SweepRecord(parent), params={"store": "/s"}, tags={"isod.demo": "no"})


def test_a_trial_from_its_start_to_its_files(store, experiment, write, tmp_path):
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "examples.parquet").write_bytes(b"examples")
    (folder / "model" / "model.json").write_bytes(b"model")
    config = tiny_run()
    parent = begin_sweep(experiment, "grid", {"store": "/s"}, {"isod.commit": "abc"}).parent_run_id
    writer = write(parent)
    writer.trial_started(NAME, config)
    writer.trial_reported(NAME, [(6, {"mAP": 0.25, "AP/<b>": 0.5, "AP_large/Animal": math.nan})], "A100")
    writer.trial_started(NAME, config)  # restarted, and reports again what it had reported
    writer.trial_reported(NAME, [(6, {"mAP": 0.75}), (12, {"mAP": 0.5})], "A100")
    writer.trial_finished(NAME, RunFolder(folder))
    assert writer.close("FINISHED", patience=30) == ""
    (run,) = children_of(store.client, store.experiment_id, parent)
    expected = {"sampler": "UIS", "seed": "0", "store": "/s"} | {k: str(v) for k, v in flatten(config).items()}
    del expected["sampler.name"]
    assert run.data.params == expected
    assert run.info.status == "FINISHED"
    points = {
        name: [(point.step, point.value) for point in store.client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert points == {"mAP": [(6, 0.25), (12, 0.5)], "AP/_b_": [(6, 0.5)]}
    assert {k: v for k, v in run.data.tags.items() if k.startswith("isod.")} == {
        "isod.demo": "no",
        "isod.device": "A100",
    }
    assert [file.path for file in store.client.list_artifacts(run.info.run_id)] == ["examples.parquet", "model"]
    whole = store.client.get_run(parent)
    assert (whole.info.status, whole.data.params) == ("FINISHED", {"store": "/s"})
    assert (whole.data.tags["isod.sweep"], whole.data.tags["isod.commit"]) == ("grid", "abc")
    assert [file.path for file in store.client.list_artifacts(parent)] == ["sweep.json"]


@pytest.mark.slow
def test_a_server_without_logged_models_gets_everything_else(store, tmp_path, caplog):
    """A server of before 3.0 answers 404 where LoggedModels are; one line says so, for two trials."""
    (tmp_path / "examples.parquet").write_bytes(b"examples")
    save_blobs(tmp_path / "model")
    with MlflowServer(store.uri, tmp_path) as server, OlderServer(server.uri, "/logged-models") as older:
        experiment = Experiment(
            older.uri, MlflowClient(older.uri), store.client.create_experiment("older", str(tmp_path))
        )
        parent = begin_sweep(experiment, "grid", {"store": "/s"}, {}).parent_run_id
        writer = SweepWriter(experiment, SweepRecord(parent), params={}, tags={})
        for name in (NAME, "UIS-seed1"):
            writer.trial_started(name, tiny_run())
            writer.trial_reported(name, [(6, {"mAP": 0.25})], "")
            writer.trial_finished(name, RunFolder(tmp_path))
        assert writer.close("FINISHED", patience=30) == ""
        for run in children_of(experiment.client, experiment.id, parent):
            assert run.info.status == "FINISHED"
            assert [item.path for item in experiment.client.list_artifacts(run.info.run_id)] == [
                "examples.parquet", "model",
            ]  # fmt: skip
    assert [message for message in caplog.messages if "LoggedModels" in message] == [
        "this MLflow has no LoggedModels (3.0 and later has): each run keeps its folder model alone"
    ]


@pytest.mark.parametrize(
    ("error", "older"),
    [
        (MlflowException("no such address", ENDPOINT_NOT_FOUND), True),
        (NotImplementedError(), True),
        (MlflowException("no such experiment", RESOURCE_DOES_NOT_EXIST), False),
        (ConnectionError(), False),
    ],
)
def test_what_says_that_a_server_has_no_logged_models(error, older):
    assert has_no_logged_models(error) == older


def test_a_trial_that_is_still_open_ends_as_killed(store, write):
    parent = store.sweep()
    writer = write(parent)
    writer.trial_started(NAME, tiny_run())
    assert writer.close("KILLED", patience=30) == ""
    (run,) = children_of(store.client, store.experiment_id, parent)
    assert (run.info.status, store.client.get_run(parent).info.status) == ("KILLED", "KILLED")


def test_a_run_that_was_resumed_on_another_device_has_both(store, write):
    parent = store.sweep()
    for devices in (["A100", "A100"], ["A100", "H200", "A100"]):
        writer = write(parent)
        writer.trial_started(NAME, tiny_run())
        for device in devices:
            writer.trial_reported(NAME, [], device)
        assert writer.close("FINISHED", patience=30) == ""
    (run,) = children_of(store.client, store.experiment_id, parent)
    assert run.data.tags["isod.device"] == "A100; H200"


def test_a_run_that_is_resumed_after_a_failure_loses_the_error(store, write):
    parent, tags = store.sweep(), []
    for fails in (True, False):
        writer = write(parent)
        writer.trial_started(NAME, tiny_run())
        if fails:
            writer.trial_failed(NAME, "the disk was full")
        assert writer.close("FINISHED", patience=30) == ""
        assert writer.failed == ({NAME: "the disk was full"} if fails else {})
        (run,) = children_of(store.client, store.experiment_id, parent)
        tags.append((run.info.status, run.data.tags.get("isod.error")))
    assert tags == [("FAILED", "the disk was full"), ("KILLED", None)]


def test_a_sweep_resumed_at_another_commit_says_so(store, experiment, caplog):
    caplog.set_level("INFO", "isod")
    begun = begin_sweep(experiment, "grid", {"store": "/s"}, {"isod.commit": "abc"})
    resumed = resume_sweep(experiment, "grid", {"store": "/s"}, {"isod.commit": "def"}, {})
    assert resumed == begun
    assert store.client.get_run(begun.parent_run_id).data.tags["isod.resumed"] == "def"
    assert caplog.messages == ["note: this sweep began at commit abc and resumes at def"]
    with pytest.raises(InputError, match=r"'grid' to resume began with other settings \(store was /s and is /t\)"):
        resume_sweep(experiment, "grid", {"store": "/t"}, {}, {})
    with pytest.raises(InputError, match="there is no sweep 'other' to resume"):
        resume_sweep(experiment, "other", {"store": "/s"}, {}, {})


def test_of_several_sweeps_of_one_name_the_right_one_is_resumed(store, experiment, tmp_path):
    """Stages of a study, seeds on two machines, and a quick try in between share a name and an experiment."""

    def begun(*trials, settings=None):
        parent = begin_sweep(experiment, "grid", settings or {"store": "/s"}, {}).parent_run_id
        for trial in trials:
            tags = {"mlflow.parentRunId": parent, "mlflow.runName": trial}
            store.client.create_run(store.experiment_id, tags=tags)
        return parent

    def resumed(*trials, settings=None):
        wanted = {trial: tiny_run() for trial in trials}
        return resume_sweep(
            experiment, "grid", settings or {"store": "/s"}, {}, wanted, runs=str(tmp_path / "runs")
        ).parent_run_id

    first = begun("baseline-seed0", "RFS-seed0")
    second = begun("baseline-seed3", "RFS-seed3")
    third = begun("baseline-seed0", "CAP-seed0")
    quick = begun(settings={"store": "/s", "training.iterations": 100})
    assert resumed("baseline-seed0", "RFS-seed0") == first
    assert resumed("RFS-seed3", "RFS-seed4") == second
    assert resumed("baseline-seed0") == third  # the newest of two that have it
    assert resumed("LIS-seed0") == third
    assert resumed(settings={"store": "/s", "training.iterations": 100}) == quick
    (tmp_path / "runs" / first).mkdir(parents=True)
    assert resumed("baseline-seed0") == resumed("LIS-seed0") == first  # the others' folders are on another machine


def test_a_store_that_cannot_keep_files_is_refused_before_a_trial_starts(store, experiment, tmp_path):
    (tmp_path / "a file").touch()
    elsewhere = store.client.create_experiment("nowhere", (tmp_path / "a file" / "artifacts").as_uri())
    with pytest.raises(InputError, match=r"^MLflow cannot store files at \S+ \(.*Not a directory.*\): give it"):
        begin_sweep(replace(experiment, id=elsewhere), "grid", {"store": "/s"}, {})
    assert not store.client.search_runs([elsewhere])  # --resume would take it for the sweep that began last


def test_a_trial_that_began_with_other_settings_is_not_resumed():
    """Its parameters cannot be changed in MLflow, and its points would be those of two runs."""
    config = tiny_run()
    params = {name: str(value) for name, value in flatten(config).items() if name != "sampler.name"}
    before = {"sampler": config.sampler.name, "seed": "0", "store": "/s", **params}
    require_same_trial(NAME, before, config)
    require_same_trial(NAME, {}, config)  # it ended at once
    other = replace(config, sampler=replace(config.sampler, floor=0.25))
    with pytest.raises(InputError, match=r"UIS-seed0 .* other settings \(sampler.floor was 0.0 and is 0.25\)"):
        require_same_trial(NAME, before, other)


def run_with_classes(store, experiment, tmp_path, names):
    """Write one trial with a validation of these classes, as a sweep does; returns what reads it, and its files."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    for file in ("examples.parquet", "model/model.json", "metrics.csv"):
        (folder / file).write_text("x")
    parent = begin_sweep(experiment, "grid", {"store": "/s"}, class_tags(names)).parent_run_id
    writer = SweepWriter(experiment, SweepRecord(parent), params={"store": "/s"}, tags={}, class_names=names)
    writer.trial_started(NAME, tiny_run())
    metrics = {"mAP": 0.5}
    for number, name in enumerate(names, 1):
        metrics |= {f"AP/{name}": 1 / number, f"GT/{name}": float(number)}
    writer.trial_reported(NAME, [(6, metrics)], "A100")
    writer.trial_finished(NAME, RunFolder(folder))
    assert writer.close("FINISHED", patience=30) == ""
    (run,) = children_of(store.client, store.experiment_id, parent)
    files = [file.path for file in store.client.list_artifacts(run.info.run_id)]
    return load_runs(experiment.tracking_uri, store.client.get_experiment(store.experiment_id).name), files


def test_classes_of_any_name_come_back_from_mlflow(store, experiment, tmp_path):
    names = ["行人", "пешеход", "🚗", "🚌", "a/b", "a<b", "x" * 300]
    runs, files = run_with_classes(store, experiment, tmp_path, names)
    assert runs.class_names == names[::-1]
    assert [runs.last(f"AP/{name}") for name in names] == [1 / number for number in range(1, 8)]
    assert "metrics.csv" not in files


def test_of_1203_classes_mlflow_gets_the_extremes_and_a_table(store, experiment, tmp_path):
    names = [f"class {number}" for number in range(1, 1204)]
    runs, files = run_with_classes(store, experiment, tmp_path, names)
    assert runs.class_names == [f"class {number}" for number in (*range(1203, 1193, -1), *range(10, 0, -1))]
    assert runs.last("mAP") == 0.5
    assert "metrics.csv" in files
