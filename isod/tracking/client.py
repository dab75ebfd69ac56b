"""Opening the MLflow store that a sweep writes to, before anything starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from isod.errors import InputError
from isod.tracking.deliveries import reason

SHOWN = 200  # characters of somebody else's error message


def open_experiment(tracking_uri: str, experiment: str, artifacts: Path) -> tuple[MlflowClient, str]:
    """A client and the experiment's id; the experiment is made where it does not exist.

    Args:
        artifacts: where a database store keeps the files of a new experiment; a server decides for itself.
    Raises:
        InputError: if the store or server cannot be used, within seconds.
    """
    check_tracking(tracking_uri)
    with explained(tracking_uri), impatient():
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            place = None if is_server(tracking_uri) else artifacts.as_uri()
            return client, client.create_experiment(experiment, place)
    if found.lifecycle_stage != "active":
        raise InputError(f"{tracking_uri} has a deleted experiment {experiment!r}: restore it, or choose another name")
    return client, found.experiment_id


def check_tracking(tracking_uri: str) -> None:
    """Refuse a store or server that does not answer, within seconds: before work is done whose results belong there.

    Raises:
        InputError: why not.
    """
    if "://" not in tracking_uri:
        raise InputError(f"a tracking URI starts with sqlite:///, http:// or the like, got {tracking_uri!r}")
    for chatty in ("mlflow", "alembic"):  # they announce every step of making a new database
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # whole stacks; the outbox says why in a sentence
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # likewise, at every attempt
    with explained(tracking_uri), impatient():
        if is_server(tracking_uri):
            MlflowClient(tracking_uri).search_experiments(max_results=1)
        else:
            _try_database(tracking_uri)


def is_server(tracking_uri: str) -> bool:
    """Whether it is the address of an MLflow server, rather than of a database."""
    return tracking_uri.startswith(("http:", "https:"))


def _try_database(uri: str) -> None:
    """Connect once: MLflow itself would try for minutes. A database file that does not exist yet is made."""
    engine = sqlalchemy.create_engine(uri)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


@contextmanager
def explained(tracking_uri: str) -> Iterator[None]:
    """Turn MLflow's and the database's errors into one sentence."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        said = reason(error)
        shown = said if len(said) <= SHOWN else said[:SHOWN] + "…"
        raise InputError(f"the MLflow store {tracking_uri} cannot be used: {shown}") from None


@contextmanager
def impatient() -> Iterator[None]:
    """Give an absent server seconds: MLflow itself would try for minutes, and print what it does."""
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
