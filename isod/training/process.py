"""What a process that trains is set to before it begins."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from isod.errors import InputError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
SWITCH_INTERVAL = 5e-4  # seconds; Python's own is 5e-3
HEAP = 64 * 2**20  # bytes; threads other than the main one have memory in such pieces


def settle(threads: int) -> None:
    """Torch's CPU threads, an allocator that keeps what it has, and how soon the interpreter changes between threads.

    Each step frees and takes the same large tensors, and handing their pages back to the kernel in between cost a tenth
    of a step of the demo preset. Freed memory then stays with the process, up to the most it ever used; but for tensors
    of more than 64 MiB where training is not in the main thread, as in a trial. Other C libraries than glibc are left
    alone.

    Ray Data schedules and unpacks in threads of the process that trains, and each operation of torch gives the
    interpreter away and wants it back: it then waits for as long as such a thread may keep it. The shorter interval
    gave 2 to 4 % of the images per second of a trial of the demo preset on two cores (benchmarks/README.md).
    """
    torch.set_num_threads(threads)
    sys.setswitchinterval(SWITCH_INTERVAL)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        never = 2**31 - 1
        # a piece that is empty goes back unless what is left of the one before it is less than the padding
        for setting, value in ((M_MMAP_THRESHOLD, never), (M_TRIM_THRESHOLD, never), (M_TOP_PAD, HEAP)):
            libc.mallopt(setting, value)


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
