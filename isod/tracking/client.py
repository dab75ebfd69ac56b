"""Opening an MLflow store or server, for writing or for reading, and its errors in one sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from isod.errors import InputError
from isod.tracking.deliveries import reason
from isod.vocabulary import PARENT_TAG

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # what MLflow stores runs in, beside a server's
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHOWN = 200  # characters of somebody else's error message
REVISION = "alembic_version"  # the table of a database that names its schema
NEWEST = ["attributes.start_time DESC"]


@dataclass(frozen=True)
class Experiment:
    """An experiment that is open for writing."""

    tracking_uri: str
    client: MlflowClient
    id: str


def open_experiment(tracking_uri: str, experiment: str, artifacts: str) -> Experiment:
    """Open an experiment for writing; create it if it does not exist.

    Args:
        artifacts: address where a database store keeps the files of a new experiment; a server decides for itself.
    Raises:
        InputError: if the store or server cannot be used, within seconds.
    """
    check_tracking(tracking_uri)
    with explained(tracking_uri):
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            place = None if is_server(tracking_uri) else artifacts
            return Experiment(tracking_uri, client, client.create_experiment(experiment, place))
    if found.lifecycle_stage != "active":
        raise InputError(f"{tracking_uri} has a deleted experiment {experiment!r}: restore it, or choose another name")
    return Experiment(tracking_uri, client, found.experiment_id)


def check_tracking(tracking_uri: str) -> None:
    """Connect once, before work is done whose results belong there. A missing database file is created.

    Raises:
        InputError: the store or server does not answer within seconds, with the reason.
    """
    _require_address(tracking_uri)
    _bypass_proxy(tracking_uri)
    _limit_messages()
    with explained(tracking_uri):
        if is_server(tracking_uri):
            MlflowClient(tracking_uri).search_experiments(max_results=1)
        else:
            _try_database(tracking_uri)


def open_for_reading(tracking_uri: str) -> MlflowClient:
    """Return a client; create nothing, where MLflow itself would make an empty database of a mistyped path.

    Raises:
        InputError: no address, no such database, or one that cannot be used.
    """
    if tracking_uri.startswith("sqlite:"):
        try:
            path = make_url(tracking_uri).database
        except ArgumentError:
            path = None
        if not path or not Path(path).is_file():
            raise InputError(f"there is no MLflow database at {tracking_uri}")
    _require_address(tracking_uri)
    _bypass_proxy(tracking_uri)
    _limit_messages()
    with explained(tracking_uri):
        if is_database(tracking_uri):
            _try_database(tracking_uri)
        return MlflowClient(tracking_uri)


def search(client: MlflowClient, experiment_id: str, wanted: str = "") -> list[Run]:
    """Return every run of an experiment that matches MLflow's filter, the one that started last first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], wanted, max_results=1000, order_by=NEWEST, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def children_of(client: MlflowClient, experiment_id: str, parent_run_id: str) -> list[Run]:
    """Return the runs of a sweep's trials."""
    return search(client, experiment_id, f"tags.`{PARENT_TAG}` = '{parent_run_id}'")


def is_database(tracking_uri: str) -> bool:
    """Return whether it is the address of a database that MLflow's own table models can read."""
    return tracking_uri.split(":")[0].split("+")[0] in DATABASES


def is_server(tracking_uri: str) -> bool:
    """Return whether it is the address of an MLflow server, rather than of a database."""
    return tracking_uri.startswith(("http:", "https:"))


@contextmanager
def explained(tracking_uri: str) -> Iterator[None]:
    """Turn MLflow's and the database's errors into one sentence, within ``time_limits``."""
    try:
        with time_limits():
            yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        text = reason(error)
        shown = text if len(text) <= SHOWN else text[:SHOWN] + "…"
        raise InputError(f"the MLflow store {tracking_uri} cannot be used: {shown}") from error


@contextmanager
def time_limits() -> Iterator[None]:
    """Give a server that is away seconds, where MLflow itself would retry for minutes; keep MLflow from printing.

    A variable that the user has set keeps its value.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one per file, on standard error
    }
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _require_address(tracking_uri: str) -> None:
    try:
        urlsplit(tracking_uri)
    except ValueError as error:
        raise InputError(f"the tracking URI {tracking_uri!r} is no address: {error}") from None
    if "://" in tracking_uri:
        return
    hint = f"; for the database in that folder: sqlite:///{tracking_uri.rstrip('/')}/mlflow.db" if tracking_uri else ""
    raise InputError(f"a tracking URI starts with sqlite:///, http:// or the like, got {tracking_uri!r}{hint}")


def _bypass_proxy(tracking_uri: str) -> None:
    """Send requests to a server on this machine there: a proxy that the environment names would not reach it."""
    host = urlsplit(tracking_uri).hostname if is_server(tracking_uri) else None
    if host not in LOOPBACK:
        return
    for name in ("no_proxy", "NO_PROXY"):  # libraries differ in which of the two they read first
        hosts = [part for part in os.environ.get(name, "").split(",") if part]
        os.environ[name] = ",".join([*hosts, *([] if host in hosts else [host])])


def _limit_messages() -> None:
    """Keep what MLflow and its libraries log to what a user can act on; errors are reported in a sentence of ours."""
    for chatty in ("mlflow", "alembic"):  # they announce every step of making a new database
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # stack traces
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # at every model, where there is no pip
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a warning at every attempt


def _try_database(uri: str) -> None:
    """Connect once, where MLflow itself would try for minutes; reject the schema of another version of MLflow.

    MLflow would migrate an older one at once, which locks out whoever still uses the older version.
    """
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            known = sqlalchemy.inspect(connection).has_table(REVISION)
            found = connection.scalar(sqlalchemy.text(f"SELECT version_num FROM {REVISION}")) if known else None
    finally:
        engine.dispose()
    if found is not None and found != _revision():
        raise InputError(
            f"the MLflow store {uri} was written by another version of MLflow: install that one, or back the database "
            f"up and run `mlflow db upgrade {uri}`"
        )


@cache
def _revision() -> str:
    """Return the revision of the schema of this version of MLflow."""
    return str(_get_latest_schema_revision())
