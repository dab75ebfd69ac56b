"""A detector that a sweep logged, served by MLflow's own server on loopback, and asked as a client would."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest

from isod.cli.main import main
from isod.data.store.split import CropStore
from isod.tracking.dataset import store_input
from isod.tracking.logged_model import log_detector
from tests.inference.blobs import picture, save_blobs
from tests.tracking.mlflow_store import Store, made_up_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """The store, the run, and the folder of a model that the run logged."""
    store = Store(tmp_path)
    run_id = store.run(store.sweep(), "UIS", 0)
    model = log_detector(
        store.client, store.experiment_id, run_id, save_blobs(tmp_path / "blobs", tiles=[2, 2]), step=40
    )
    return store, run_id, model


LOG = """
import sys
from threading import Thread
from isod.tracking.client import open_experiment, time_limits
from isod.tracking.logged_model import log_detector
uri, run_id, blobs = sys.argv[1:]
opened = open_experiment(uri, "grid", None)
thread = Thread(target=log_detector, args=(opened.client, opened.id, run_id, blobs))
with time_limits():
    thread.start()
    thread.join()
"""


def test_nothing_is_printed(tmp_path):
    """In a process of its own, from a thread, as deliveries are: each trial printed two warnings."""
    store = Store(tmp_path)
    run_id = store.run(store.sweep(), "UIS", 0)
    command = [sys.executable, "-c", LOG, store.uri, run_id, str(save_blobs(tmp_path / "blobs", tiles=[2, 2]))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, done.stderr) == ("", "")
    assert len(store.client.search_logged_models([store.experiment_id])) == 1


def folder_of(store, model):
    return store.client.get_logged_model(model).artifact_location.removeprefix("file://")


def test_it_has_signature_and_example_and_is_logged_once(logged, tmp_path):
    store, run_id, model = logged
    found = store.client.get_logged_model(model)
    assert (found.name, str(found.status), found.source_run_id) == ("detector", "READY", run_id)
    assert [(o.model_id, o.step) for o in store.client.get_run(run_id).outputs.model_outputs] == [(model, 40)]
    assert log_detector(store.client, store.experiment_id, run_id, tmp_path / "blobs") == model
    folder = folder_of(store, model)
    assert not list(Path(folder).rglob("*.pkl"))
    info = mlflow.models.get_model_info(folder)
    assert info.signature.inputs.input_names() == ["image"]
    assert info.signature.outputs.input_names() == ["boxes", "scores", "classes"]
    assert info.saved_input_example_info is not None


def test_its_page_has_what_tells_it_from_others(tmp_path, tiny_store):
    """Sampler, seed, data and last values; the run's curves stay as they are."""
    store = Store(tmp_path)
    run_id = store.run(store.sweep(), "UIS", 3)
    store.client.log_inputs(run_id, [store_input(CropStore.open(tiny_store))])
    curve = store.client.get_metric_history(run_id, "mAP")
    model = log_detector(store.client, store.experiment_id, run_id, save_blobs(tmp_path / "blobs"), step=1200)
    found = store.client.get_logged_model(model)
    assert found.params == {"sampler": "UIS", "seed": "3", "store": "/data/store"}
    sizes = {
        f"mAP{size}": made_up_metrics("UIS", 3, 1200)[f"mAP{size}"] for size in ("", "_small", "_medium", "_large")
    }
    assert {metric.key: (metric.value, metric.step) for metric in found.metrics} == {
        name: (value, 1200) for name, value in sizes.items()
    }
    assert {metric.dataset_name for metric in found.metrics} == {tiny_store.rpartition("/")[2]}
    again = store.client.get_metric_history(run_id, "mAP")
    assert [(point.step, point.value) for point in again] == [(point.step, point.value) for point in curve]


def test_it_gives_what_isod_predict_gives(logged, tmp_path):
    store, _, model = logged
    paths = [picture(tmp_path / f"images/{n}.png", (60, 40), (1, 20, n, 40, 30), (2, 0, 0, 9, 9)) for n in range(3)]
    assert main(["predict", str(tmp_path / "blobs"), str(tmp_path / "images"), "--out", str(tmp_path / "out"),
                 "--save-json", "--no-pictures"]) == 0  # fmt: skip
    expected = json.loads((tmp_path / "out/predictions.json").read_text())
    served = mlflow.pyfunc.load_model(folder_of(store, model))
    rows = served.predict(pd.DataFrame({"image": [path.read_bytes() for path in paths]}))
    got = [
        (number, {"red": 1, "green": 2}[name], [x0, y0, x1 - x0, y1 - y0], score)
        for number, row in enumerate(rows.itertuples(), 1)
        for (x0, y0, x1, y1), score, name in zip(row.boxes, row.scores, row.classes, strict=True)
    ]
    assert got == [(p["image_id"], p["category_id"], p["bbox"], p["score"]) for p in expected]
    with pytest.raises(ValueError, match="image 1: it does not decode"):
        served.predict(pd.DataFrame({"image": [b"no image"]}))


@pytest.mark.slow
def test_a_server_on_loopback_answers_a_post(logged, tmp_path):
    store, _, model = logged
    path = picture(tmp_path / "a.png", (60, 40), (1, 20, 5, 40, 30))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", folder_of(store, model), "-h", "127.0.0.1",
               "-p", str(port), "--env-manager", "local"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    body = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(path.read_bytes()).decode()]]}}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        for _ in range(120):
            try:
                answer = json.load(urllib.request.urlopen(request, timeout=30))
                break
            except urllib.error.HTTPError as error:
                pytest.fail(error.read().decode())
            except urllib.error.URLError:  # it has not begun to listen
                if server.poll() is not None:
                    pytest.fail((tmp_path / "server.log").read_text())
                time.sleep(1)
        assert answer == {"predictions": [{"boxes": [[20, 5, 40, 30]], "scores": [0.875], "classes": ["red"]}]}
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)
