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
START_ATTEMPTS = 3  # Ray gives up on its own processes after 30 seconds, which a busy machine may need


def connect(address: str | None = None, *, cpus: int | None = None) -> None:
    """Joins the cluster at ``address`` (``auto``, ``ray://…``, host:port), or starts Ray here, on loopback only.

    Does nothing where Ray already runs in this process.

    Args:
        cpus: that a Ray started here may use; None for those of the machine.
    Raises:
        InputError: nobody answers at the address, or the machine is too busy to start Ray.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    # A lost trial is told in a sentence by the progress view; Tune would print every stack on the way.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
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
    for _ in range(START_ATTEMPTS):
        try:
            # "local": without it Ray would join a cluster that somebody else runs on this machine
            ray.init("local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **options)
            return
        except Exception as error:  # Ray raises nothing narrower
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise InputError(f"Ray did not start in {START_ATTEMPTS} attempts: the machine is too busy, try again later")


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
