"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import ray

from isod.errors import InputError

# Tune's own CSV, JSON and TensorBoard files per trial are a second record beside MLflow's
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def connect(address: str | None = None) -> None:
    """Joins the cluster at ``address`` (``auto``, ``ray://…``, host:port), or starts Ray here, on loopback only.

    Does nothing where Ray already runs in this process.

    Raises:
        InputError: nobody answers at the address.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _require_listener(address)
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {address!r}: {str(error).splitlines()[0]}") from None
        return
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", **options)


def _require_listener(address: str) -> None:
    """Ask the port first: Ray itself waits for minutes, and logs them, where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or something that Ray will refuse
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}): give the address that `ray start --head` or `ray up` "
            "printed, or leave it out to use this machine"
        ) from None
