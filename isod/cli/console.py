"""What isod logs, on standard output: as long as a command runs, the messages of logger "isod" at INFO and above."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class Console(logging.Handler):
    """Prints each message to the standard output of that moment, which notebooks and tests exchange.

    An error of the output ends the command, as it would end ``print``: a closed pipe, a full disk, Ctrl-C.
    """

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage())


@contextlib.contextmanager
def messages_printed() -> Iterator[None]:
    """Within it, print what isod logs; the logger is then as it was before."""
    logger, console = logging.getLogger("isod"), Console(logging.INFO)
    level = logger.level
    logger.addHandler(console)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(console)
        logger.setLevel(level)
