"""An MLflow store of each test's own; a module that wants one for all of its tests has a fixture of that name."""

import pytest

from isod.tracking.client import Experiment
from tests.tracking.mlflow_store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def experiment(store):
    return Experiment(store.uri, store.client, store.experiment_id)
