"""What a process that trains is set to before it begins."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from isod.errors import InputError

if TYPE_CHECKING:
    import torch  # a decode worker keeps its memory without

SWITCH_INTERVAL = 5e-4  # seconds; Python's own is 5e-3


def configure_process(threads: int) -> None:
    """Torch's CPU threads, memory that stays with the process, and how soon the interpreter changes between threads.

    Ray Data schedules and unpacks in threads of the process that trains, and each operation of torch gives the
    interpreter away and wants it back: it then waits for as long as such a thread may keep it. The shorter interval
    gave 2 to 4 % of the images per second of a trial of the demo preset on two cores (docs/benchmark-diary.md).
    """
    import torch

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


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
HEAP = 64 * 2**20  # bytes; threads other than the main one have memory in such pieces


def keep_memory() -> None:
    """Freed memory stays with this process, up to the most it ever used, for the next array that is as large.

    Otherwise glibc takes every large array from the kernel and hands it back, and the kernel clears its pages anew:
    a tenth of a training step of the demo preset, and of the decoding of a batch of 1280×384. Not kept is what is
    larger than 64 MiB in another thread than the main one, or, by a glibc that allows no more, than 32 MiB. Other C
    libraries are left alone.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        never = 2**31 - 1
        # in this order: the others, too, would end glibc's own adjusting of a threshold that cannot be set
        if libc.mallopt(M_MMAP_THRESHOLD, never) or libc.mallopt(M_MMAP_THRESHOLD, HEAP // 2):
            libc.mallopt(M_TRIM_THRESHOLD, never)
            # a piece that is empty goes back unless what is left of the one before it is less than the padding
            libc.mallopt(M_TOP_PAD, HEAP)
