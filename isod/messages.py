"""Messages for people: they go through ``logging``, to loggers below "isod", and each front end shows them.

Where it is quiet (isod.console), warnings and errors go to standard error, and other messages nowhere.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from isod.console import is_quiet

LOGGER = logging.getLogger("isod")


class Message(NamedTuple):
    """A message on its way to another process, which logs it there."""

    level: int  # of logging
    text: str


class _Receiver(logging.Handler):
    """Hand each message on; whatever that raises, a closed pipe or a Ctrl-C, passes through."""

    def __init__(self, receive: Callable[[Message], None]) -> None:
        super().__init__()
        self._receive = receive

    def emit(self, record: logging.LogRecord) -> None:
        self._receive(Message(record.levelno, self.format(record)))


@contextmanager
def messages_to(show: Callable[[str], None]) -> Iterator[None]:
    """Within it every message from level INFO on is shown by a function, and goes to log files; to nothing else."""

    def receive(message: Message) -> None:
        if not is_quiet():
            show(message.text)
        elif message.level >= logging.WARNING:
            print(message.text, file=sys.stderr)

    with messages_sent(receive):
        yield


@contextmanager
def messages_sent(receive: Callable[[Message], None]) -> Iterator[None]:
    """As ``messages_to``, for a function that sends them to another process, whether it is quiet here or not."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    files = [handler for handler in before[0] if isinstance(handler, logging.FileHandler)]
    LOGGER.handlers[:], LOGGER.propagate = [*files, _Receiver(receive)], False
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.handlers[:], LOGGER.propagate = before[0], before[2]
        LOGGER.setLevel(before[1])
