"""``isod train --mlflow``: one run in MLflow as a sweep's child, but without a parent."""

import json
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from isod.cli.main import main
from isod.tracking.run_reader import read_run
from isod.training.loop import train as train_loop

SMALL = ["--preset", "demo", "--iterations", "6", "--batch-size", "8", "--width", "0.125", "--validate-every", "2",
         "--device", "cpu"]  # fmt: skip


@pytest.fixture
def train(tiny_store, tmp_path, monkeypatch):
    """Runs `isod train --mlflow` in an empty folder and gives its exit code."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return lambda *options: main(["train", tiny_store, "--out", "run", "--mlflow", *SMALL, *options])


def runs_of(uri, experiment="train-demo", view=ViewType.ACTIVE_ONLY):
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id], run_view_type=view)


def curve(client, run, metric="mAP"):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def test_a_run_is_recorded_as_a_child_without_a_parent(train, tiny_store, tmp_path, capsys):
    assert train("--system-metrics", "--seed", "3") == 0
    uri = f"sqlite:///{tmp_path}/out/mlflow.db"
    client, (run,) = runs_of(uri)
    assert (run.info.run_name, run.info.status) == ("UIS-seed3", "FINISHED")
    assert not {"mlflow.parentRunId", "isod.sweep", "isod.kind"} & run.data.tags.keys()
    assert {"isod.commit", "isod.device", "isod.machine", "mlflow.user"} <= run.data.tags.keys()
    assert run.data.tags["isod.demo"] == "true"
    assert (run.data.params["sampler"], run.data.params["seed"], run.data.params["store"]) == ("UIS", "3", tiny_store)
    assert run.data.params["training.iterations"] == "6"
    table = pd.read_csv(tmp_path / "run/metrics.csv", index_col="iteration")
    assert curve(client, run) == list(table["mAP"].items())
    assert [step for step, _ in curve(client, run, "system/cpu_utilization_percentage")] == [2, 4, 6]
    memory = curve(client, run, "system/system_memory_usage_percentage")
    assert all(0 < value < 100 for _, value in memory)
    assert not [name for name in table.columns if name.startswith("system/")]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == [
        "config.json", "examples.parquet", "model",
    ]  # fmt: skip
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "demo"
    assert read_run(uri, "UIS-seed3", tmp_path / "read").model is not None
    capsys.readouterr()
    assert main(["results", "--tracking-uri", uri]) == 2  # it is no sweep
    assert "has no sweep yet" in capsys.readouterr().err

    assert train("--system-metrics", "--seed", "3", "--resume") == 0  # finished: nothing is written again
    _, (again,) = runs_of(uri)
    assert again.info.end_time == run.info.end_time
    assert train("--seed", "3") == 2  # the folder has a run: MLflow gets none, and the earlier one keeps its address
    assert len(runs_of(uri)[1]) == 1
    assert json.loads((tmp_path / "run/mlflow.json").read_text())["run_id"] == run.info.run_id


def test_an_interrupted_run_is_continued_in_mlflow(train, tmp_path, monkeypatch):
    def interrupted(trainer, stream, validation, report, **rest):
        def reported(metrics, iteration):
            report(metrics, iteration)
            if iteration == 4:
                raise KeyboardInterrupt

        return train_loop(trainer, stream, validation, reported, **rest)

    uri = f"sqlite:///{tmp_path}/own.db"
    options = ["--tracking-uri", uri, "--experiment", "mine", "--set", "resources.checkpoint_share=1"]
    with monkeypatch.context() as patch:
        patch.setattr("isod.training.run.train", interrupted)
        assert train(*options) == 130
    client, (run,) = runs_of(uri, "mine")
    assert (run.info.status, [step for step, _ in curve(client, run)]) == ("KILLED", [2, 4])
    assert train(*options, "--resume") == 0
    client, (again,) = runs_of(uri, "mine")
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    table = pd.read_csv(tmp_path / "run/metrics.csv", index_col="iteration")
    assert curve(client, again) == list(table["mAP"].items())
    assert not (tmp_path / "out/mlflow.db").exists()


def test_a_run_that_mlflow_lacks_is_delivered_by_resume(train, tmp_path, monkeypatch, capsys):
    """Its files cannot be stored at the end: here somebody has deleted the run."""
    uri = f"sqlite:///{tmp_path}/own.db"

    def deleted(trainer, stream, validation, report, **rest):
        client, (run,) = runs_of(uri)
        client.delete_run(run.info.run_id)
        return train_loop(trainer, stream, validation, report, **rest)

    monkeypatch.setattr("isod.tracking.run_writer.PATIENCE", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr("isod.training.run.train", deleted)
        assert train("--tracking-uri", uri) == 1
    error = capsys.readouterr().err
    assert "messages did not reach MLflow" in error
    assert "Current state is deleted: restore it in MLflow): repeat the command with --resume" in error
    assert train("--tracking-uri", uri, "--resume") == 0
    client, (run,) = runs_of(uri)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in curve(client, run)] == [2, 4, 6]


def test_a_run_that_fails_says_why_and_one_that_is_rejected_leaves_none(train, tmp_path, capsys):
    assert train("--lr", "1e30", "--set", "training.warmup=0") == 1
    uri = f"sqlite:///{tmp_path}/out/mlflow.db"
    _, (run,) = runs_of(uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["isod.error"].startswith("loss is ")
    assert Path("run").is_dir()
    assert train("--batch-size", "65", "--out", "other") == 2  # of 64 examples
    assert len(runs_of(uri)[1]) == 1
    assert "batch_size must not exceed the 64 training examples" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--system-metrics"], ["--experiment", "x"], ["--tracking-uri", "sqlite:///x"]])
def test_options_of_mlflow_need_it(tiny_store, tmp_path, capsys, option):
    assert main(["train", tiny_store, "--out", str(tmp_path / "run"), *option]) == 2
    assert f"{option[0]} is of a run in MLflow: add --mlflow, or leave it out" in capsys.readouterr().err
