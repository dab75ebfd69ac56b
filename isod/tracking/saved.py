"""A sweep's runs and curves as two small Parquet files, to be read where there is no MLflow store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from isod.errors import InputError
from isod.tracking.runs import Runs, stores_by_name
from isod.vocabulary import SWEEP_TAG

RUNS, CURVES = "runs.parquet", "curves.parquet"
FILES = ("sampler.subset", "detector.weights", "holdout.detector.weights")  # settings that name a file
SWEEP = SWEEP_TAG.encode()  # key of the Parquet metadata that holds what is neither run nor curve


def save_runs(runs: Runs, folder: Path) -> None:
    """Write ``runs.parquet`` and ``curves.parquet`` into a folder, which is made.

    The files may be published: they hold no user or password, and no folder but the last. Of the store and of a
    database's file only the name is kept, of a file that a setting names that and its folder's, of a server's address
    only the scheme, and of the sweep's tags those of isod. What reads the MLflow store itself, as ``load_examples`` and
    ``write_report`` do, cannot use them.

    Raises:
        InputError: the folder cannot be made or written.
    """
    runs = _without_places(runs)
    sweep = {
        **{key: value for key, value in vars(runs).items() if isinstance(value, str)},
        "tags": runs.tags,
        "left_out": runs.left_out.to_dict("list"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(runs.runs.reset_index(), folder / RUNS, {SWEEP: json.dumps(sweep).encode()})
        _write(
            runs.curves,
            folder / CURVES,
            use_dictionary=["metric", "sampler"],
            column_encoding=dict.fromkeys(("seed", "step"), "DELTA_BINARY_PACKED") | {"value": "BYTE_STREAM_SPLIT"},
        )
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None


def saved_runs(folder: Path) -> Runs:
    """Return the runs that ``save_runs`` wrote.

    Raises:
        InputError: the folder holds no such files.
    """
    try:
        table = pq.read_table(folder / RUNS)
        curves = pq.read_table(folder / CURVES).to_pandas(ignore_metadata=True)
        sweep = json.loads(table.schema.metadata[SWEEP])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise InputError(f"{folder} holds no saved runs ({RUNS}, {CURVES}): {error}") from None
    left_out = pd.DataFrame(sweep.pop("left_out"))
    frame = table.to_pandas(ignore_metadata=True).set_index("run_id")
    return Runs(**sweep, runs=frame, curves=curves, left_out=left_out)


def _write(
    frame: pd.DataFrame,
    path: Path,
    metadata: Mapping[bytes, bytes] | None = None,
    *,
    use_dictionary: Sequence[str] = (),
    **options: Any,
) -> None:
    """Write a table as small as Parquet can: without schema and statistics, which are most of a short table's file."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    lean = {"compression": "zstd", "compression_level": 19, "write_statistics": False, "store_schema": False}
    with pq.ParquetWriter(path, table.schema, use_dictionary=list(use_dictionary), **lean, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(dict(metadata or {}))


def _without_places(runs: Runs) -> Runs:
    tags = {key: value for key, value in runs.tags.items() if key.startswith("isod.")}
    address = urlsplit(runs.tracking_uri)
    database = "" if address.netloc else PurePosixPath(address.path).name
    table = stores_by_name(runs.runs).drop(columns="tracking_uri", errors="ignore")
    for name in (f"params.{setting}" for setting in FILES):
        if name in table:
            table = table.assign(**{name: table[name].map(_last_two, na_action="ignore")})
    return replace(runs, tracking_uri=database or address.scheme, tags=tags, runs=table)


def _last_two(path: str) -> str:
    return "/".join(PurePosixPath(path).parts[-2:])
