"""The soak itself takes an hour; that it can be started takes seconds."""

import subprocess
import sys
from pathlib import Path


def test_it_can_be_started():
    command = [sys.executable, "-m", "tests.system.soak", "--help"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout
