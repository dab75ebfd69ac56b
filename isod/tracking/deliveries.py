"""Calls to a server that may be away for a while: made in order, on a thread of their own, until they succeed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from isod.errors import one_line

RETRY_AFTER = 3.0  # seconds between two attempts at the same call
PATIENCE = 120.0  # seconds that a run or a sweep waits at its end for an MLflow server that is away

log = logging.getLogger("isod")


def reason(error: Exception) -> str:
    """Return why a call failed, in one line: of a database's error its own words, not the statement and its values."""
    database = re.search(r"\(\w+\.\w*Error\) ([^\[\n]+)", str(error))
    text = database[1].strip() if database else one_line(error)
    return f"{text.rstrip('.')}: restore it in MLflow" if text.endswith("Current state is deleted.") else text


class Deliveries:
    """A queue of calls that are made one after the other; nobody waits for them.

    A call that raises is retried until it succeeds, and later calls of the same run wait behind it. Calls of other runs
    do not wait, as the cause may concern one run only. Calls must be idempotent. A failure and the recovery from it are
    logged.

    Args:
        retry_after: seconds between two attempts.
    """

    def __init__(self, *, retry_after: float = RETRY_AFTER) -> None:
        self._retry_after = retry_after
        self._calls: list[tuple[str | None, Callable[[], None]]] = []
        self._retry_at: dict[str | None, float] = {}  # run whose first call failed → when to retry, time.monotonic()
        self._errors: dict[str | None, str] = {}  # the same runs → why it failed
        self._changed = threading.Condition()
        self._patience = float("inf")  # seconds, once it is closing
        self._closing_at = float("inf")  # when to give up, time.monotonic()
        self._thread = threading.Thread(target=self._work, name="isod-deliveries", daemon=True)
        self._thread.start()

    def put(self, run: str | None, call: Callable[[], None]) -> None:
        """Make this call after all those of the same run; with None, after all calls before it."""
        with self._changed:
            self._calls.append((run, call))
            self._changed.notify_all()

    def close(self, patience: float) -> tuple[int, str]:
        """Wait until every call is made, at most ``patience`` seconds after the last one that succeeded.

        Returns:
            How many calls could not be made, and why the first of them failed.
        """
        with self._changed:
            self._patience = patience
            self._closing_at = time.monotonic() + patience
            self._changed.notify_all()
        self._thread.join()
        return len(self._calls), next(iter(self._errors.values()), "")

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._closing_at < float("inf"))
                if not self._calls or (self._errors and time.monotonic() > self._closing_at):
                    return
                due = self._next()
                if due is None:
                    again = min(self._retry_at.values())
                    if again > self._closing_at:
                        return
                    self._changed.wait(max(again - time.monotonic(), 0.0))
                    continue
            run, call = due
            try:
                call()
            except Exception as error:  # whatever a network, a server or a database raises
                self._failed(run, reason(error))
                continue
            self._succeeded(due)

    def _next(self) -> tuple[str | None, Callable[[], None]] | None:
        """Return the first call that waits neither for its retry nor for another call; None if all wait."""
        now = time.monotonic()
        waiting: set[str | None] = set()
        for run, call in self._calls:
            if run is None and waiting:
                return None
            if run not in waiting and self._retry_at.get(run, 0.0) <= now:
                return run, call
            waiting.add(run)
        return None

    def _succeeded(self, done: tuple[str | None, Callable[[], None]]) -> None:
        run, _ = done
        with self._changed:
            self._calls.remove(done)
            self._closing_at = time.monotonic() + self._patience
            self._retry_at.pop(run, None)
            recovered = bool(self._errors.pop(run, "")) and not self._errors
            left = len(self._calls)
        if recovered:
            log.warning("MLflow accepts data again: %d messages follow", left)

    def _failed(self, run: str | None, why: str) -> None:
        with self._changed:
            self._retry_at[run] = time.monotonic() + self._retry_after
            new = run not in self._errors and why not in self._errors.values()
            self._errors.setdefault(run, why)
        if new:
            log.warning("MLflow does not accept data (%s): it is kept and sent again", why)
