"""Ctrl-C (SIGINT), and SIGTERM, which `kill` and schedulers that take a machine back send.

Python gives signals to the main thread alone, which alone may set their handlers: in another thread nothing here has an
effect.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handlers_kept(*numbers: int) -> Iterator[None]:
    """Puts back, at its end, the handlers that the program had given to these signals; where it had given none
    (SIG_DFL), what a library set within it stays."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if _in_main_thread():
            for number, handler in before.items():
                if handler is not signal.SIG_DFL:
                    signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Within it SIGTERM does what Ctrl-C does at that moment, where the program has no handler of its own; also where a
    shell lets a program in the background ignore Ctrl-C.

    Yields:
        The SIGTERMs that came.
    """
    came: list[int] = []

    def stop(number: int, frame: Any) -> None:
        came.append(number)
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield came
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Within it a Ctrl-C (KeyboardInterrupt) comes at the end, but for a second one; where Python's own handler is in
    force. SIGTERM likewise, where the program has a handler."""
    held: list[int] = []
    before: dict[int, Callable[[int, Any], Any]] = {}

    def hold(number: int, frame: Any) -> None:
        if held:
            before[number](number, frame)
        held.append(number)

    if _in_main_thread():
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.default_int_handler
        if callable(handler := signal.getsignal(signal.SIGTERM)):
            before[signal.SIGTERM] = handler
    with handlers_kept(*before):
        for number in before:
            signal.signal(number, hold)
        yield
    if held:
        before[held[0]](held[0], None)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
