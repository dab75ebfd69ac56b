"""``isod doctor``: what a report of a fault needs to know of this machine, on one page."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from isod.cli.options import add_tracking_uri, choose_tracking, examples

PACKAGES = (
    "numpy", "numba", "torch", "torchvision", "pylance", "pyarrow", "pandas", "ray", "mlflow", "transformers",
    "lightning", "accelerate", "onnxruntime",
)  # fmt: skip
GB = 1e9
SECONDS = 3.0  # that a server may take to answer


def add_doctor_parser(commands: Any) -> None:
    """Add ``doctor`` to the commands."""
    parser = commands.add_parser(
        "doctor",
        help="print versions, devices, limits and servers, to paste into a report of a fault",
        description="Print versions, devices, limits and servers of this machine. Start nothing, write nothing.",
        **examples("isod doctor", "isod doctor --tracking-uri http://127.0.0.1:5000"),
    )
    add_tracking_uri(parser, "the database in out/")
    parser.set_defaults(run=doctor)


def doctor(options: argparse.Namespace) -> None:
    """Print a row for each thing; a row that cannot be found out says why."""
    tracking_uri = choose_tracking(options)
    rows: list[tuple[str, Callable[[], str]]] = [
        ("isod", _isod),
        ("Python", lambda: f"{platform.python_version()}, {sys.executable}"),
        ("system", platform.platform),
        *((name, lambda name=name: _version(name)) for name in PACKAGES),  # type: ignore[misc]
        ("processor", _processor),
        ("bfloat16", _bfloat16),
        ("memory", _memory),
        ("GPU", _gpu),
        ("/dev/shm", lambda: _room("/dev/shm")),
        ("temporary files", lambda: f"{tempfile.gettempdir()}: {_room(tempfile.gettempdir())}"),
        ("here", lambda: f"{Path.cwd()}: {_room('.')}"),
        ("open files", lambda: _limits(resource.RLIMIT_NOFILE)),
        ("processes", lambda: _limits(resource.RLIMIT_NPROC)),
        ("encoding", lambda: f"{sys.stdout.encoding}, locale {os.environ.get('LC_ALL') or os.environ.get('LANG')}"),
        ("Ray", _ray),
        ("MLflow", lambda: _mlflow(tracking_uri)),
    ]
    width = max(len(name) for name, _ in rows)
    for name, find in rows:
        try:
            value = find()
        except Exception as error:  # a page with a gap is worth more than none
            value = f"cannot be found out ({type(error).__name__}: {error})"
        print(f"{name.ljust(width)}  {value}")


def _isod() -> str:
    import isod
    from isod.version import source_commit

    return f"{isod.__version__}, {source_commit()}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    from isod.training.device import cpu_model

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = next(_quotas(), None)
    shared = "" if quota is None else f", of which this container may use {quota:g}"
    return f"{cpu_model()}, {usable} cores{shared}"


def _quotas() -> Iterator[float]:
    """Cores that a control group allows, version 2 and 1."""
    two = Path("/sys/fs/cgroup/cpu.max")
    if two.is_file():
        most, period = two.read_text().split()
        if most != "max":
            yield int(most) / int(period)
    one = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    if one.is_file() and (most_one := int(one.read_text())) > 0:
        yield most_one / int(one.with_name("cpu.cfs_period_us").read_text())


def _bfloat16() -> str:
    from isod.training.device import bfloat16_instructions

    have = bfloat16_instructions()
    return f"{', '.join(have)}: training.precision=bfloat16 trains faster" if have else "no instructions for it"


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (page * os.sysconf(name) / GB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return f"{total:.1f} GB, {free:.1f} GB unused"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} can use"
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    names = ", ".join(f"{item.name} ({item.total_memory / GB:.0f} GB)" for item in found)
    return f"{names}, CUDA {torch.version.cuda}"


def _room(folder: str) -> str:
    usage = shutil.disk_usage(folder)
    return f"{usage.free / GB:.1f} of {usage.total / GB:.1f} GB free"


def _limits(kind: int) -> str:
    soft, hard = ("no limit" if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(kind))
    return f"at most {soft} of {hard}"


def _ray() -> str:
    address = os.environ.get("RAY_ADDRESS")
    return f"RAY_ADDRESS is {address}: {_answers(address)}" if address else "RAY_ADDRESS is not set"


def _answers(address: str) -> str:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return "not an address with a port"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()
    except OSError as error:
        return f"nobody answers ({error})"
    return "answers"


def _mlflow(tracking_uri: str) -> str:
    from urllib.parse import urlsplit

    place = urlsplit(tracking_uri)
    if place.scheme in ("http", "https"):
        port = place.port or (443 if place.scheme == "https" else 80)
        return f"{tracking_uri}: {_answers(f'{place.hostname}:{port}')}"
    if place.scheme == "sqlite":
        return f"{tracking_uri}: {'exists' if Path(place.path[1:]).is_file() else 'does not exist yet'}"
    return tracking_uri
