"""How the functions of this folder are compiled: by numba, at their first call, and cached beside their files.

Arrays are one-dimensional, nothing allocates more than a batch, and sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_njit: Any = numba.njit
# Functions call each other across files, and numba itself compiles one again only if its own file has changed.
_FILES = tuple((stat.st_mtime, stat.st_size) for stat in (p.stat() for p in sorted(Path(__file__).parent.glob("*.py"))))

# _nrt=False: nothing here allocates, and without numba's reference counts the loops run twice as fast.
inlined = _njit(inline="always", _nrt=False)


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function compiled; the cache is used as long as no file of this folder has changed."""
    dispatcher = _njit(cache=True, _nrt=False)(function)
    dispatcher._cache._cache_file._source_stamp = _FILES
    return dispatcher
