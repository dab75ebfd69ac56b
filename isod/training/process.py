"""What a process that trains is set to before it begins."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def settle(threads: int) -> None:
    """Torch's CPU threads, and an allocator that keeps what it has: each step frees and takes the same large tensors,
    and handing their pages back to the kernel in between cost a tenth of a step of the demo preset.

    Freed memory then stays with the process, up to the most it ever used. Other C libraries than glibc are left alone.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(setting, 2**31 - 1)
