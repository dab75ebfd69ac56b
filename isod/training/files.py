"""The files that a run leaves in its folder, by name; needs neither torch nor pandas.

metrics.csv        one row per validation, written as they come
checkpoint-*.pt    while the run goes on
examples.parquet   per-example statistics
model.pt           the network's weights; written last: the run has finished
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isod.errors import InputError

Row = tuple[int, dict[str, float]]  # iteration, metrics

METRICS, EXAMPLES, MODEL = "metrics.csv", "examples.parquet", "model.pt"


def output_folder(path: Path) -> Path:
    """The folder, made if need be, as an absolute path. Raises InputError if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to the folder {path} ({error.strerror}): choose another --out") from None
    return path.resolve()


@contextmanager
def whole(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its place at the end. Whatever is raised, ``path`` is as it was, no
    part stays, and an OSError names ``path``.

    Args:
        part: the file to write, in the same folder; ``path`` with the ending .part by default.
    """
    part = part or path.with_suffix(".part")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def absolute(store_uri: str) -> str:
    """The store's address, or its folder's absolute path: what names it from any other folder too."""
    return store_uri if "://" in store_uri else str(Path(store_uri).resolve())


@dataclass(frozen=True)
class RunFolder:
    """Where one run leaves its results, and how far it has come there."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / MODEL).exists()

    @property
    def begun(self) -> bool:
        """Whether there is anything of a run."""
        return self.finished or (self.path / METRICS).exists() or any(self.path.glob("checkpoint-*.pt"))
