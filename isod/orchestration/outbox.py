"""Calls to a server that may be away for a while: made in order, on a thread of their own, until they succeed."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable

from isod.errors import one_line

RETRY_AFTER = 3.0  # seconds between two attempts at the same call


def reason(error: Exception) -> str:
    """What a failed call says, in a line: of a database's error its own words, not the statement and its numbers."""
    database = re.search(r"\(\w+\.\w*Error\) ([^\[\n]+)", str(error))
    return database[1].strip() if database else one_line(error)


class Outbox:
    """Keeps calls and makes them one after the other; nobody waits for them.

    A call that raises is tried again until it succeeds, and those behind it wait. So a call must bear being made twice.

    Args:
        say: where to tell that the server is away, and that it is back.
        retry_after: seconds between two attempts.
    """

    def __init__(self, say: Callable[[str], None], *, retry_after: float = RETRY_AFTER) -> None:
        self._say = say
        self._retry_after = retry_after
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._patience = float("inf")  # seconds, once it is closing
        self._closing_at = float("inf")  # when to give up, time.monotonic()
        self._error = ""
        self._thread = threading.Thread(target=self._work, name="isod-outbox", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[], None]) -> None:
        """Make this call after all those before it."""
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()

    def close(self, patience: float) -> tuple[int, str]:
        """Wait until every call is made, at most ``patience`` seconds after the server was last heard of.

        Returns:
            How many calls could not be made, and what the first of them answered.
        """
        with self._changed:
            self._patience = patience
            self._closing_at = time.monotonic() + patience
            self._changed.notify_all()
        self._thread.join()
        return len(self._calls), self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._closing_at < float("inf"))
                if not self._calls:
                    return
                call = self._calls[0]
            try:
                call()
            except Exception as error:  # whatever a network, a server or a database raises
                if not self._error:
                    self._error = reason(error)
                    self._say(f"MLflow does not take what is sent ({self._error}): kept, and tried again")
                with self._changed:
                    if time.monotonic() + self._retry_after > self._closing_at:
                        return
                    self._changed.wait_for(lambda: time.monotonic() > self._closing_at, self._retry_after)
                continue
            with self._changed:
                self._calls.popleft()
                self._closing_at = time.monotonic() + self._patience
                if self._error:
                    self._say(f"MLflow answers again: {len(self._calls)} messages follow")
                    self._error = ""
