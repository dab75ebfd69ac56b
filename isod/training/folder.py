"""The folder that a run leaves its results in, and how far the run has come there; needs neither torch nor pandas.

metrics.csv        one row per validation, written as they come
checkpoint-*.pt    until the run has finished
examples.parquet   per-example statistics
model/             the trained detector (isod.detector.saved); written last: the run has finished
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isod.vocabulary import METRICS, MODEL

Row = tuple[int, dict[str, float]]  # iteration, metrics


@dataclass(frozen=True)
class RunFolder:
    """Where one run leaves its results, and how far it has come there."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run has ended: the trained model is written last."""
        return (self.path / MODEL).is_dir()

    @property
    def begun(self) -> bool:
        """Whether there is anything of a run."""
        return self.finished or (self.path / METRICS).exists() or any(self._checkpoints())

    @contextmanager
    def opened(self, patience: float = 0.0) -> Iterator[Path]:
        """Yield the folder itself, as ``RemoteFolder.opened`` yields a copy."""
        yield self.path

    worked_in = opened

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints of a run that will not be resumed."""
        for path in self._checkpoints():
            path.unlink(missing_ok=True)

    def _checkpoints(self) -> Iterator[Path]:
        return self.path.glob("checkpoint-*.pt")
