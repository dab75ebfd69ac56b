"""The per-example statistics of finished runs, from their folders or from MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from isod.data.store.split import CropSplit
from isod.errors import InputError, one_line
from isod.vocabulary import EXAMPLES


def read_statistics(run: str, split: CropSplit, tracking_uri: str, experiment: str | None) -> pd.DataFrame:
    """Return a run's examples.parquet, one row per row of the split.

    Args:
        run: the folder of a run, or the id or name of one in MLflow, which is imported for it.
    Raises:
        InputError: no such run, no statistics, or statistics of other data.
    """
    path = Path(run) / EXAMPLES
    if path.exists():
        try:
            frame = pd.read_parquet(path).sort_values("index", ignore_index=True)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} cannot be read: {one_line(error)}") from None
    elif Path(run).is_dir():
        raise InputError(f"{run} has no {EXAMPLES}: a run writes it when it ends")
    else:
        from isod.tracking.run_reader import read_run

        with tempfile.TemporaryDirectory() as folder:
            frame = read_run(tracking_uri, run, Path(folder), experiment).examples
    names = np.array(split.annotations().frame_ids, dtype=object)
    if len(frame) != len(split) or not np.array_equal(frame["frame_id"].to_numpy(), names):
        raise InputError(
            f"run {run} trained on other data than {split.uri}: it has statistics of {len(frame)} examples, and the "
            f"store has {len(split)}" + " with other names" * (len(frame) == len(split))
        )
    return frame
