"""The folder that a run leaves its results in, and how far the run has come there; needs neither torch nor pandas.

metrics.csv        one row per validation, written as they come
checkpoint-*.pt    while the run goes on
examples.parquet   per-example statistics
model.pt           the network's weights; written last: the run has finished"""

from __future__ import annotations

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
        """Whether the run has come to its end."""
        return (self.path / MODEL).exists()

    @property
    def begun(self) -> bool:
        """Whether there is anything of a run."""
        return self.finished or (self.path / METRICS).exists() or any(self.path.glob("checkpoint-*.pt"))
