"""The signal handlers of a program that has just begun."""

import contextlib
import signal


@contextlib.contextmanager
def handlers(ctrl_c=signal.default_int_handler):
    """Within it SIGINT is handled so, and SIGTERM by nobody, whatever Ray made of it in this process."""
    before = signal.signal(signal.SIGINT, ctrl_c), signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
