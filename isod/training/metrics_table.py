"""metrics.csv, one row per validation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from isod.errors import InputError
from isod.files import atomic_write
from isod.training.folder import Row


class MetricsTable:
    """metrics.csv: one row per validation. Written whole each time, so that no interruption leaves half a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = []
        if path.exists():
            try:
                table = pd.read_csv(path)
                if "iteration" not in table:
                    raise ValueError("it has no column 'iteration'")
                self.rows = table.to_dict("records")  # type: ignore[assignment]
            except ValueError as error:
                raise InputError(f"{path} is damaged ({error}): start the run anew, in another folder") from None

    def keep(self, iteration: int) -> None:
        """Forget the rows after an iteration: those that the run will write again."""
        self.rows = [row for row in self.rows if row["iteration"] <= iteration]

    def append(self, metrics: dict[str, float], iteration: int) -> None:
        """Adds the row of one validation. Raises OSError if the file cannot be written; the row is then in the next."""
        self.rows.append({"iteration": iteration, **metrics})
        self.write()

    def write(self) -> None:
        """Every row so far. Raises OSError if that cannot be."""
        with atomic_write(self._path) as part:
            pd.DataFrame(self.rows).to_csv(part, index=False)

    def history(self) -> list[Row]:
        """(iteration, metrics) of every row."""
        return [(int(row["iteration"]), {k: v for k, v in row.items() if k != "iteration"}) for row in self.rows]
