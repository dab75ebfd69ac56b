"""What a process that trains is set to before it begins."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from isod.errors import InputError
from isod.training.memory import keep_memory

SWITCH_INTERVAL = 5e-4  # seconds; Python's own is 5e-3


def settle(threads: int) -> None:
    """Torch's CPU threads, memory that stays with the process, and how soon the interpreter changes between threads.

    Ray Data schedules and unpacks in threads of the process that trains, and each operation of torch gives the
    interpreter away and wants it back: it then waits for as long as such a thread may keep it. The shorter interval
    gave 2 to 4 % of the images per second of a trial of the demo preset on two cores (benchmarks/README.md).
    """
    torch.set_num_threads(threads)
    sys.setswitchinterval(SWITCH_INTERVAL)
    keep_memory()


def check_compiler(device: torch.device) -> None:
    """Raises InputError if what torch.compile needs of the machine is not there: it would say so from far below."""
    variable, names = ("CXX", ("g++", "clang++")) if device.type == "cpu" else ("CC", ("gcc", "clang"))
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = []
    if variable not in os.environ and not any(shutil.which(name) for name in names):
        missing.append(f"a compiler ({' or '.join(names)})")
    if not header.exists():
        missing.append(f"Python's headers ({header})")
    if missing:
        raise InputError(f"compiled needs {' and '.join(missing)}: install that, or train with --no-compiled")
