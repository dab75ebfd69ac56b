"""A command in a terminal of its own: what it writes there, byte by byte."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ISOD = (sys.executable, "-m", "isod")
CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SECONDS = 500  # that a command may take


def run_in_terminal(command, *, columns=80, rows=24, cwd=None, stdout=None, interrupt_at=None, **variables):
    """Run a command; return its exit code and all that it writes to the terminal.

    Args:
        stdout: where standard output goes instead; standard error is the terminal's in any case.
        interrupt_at: press Ctrl-C when this text has been written.
        variables: of the environment.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <"$0"', os.ttyname(theirs), *map(str, command)],  # opened, it is the session's own
        stdin=theirs, stdout=theirs if stdout is None else stdout, stderr=theirs, cwd=cwd, start_new_session=True,
        env={**environment, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
    )  # fmt: skip
    os.close(theirs)
    written, deadline = b"", time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(ours, 65536)
            except OSError:  # nobody has the other end open any more
                break
            if not part:
                break
            written += part
            if interrupt_at is not None and interrupt_at.encode() in written:
                interrupt_at = None
                os.write(ours, b"\x03")
        return process.wait(10), written.decode(errors="replace")
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait()


def lines_drawn(written):
    """Every line of text that was written, over whatever was there before."""
    return [line for line in re.split(r"[\r\n]+", CONTROL.sub("", written)) if line.strip()]
