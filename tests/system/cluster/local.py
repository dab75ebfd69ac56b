"""A Ray head of one's own on this machine's loopback, with the server that takes jobs."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util import get_node_ip_address

RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = secrets.token_hex(32)  # without it nobody may give that head a job
ENDS = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback on which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
    finally:
        for free in sockets:
            free.close()


def bare_environment() -> dict[str, str]:
    """A shell's in which isod's environment is active, with the secret of these tests, and no other Ray or MLflow."""
    here = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    here["PATH"] = f"{Path(RAY).parent}{os.pathsep}{here['PATH']}"
    return here | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def end_all(process: subprocess.Popen) -> None:
    """Kill a process and what it started, in sessions of their own or not."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        found = [*root.children(recursive=True), root]
        for one in found:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(found, 30)
    process.wait(30)


class RayHead:
    """`ray start --head` with the dashboard, which takes jobs.

    Args:
        cpus: that it says it has.
        folder: an empty one for its log. Its sessions lie in /tmp, as the path of a socket is short.
        machines: of one CPU each, that Ray's autoscaler may start when there is work: further raylets, by the provider
            with which Ray tests itself.
    """

    def __init__(self, cpus: int, folder: Path, machines: int = 0) -> None:
        self.port, self._dashboard, *agents = free_ports(6)
        self.jobs = f"http://127.0.0.1:{self._dashboard}"
        self._log = folder / "head.log"
        names = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
        self._command = [
            RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={self.port}",
            f"--num-cpus={cpus}", "--num-gpus=0", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self._dashboard}", "--disable-usage-stats",
            *(f"--{name}-port={port}" for name, port in zip(names, agents, strict=True)),
        ]  # fmt: skip
        self.address = f"{get_node_ip_address()}:{self.port}"  # Ray replaces a loopback address by this one
        self.environment = bare_environment()
        if machines:
            types = {
                "ray.head.default": {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
                "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": machines},
            }
            lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands",
                     "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
                     "worker_start_ray_commands")  # fmt: skip
            config = {
                "cluster_name": "autoscaled", "max_workers": machines, "idle_timeout_minutes": 1, "upscaling_speed": 1,
                "provider": {"type": "fake_multinode", "gcs_address": self.address, "disable_node_updaters": True},
                "available_node_types": types, "head_node_type": "ray.head.default", "auth": {}, "docker": {},
                "file_mounts": {}, "file_mounts_sync_continuously": False, **{name: [] for name in lists},
            }  # fmt: skip
            (folder / "autoscaling.json").write_text(json.dumps(config))
            self._command.append(f"--autoscaling-config={folder / 'autoscaling.json'}")
            self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        try:
            self._client = self._connect()
        except BaseException:
            end_all(self._process)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        end_all(self._process)

    def _connect(self) -> JobSubmissionClient:
        assert self._process is not None
        end = time.monotonic() + 180
        while True:
            assert self._process.poll() is None, self._log.read_text()
            with suppress(ConnectionError, RuntimeError):
                client = JobSubmissionClient(self.jobs, headers={"Authorization": f"Bearer {TOKEN}"})
                client.list_jobs()
                return client
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.5)

    def submit(self, *arguments: str) -> str:
        """`ray job submit …`, and what it prints. Fails where the command does, which waits for the job's end."""
        return self.paste(shlex.join(["ray", "job", "submit", "--address", self.jobs, *arguments]), Path())

    def paste(self, line: str, folder: Path) -> str:
        """What a shell prints that is given a line. Fails where it does."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=bare_environment(), capture_output=True, text=True, timeout=400,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def machines(self) -> list[psutil.Process]:
        """The raylets that the autoscaler has started, the oldest first."""
        assert self._process is not None
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                words = process.cmdline()
                if words and words[0].endswith("/raylet") and any("CPU,1" in word for word in words):
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def status(self, job: str) -> JobStatus:
        return self._client.get_job_status(job)

    def stop(self, job: str) -> None:
        """Ask for what `ray job stop` asks for, without the seconds that such a command takes to begin."""
        self._client.stop_job(job)

    def output(self, job: str) -> str:
        """What the job has printed."""
        return self._client.get_job_logs(job)
