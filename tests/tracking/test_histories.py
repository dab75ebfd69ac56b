"""The curves of many runs, read at once from a database and one by one from a server: both give the same."""

import math

import pandas as pd
import pytest
from mlflow.entities import Metric

from isod.tracking.histories import read_histories
from tests.tracking.mlflow_server import MlflowServer
from tests.tracking.mlflow_store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def metrics(store):
    """Two runs; the first logged one step again later, and a NaN, and its steps out of order."""
    parent = store.sweep()
    first, second = (store.run(parent, "UIS", seed, grid=[100], metrics=lambda *_: {"mAP": 0.5}) for seed in (0, 1))
    store.client.log_batch(
        first,
        [
            Metric("AP/Cat", 0.3, timestamp=30, step=300),
            Metric("AP/Cat", 0.1, timestamp=10, step=100),
            Metric("AP/Cat", 0.9, timestamp=20, step=200),
            Metric("AP/Cat", 0.2, timestamp=40, step=200),
            Metric("AP/Cat", math.nan, timestamp=50, step=400),
        ],
    )
    return {first: ["mAP", "AP/Cat"], second: ["mAP"]}


def test_the_later_value_of_a_step_stays(store, metrics):
    first, second = metrics
    got = read_histories(store.uri, metrics)
    rows = got.groupby(["run_id", "metric"], observed=True)
    of_cat = rows.get_group((first, "AP/Cat"))
    assert of_cat["step"].tolist() == [100, 200, 300, 400]
    assert of_cat["value"].tolist() == pytest.approx([0.1, 0.2, 0.3, math.nan], nan_ok=True)
    assert rows.get_group((second, "mAP"))["value"].tolist() == [0.5]
    assert len(got) == 6
    assert read_histories(store.uri, {}).empty


def test_a_server_gives_the_same(store, metrics):
    with MlflowServer(store.uri, store.folder) as server:
        pd.testing.assert_frame_equal(read_histories(server.uri, metrics), read_histories(store.uri, metrics))
