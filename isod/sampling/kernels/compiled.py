"""How the functions of this folder are compiled: by numba, at their first call, and cached beside their files.

Arrays are one-dimensional, nothing allocates more than a batch, and sums are float64.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from isod.files import private_folder

_njit: Any = numba.njit
_config: Any = numba.config
# Functions call each other across files, and numba itself compiles one again only if its own file has changed.
_FILES = tuple((stat.st_mtime, stat.st_size) for stat in (p.stat() for p in sorted(Path(__file__).parent.glob("*.py"))))

# _nrt=False: nothing here allocates, and without numba's reference counts the loops run twice as fast.
inlined = _njit(inline="always", _nrt=False)


def cached(function: Callable[..., Any], **options: Any) -> Any:
    """Return ``numba.njit(cache=True, **options)(function)``, also where numba finds no folder for its cache.

    That is so where neither isod's files nor the home folder can be written. Then the cache is a private folder for
    temporary files, and if that is not to be had, the function is compiled anew in every process.
    """
    try:
        return _njit(cache=True, **options)(function)
    except RuntimeError as error:  # "no locator available"
        if "cache" not in str(error):
            raise
    if (folder := private_folder(os.path.join(tempfile.gettempdir(), f"isod-numba-{os.getuid()}"))) is None:
        return _njit(**options)(function)
    _config.CACHE_DIR = folder
    return _njit(cache=True, **options)(function)


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function compiled; the cache is used as long as no file of this folder has changed."""
    dispatcher = cached(function, _nrt=False)
    if hasattr(dispatcher._cache, "_cache_file"):  # there is a cache
        dispatcher._cache._cache_file._source_stamp = _FILES
    return dispatcher
