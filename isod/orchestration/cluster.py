"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants, worker
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.utils import get_dashboard_dependency_error

from isod.errors import InputError, one_line
from isod.files import private_folder
from isod.signals import handlers_kept
from isod.training.device import cpu_model

# Tune's own CSV, JSON and TensorBoard files per trial are a second record beside MLflow's
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ACCELERATOR = "accelerator_type:"  # what Ray's names of the kinds of GPU begin with
SOCKET_PATH = 103  # bytes of the path of a Unix socket on every system; Linux allows 107
LONGEST_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.12345"
OPEN_FILES = 256  # with which Ray runs a small sweep; with 64 it dies of a signal, after minutes
MOST_OPEN_FILES = 65536  # what Ray's documentation advises; some programs close every one that they might have open
LOOPBACK = "127.0.0.1"
START_ATTEMPTS = 3  # Ray gives up on its own processes after 30 seconds, which a busy machine may need


def address_of_job() -> str | None:
    """Return the address of the cluster that runs this process by `ray job submit`; None in any other process."""
    return os.environ.get("RAY_ADDRESS") if RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ else None


def connect(address: str | None = None, *, cpus: int | None = None, dashboard: bool = False) -> None:
    """Joins the cluster at ``address`` (``auto``, ``ray://…``, host:port), or starts Ray here, on loopback only.

    Does nothing where Ray already runs in this process. A handler of SIGTERM that the program has stays in force; Ray
    would put its own one there, which exits at once.

    Args:
        cpus: that a Ray started here may use; None for those of the machine.
        dashboard: whether a Ray started here serves its dashboard, on loopback as well.
    Raises:
        InputError: nobody answers at the address, or Ray does not start here, for whatever reason it gives.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    # The progress view reports a lost trial in a sentence; Tune would print every stack on the way.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _require_listener(address)
        try:
            with handlers_kept(signal.SIGTERM):
                ray.init(address=address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"no Ray cluster answers at {address!r}: {reason}; one that asks for a secret needs "
                "RAY_AUTH_MODE=token in the environment and its ~/.ray/auth_token here"
            ) from None
        return
    _allow_open_files()
    if (short := _short_folder()) is not None:
        options["_temp_dir"] = short
    for _ in range(START_ATTEMPTS):
        try:
            with _loopback_only(), handlers_kept(signal.SIGTERM):
                # "local": without it Ray would join a cluster that somebody else runs on this machine
                ray.init("local", num_cpus=cpus, include_dashboard=dashboard, dashboard_host=LOOPBACK, **options)
            return
        except Exception as error:  # Ray raises nothing narrower
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise InputError(
                    f"Ray did not start ({type(error).__name__}: {one_line(error)}): its logs are in "
                    f"{short or _temporary_folder()}/session_latest/logs"
                ) from error
    raise InputError(f"Ray did not start in {START_ATTEMPTS} attempts: the machine is too busy, try again later")


def open_dashboard(address: str | None = None) -> str:
    """Connect as ``connect`` does, and return for people where Ray's dashboard answers: a Ray started here serves one.

    Raises:
        InputError: no dashboard answers, or one needs a package that is missing; and what ``connect`` raises.
    """
    if address is None and (error := get_dashboard_dependency_error()):
        raise InputError(f"Ray's dashboard needs {error.name}: pip install 'isod[grid]'")
    connect(address, dashboard=True)
    node = worker._global_node  # Ray names an address where it has no dashboard, too; and none to a client (ray://)
    place = (node and node.webui_url) or ""
    try:
        _knock(place)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no dashboard of the Ray that runs already answers from here ({error}): leave out --dashboard, or open a "
            "cluster's with `ray dashboard cluster.yaml`"
        ) from None
    asks = os.environ.get("RAY_AUTH_MODE") == "token"  # Ray sets it for a Ray that it starts
    return f"http://{place}" + ", which asks for what `ray get-auth-token` prints" * asks


def _allow_open_files() -> None:
    """Raise the limit of open files to what the machine allows, which Ray's processes inherit.

    Raises:
        InputError: it is too low for Ray.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < OPEN_FILES:
        raise InputError(
            f"a process may open {hard} files here (ulimit -n), and Ray needs {OPEN_FILES}: raise the limit"
        )


def _temporary_folder() -> str:
    """Return where Ray puts its sessions by default: RAY_TMPDIR, or the folder ray in the one for temporary files."""
    return os.path.join(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")


def _short_folder() -> str | None:
    """Return a folder for Ray's sessions where the default one is too long for the sockets in it; else None.

    Raises:
        InputError: no shorter one is to be had.
    """
    default = _temporary_folder()
    if len(os.fsencode(default)) + len(LONGEST_SOCKET) <= SOCKET_PATH:
        return None
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        if (folder := private_folder(f"{place}/isod-ray-{os.getuid()}")) is not None:
            return f"{folder}/ray"  # a folder in it, as Ray opens its own one to everybody
    raise InputError(
        f"the folder for temporary files, {default}, is too long for Ray's sockets: set TMPDIR to one of at most "
        f"{SOCKET_PATH - len(LONGEST_SOCKET) - len('/ray')} bytes"
    )


@contextmanager
def _loopback_only() -> Iterator[None]:
    """A Ray that starts here takes 127.0.0.1 for its node, and then all of its processes listen nowhere else.

    An address given to ``ray.init`` does not do it: a loopback address is replaced by one that others can reach, and
    Ray listens on every interface. Only where no cluster is possible, as it is by default on macOS, does Ray stay at
    home; it reads that from the environment when it is imported, hence not from there.
    """
    possible = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = possible


def machine() -> str:
    """What Ray runs on, for people: nodes, CPUs, GPUs and their kinds, and this node's processor."""
    total = ray.cluster_resources()
    nodes = sum(name.startswith("node:") and name != "node:__internal_head__" for name in total)
    kinds = sorted(name.removeprefix(ACCELERATOR) for name in total if name.startswith(ACCELERATOR))
    gpus = f"{total.get('GPU', 0):g} GPUs" + f" ({', '.join(kinds)})" * bool(kinds)
    here = f"{total.get('CPU', 0):g} CPUs, {gpus}"
    return f"{cpu_model()}: {here}" if nodes == 1 else f"{nodes} nodes: {here}; this one {cpu_model()}"


def _require_listener(address: str) -> None:
    """Ask the port first: Ray itself waits for minutes, and logs them, where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or something that Ray will refuse
    try:
        _knock(f"{host}:{port}")
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}): give the address that `ray start --head` or `ray up` "
            "printed, or leave it out to use this machine"
        ) from None


def _knock(place: str) -> None:
    """Open and close a connection to host:port. Raises OSError if nobody listens, ValueError if it is no such place."""
    host, _, port = place.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
