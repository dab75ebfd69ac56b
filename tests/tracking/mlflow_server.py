"""MLflow's own server, on a free port of this machine's loopback."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import psutil

SECONDS = 240  # to answer in; it takes a tenth of it where nothing else runs


class OlderServer:
    """Stands before a server and answers as one that does not know some of its addresses yet.

    Args:
        uri: of the server.
        unknown: a part of the addresses that give 404, with the page that Flask gives.
    """

    def __init__(self, uri: str, unknown: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if unknown in self.path:
                    return self._answer(404, b"<!doctype html>\n<title>404 Not Found</title>", "text/html")
                kind = {"Content-Type": self.headers["Content-Type"]} if self.headers["Content-Type"] else {}
                request = urllib.request.Request(uri + self.path, content or None, kind, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        self._answer(answer.status, answer.read(), answer.headers["Content-Type"])
                except urllib.error.HTTPError as error:
                    self._answer(error.code, error.read(), error.headers["Content-Type"])

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

            def _answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind or "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


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
