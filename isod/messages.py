"""Messages for people: they go through ``logging``, to loggers below "isod", and each front end shows them.

Where it is quiet (isod.console), warnings and errors go to standard error, and other messages nowhere.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from isod.console import is_quiet

LOGGER = logging.getLogger("isod")


class _Receiver(logging.Handler):
    """Hand each message on; whatever that raises, a closed pipe or a Ctrl-C, passes through."""

    def __init__(self, receive: Callable[[str], None]) -> None:
        super().__init__()
        self._receive = receive

    def emit(self, record: logging.LogRecord) -> None:
        if not is_quiet():
            self._receive(self.format(record))
        elif record.levelno >= logging.WARNING:
            print(self.format(record), file=sys.stderr)


@contextmanager
def messages_to(receive: Callable[[str], None]) -> Iterator[None]:
    """Within it every message from level INFO on goes to a function, and to log files; to nothing else."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    files = [handler for handler in before[0] if isinstance(handler, logging.FileHandler)]
    LOGGER.handlers[:], LOGGER.propagate = [*files, _Receiver(receive)], False
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.handlers[:], LOGGER.propagate = before[0], before[2]
        LOGGER.setLevel(before[1])
