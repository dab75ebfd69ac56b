"""Every value of many metrics of many runs, read from MLflow in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy
from mlflow.store.tracking.dbmodels.models import SqlMetric
from mlflow.tracking import MlflowClient

from isod.tracking.client import is_database

REQUESTS = 8  # at a time, to a server


def read_histories(tracking_uri: str, metrics: Mapping[str, list[str]]) -> pd.DataFrame:
    """Return every logged value of many runs.

    MLflow's client asks for one metric of one run at a time, and builds an object for every value: half a minute of
    CPU for the 840 thousand values of a thesis's grid. So a database is read through MLflow's own table model, in
    seconds; a server only has the client's way, and several requests are on their way at once.

    Args:
        metrics: run id → names of its metrics.
    Returns:
        run_id (category), metric (category), step (int64), value (float64), ordered by run, metric and step. Of a step
        that was logged twice (a resumed run) the later value stays; of two at the same millisecond the larger.
    """
    if is_database(tracking_uri):
        parts = _from_database(tracking_uri, metrics)
    else:
        parts = _from_server(MlflowClient(tracking_uri), metrics)
    runs = pd.CategoricalDtype(sorted(metrics))
    names = pd.CategoricalDtype(sorted({name for of_run in metrics.values() for name in of_run}))
    kinds: dict[str, Any] = {"run_id": runs, "metric": names, "step": "int64", "value": "float64", "timestamp": "int64"}
    # Categories before the rows come together: sorting a million strings would take longer than reading them
    typed = [part.astype(kinds)[list(kinds)] for part in parts]
    rows = pd.concat(typed, ignore_index=True) if typed else pd.DataFrame(columns=list(kinds)).astype(kinds)
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
