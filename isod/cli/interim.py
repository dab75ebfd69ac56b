"""The report of a sweep while it runs: of the runs that have finished."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from isod.vocabulary import BASELINE

SHARE = 0.05  # of the time: after a report that took 10 s the next one begins 200 s later at the earliest

logger = logging.getLogger("isod")


class InterimReport:
    """Write the report anew as runs finish, in a process of low priority; log the first comparison.

    Args:
        options: of ``isod results``, but for ``--sweep``.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self._options = options
        self._finished: set[str] = set()
        self._shown = False
        self._due = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._watch: threading.Thread | None = None

    def run_finished(self, sweep: str, sampler: str) -> None:
        """Begin a report where there is a comparison to show, none is being written, and it is time."""
        self._finished.add(sampler)
        busy = self._watch is not None and self._watch.is_alive()
        if busy or BASELINE not in self._finished or len(self._finished) < 2 or time.monotonic() < self._due:
            return
        command = [sys.executable, "-m", "isod", "results", *self._options, "--sweep", sweep]
        self._process = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            process_group=0,  # of its own, as Ctrl-C is the sweep's
        )  # fmt: skip
        os.setpriority(os.PRIO_PROCESS, self._process.pid, 10)
        self._watch = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._watch.start()

    def close(self) -> None:
        """End a report that is being written: the last one is written next."""
        if self._process is not None and self._watch is not None:
            self._process.terminate()
            self._watch.join()

    def _read(self, process: subprocess.Popen[str]) -> None:
        began = time.monotonic()
        text, _ = process.communicate()
        now = time.monotonic()
        self._due = now + (now - began) / SHARE
        if process.returncode == 0 and not self._shown:
            self._shown = True
            logger.info("the first comparison; the report is written anew as runs finish\n\n%s", text.rstrip())
