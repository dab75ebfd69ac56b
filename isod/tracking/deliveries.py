"""Calls to a server that may be away for a while: made in order, on a thread of their own, until they succeed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from isod.errors import one_line

RETRY_AFTER = 3.0  # seconds between two attempts at the same call


def reason(error: Exception) -> str:
    """What a failed call says, in a line: of a database's error its own words, not the statement and its numbers."""
    database = re.search(r"\(\w+\.\w*Error\) ([^\[\n]+)", str(error))
    return database[1].strip() if database else one_line(error)


class Outbox:
    """Keeps calls and makes them one after the other; nobody waits for them.

    A call that raises is tried again until it succeeds, and those of the same run wait behind it: others go on, as what
    one run has to tell may be what is refused. So a call must bear being made twice.

    Args:
        say: where to tell that the server is away, and that it is back.
        retry_after: seconds between two attempts.
    """

    def __init__(self, say: Callable[[str], None], *, retry_after: float = RETRY_AFTER) -> None:
        self._say = say
        self._retry_after = retry_after
        self._calls: list[tuple[str | None, Callable[[], None]]] = []
        self._retry_at: dict[str | None, float] = {}  # of whose first call failed: when to try again, time.monotonic()
        self._errors: dict[str | None, str] = {}  # and what it answered
        self._changed = threading.Condition()
        self._patience = float("inf")  # seconds, once it is closing
        self._closing_at = float("inf")  # when to give up, time.monotonic()
        self._thread = threading.Thread(target=self._work, name="isod-outbox", daemon=True)
        self._thread.start()

    def put(self, of: str | None, call: Callable[[], None]) -> None:
        """Make this call after all those of the same run; with None, after all those before it."""
        with self._changed:
            self._calls.append((of, call))
            self._changed.notify_all()

    def close(self, patience: float) -> tuple[int, str]:
        """Wait until every call is made, at most ``patience`` seconds after the server last took one.

        Returns:
            How many calls could not be made, and what the first of them answered.
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
                found = self._next()
                if found is None:
                    again = min(self._retry_at.values())
                    if again > self._closing_at:
                        return
                    self._changed.wait(max(again - time.monotonic(), 0.0))
                    continue
            of, call = found
            try:
                call()
            except Exception as error:  # whatever a network, a server or a database raises
                self._failed(of, reason(error))
                continue
            with self._changed:
                self._calls.remove(found)
                self._closing_at = time.monotonic() + self._patience
                self._retry_at.pop(of, None)
                if self._errors.pop(of, "") and not self._errors:
                    self._say(f"MLflow answers again: {len(self._calls)} messages follow")

    def _next(self) -> tuple[str | None, Callable[[], None]] | None:
        """The first call that is not waiting for another attempt, nor behind one that is; None if all are."""
        now = time.monotonic()
        waiting: set[str | None] = set()
        for of, call in self._calls:
            if of is None and waiting:
                return None
            if of not in waiting and self._retry_at.get(of, 0.0) <= now:
                return of, call
            waiting.add(of)
        return None

    def _failed(self, of: str | None, why: str) -> None:
        with self._changed:
            self._retry_at[of] = time.monotonic() + self._retry_after
            if of not in self._errors:
                told = why in self._errors.values()
                self._errors[of] = why
                if not told:
                    self._say(f"MLflow does not take what is sent ({why}): kept, and tried again")
