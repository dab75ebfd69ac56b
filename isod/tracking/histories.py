"""The MLflow store: how the results reach it, and what they say when they cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlMetric
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from isod.errors import InputError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # what MLflow stores runs in, beside a server's
REQUESTS = 8  # at a time, to a server


def connect(tracking_uri: str) -> MlflowClient:
    """A client that creates nothing: MLflow itself would make an empty database of a mistyped path."""
    if tracking_uri.startswith("sqlite:"):
        try:
            path = make_url(tracking_uri).database
        except ArgumentError:
            path = None
        if not path or not Path(path).is_file():
            raise InputError(f"there is no MLflow database at {tracking_uri}")
    elif "://" not in tracking_uri:
        raise InputError(
            f"a tracking URI starts with sqlite:/// or http://, got {tracking_uri!r}"
            + (
                f"; for the database in that folder: sqlite:///{tracking_uri.rstrip('/')}/mlflow.db"
                * bool(tracking_uri)
            )
        )
    with explained(tracking_uri):
        return MlflowClient(tracking_uri)


@contextmanager
def explained(tracking_uri: str) -> Iterator[None]:
    """Turn MLflow's and the database's errors into one sentence, and give an absent server seconds, not minutes."""
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one per file, on standard error
    }
    ours = {k: v for k, v in settings.items() if k not in os.environ}
    os.environ.update(ours)
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        verb = "reach" if tracking_uri.startswith("http") else "read"
        raise InputError(f"cannot {verb} the MLflow store {tracking_uri}: {_shortened(reason)}") from error
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _shortened(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read_histories(tracking_uri: str, metrics: Mapping[str, list[str]]) -> pd.DataFrame:
    """Every logged value of many runs.

    MLflow's client asks for one metric of one run at a time, and builds an object for every value: half a minute of
    CPU for the 840 thousand values of a thesis's grid. So a database is read through MLflow's own table model, in
    seconds; a server only has the client's way, and several requests are on their way at once.

    Args:
        metrics: run id → names of its metrics.
    Returns:
        run_id (category), metric (category), step (int64), value (float64), ordered by run, metric and step. Of a step
        that was logged twice (a resumed run) the later value stays; of two at the same millisecond the larger.
    """
    if tracking_uri.split(":")[0].split("+")[0] in DATABASES:
        parts = _from_database(tracking_uri, metrics)
    else:
        parts = _from_server(MlflowClient(tracking_uri), metrics)
    runs = pd.CategoricalDtype(sorted(metrics))
    names = pd.CategoricalDtype(sorted({name for of_run in metrics.values() for name in of_run}))
    kinds: dict[str, Any] = {"run_id": runs, "metric": names, "step": "int64", "value": "float64", "timestamp": "int64"}
    # Categories before the rows come together: sorting a million strings would take longer than reading them
    whole = [part.astype(kinds)[list(kinds)] for part in parts]
    rows = pd.concat(whole, ignore_index=True) if whole else pd.DataFrame(columns=list(kinds)).astype(kinds)
    keys = rows["value"], rows["timestamp"], rows["step"], rows["metric"].cat.codes, rows["run_id"].cat.codes
    rows = rows.iloc[np.lexsort([key.to_numpy() for key in keys])]
    return rows.drop_duplicates(["run_id", "metric", "step"], keep="last", ignore_index=True).drop(columns="timestamp")


def _from_database(tracking_uri: str, metrics: Mapping[str, list[str]]) -> list[pd.DataFrame]:
    engine = sqlalchemy.create_engine(tracking_uri)
    columns = SqlMetric.key, SqlMetric.step, SqlMetric.value, SqlMetric.timestamp, SqlMetric.is_nan
    parts = []
    try:
        with engine.connect() as connection:
            for run_id in metrics:
                part = pd.read_sql(sqlalchemy.select(*columns).where(SqlMetric.run_uuid == run_id), connection)
                part["value"] = part["value"].where(~part["is_nan"].astype(bool), np.nan)  # MLflow keeps NaN as 0
                parts.append(part.rename(columns={"key": "metric"}).assign(run_id=run_id))
    finally:
        engine.dispose()
    return parts


def _from_server(client: MlflowClient, metrics: Mapping[str, list[str]]) -> list[pd.DataFrame]:
    def read(wanted: tuple[str, str]) -> pd.DataFrame:
        run_id, metric = wanted
        values = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run_id, metric)]
        return pd.DataFrame(values, columns=["step", "value", "timestamp"]).assign(run_id=run_id, metric=metric)

    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(read, [(run_id, name) for run_id, names in metrics.items() for name in names]))
