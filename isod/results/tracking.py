"""The MLflow store: how the results reach it, and what they say when they cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from isod.errors import InputError


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
