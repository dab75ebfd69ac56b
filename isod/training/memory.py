"""An allocator that keeps what it has."""

from __future__ import annotations

import ctypes
import sys

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
