"""MLflow's own server, on a free port of this machine's loopback."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

SECONDS = 240  # to answer in; it takes a tenth of it where nothing else runs


class MlflowServer:
    """Can be ended and started again at the same address.

    Args:
        store: the database that it serves, an address.
        folder: for its log, and for the artifacts of experiments that are made through it.
    """

    def __init__(self, store: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._store = store
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", self._store,
                   "--artifacts-destination", str(self._folder / "artifacts")]  # fmt: skip
        # else it starts seven more processes, each of which imports all of MLflow, for jobs that nobody gives it
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self._folder / "server.log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        end = time.monotonic() + SECONDS
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < end, "MLflow's server does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def kill(self) -> None:
        """At once, and all of its processes; does nothing where it was not started."""
        if self._process is None:
            return
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            for process in [*psutil.Process(self._process.pid).children(recursive=True), self._process]:
                process.kill()
        self._process.wait(60)
        self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
