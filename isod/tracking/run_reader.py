"""One run from MLflow with its artifacts: settings, statistics of its examples, trained model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from isod.errors import InputError
from isod.tracking.client import NEWEST, explained, open_for_reading
from isod.vocabulary import EXAMPLES, MODEL, OLD_MODEL, PARENT_TAG, SEARCH_TAG, STOPPED_TAG, SWEEP_TAG

COLUMNS = ("index", "frame_id", "draw_count", "mean_importance")  # that every examples.parquet has
LISTED = 6  # runs that a message names


@dataclass(frozen=True)
class RecordedRun:
    """What MLflow has of one run."""

    run_id: str
    name: str
    experiment: str
    params: dict[str, str]
    examples: pd.DataFrame  # one row per row of the store's train split
    model: Path | None  # the saved detector's folder; None if the run has none
    old_model: bool  # whether the run has the model file of an isod before 0.2 instead


def read_run(tracking_uri: str, run: str, folder: Path, experiment: str | None = None) -> RecordedRun:
    """Read one run: its parameters, examples.parquet, and its saved detector if it has one.

    Args:
        run: an MLflow run id, or the name of a run (``UIS-seed0``) if there is one of that name.
        folder: where its files go.
        experiment: where to look for the run; None looks everywhere.
    Raises:
        InputError: no such run, or several; a run without readable statistics of its examples; a store that cannot be
            used.
    """
    client = open_for_reading(tracking_uri)
    with explained(tracking_uri):
        found = _find(client, tracking_uri, run, experiment)
        run_id, name = found.info.run_id, name_of_run(found)
        artifacts = {item.path for item in client.list_artifacts(run_id)}
        if EXAMPLES not in artifacts:
            raise InputError(_why_no_examples(client, found))
        examples = _read_examples(client.download_artifacts(run_id, EXAMPLES, str(folder)), name)
        model = None
        if MODEL in artifacts:
            model = Path(client.download_artifacts(run_id, MODEL, str(folder)))
        where = client.get_experiment(found.info.experiment_id).name
    return RecordedRun(run_id, name, where, dict(found.data.params), examples, model, OLD_MODEL in artifacts)


@cache  # of a run it never changes
def model_address(tracking_uri: str, run_id: str) -> str | None:
    """Return the folder of a run's saved detector on this machine; None where MLflow keeps it elsewhere."""
    client = open_for_reading(tracking_uri)
    with explained(tracking_uri):
        place = urlsplit(f"{client.get_run(run_id).info.artifact_uri}/{MODEL}")
    return unquote(place.path) if place.scheme in ("", "file") else None


def name_of_run(run: Run) -> str:
    """Return the run's name; its id if it has none."""
    return run.info.run_name or run.info.run_id


def _find(client: MlflowClient, tracking_uri: str, run: str, experiment: str | None) -> Run:
    """Return the one run of that id or name."""
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    if experiment is not None:
        names = ", ".join(sorted(experiments.values())) or "none"
        experiments = {key: name for key, name in experiments.items() if name == experiment}
        if not experiments:
            raise InputError(f"{tracking_uri} has no experiment {experiment!r}; it has: {names}")
    place = tracking_uri if experiment is None else f"experiment {experiment!r} of {tracking_uri}"
    quote = "'" if '"' in run else '"'
    if quote in run:
        raise InputError(f"a run's name cannot have both kinds of quotes, got {run!r}: use its id")
    wanted = f"attributes.run_name = {quote}{run}{quote}"
    if re.fullmatch("[0-9a-f]{32}", run):
        wanted = f"attributes.run_id = '{run}'"
    matching = list(client.search_runs(list(experiments), wanted, order_by=NEWEST)) if experiments else []
    if len(matching) == 1:
        return matching[0]
    if not matching:
        latest = client.search_runs(list(experiments), order_by=NEWEST, max_results=LISTED) if experiments else []
        names = ", ".join(map(name_of_run, latest)) or "none"
        raise InputError(f"{place} has no run {run!r}; the latest are: {names}")
    listed = ", ".join(
        f"{item.info.run_id} ({experiments[item.info.experiment_id]}, started "
        f"{pd.Timestamp(item.info.start_time, unit='ms'):%Y-%m-%d %H:%M} UTC)"
        for item in matching[:LISTED]
    )
    raise InputError(f"{place} has {len(matching)} runs {run!r}: give the id of one of them: {listed}")


def _why_no_examples(client: MlflowClient, run: Run) -> str:
    name = name_of_run(run)
    if SWEEP_TAG in run.data.tags or SEARCH_TAG in run.data.tags:
        wanted = f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"
        children = client.search_runs([run.info.experiment_id], wanted, max_results=LISTED)
        names = ", ".join(sorted(map(name_of_run, children))) or "none"
        what = "sweep" if SWEEP_TAG in run.data.tags else "search"
        return f"run {name!r} is a {what}: choose one of its runs ({names})"
    if STOPPED_TAG in run.data.tags:
        return f"run {name!r} has no per-example statistics ({EXAMPLES}): the scheduler of its search stopped it early"
    why = {
        "RUNNING": "it is still running, and writes them when it ends",
        "SCHEDULED": "it has not started",
        "FAILED": "it failed, and a run writes them when it ends",
        "KILLED": "it was stopped, and a run writes them when it ends",
    }.get(run.info.status, "isod did not write it")
    return f"run {name!r} has no per-example statistics ({EXAMPLES}): {why}"


def _read_examples(path: str, name: str) -> pd.DataFrame:
    try:
        examples = pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{EXAMPLES} of run {name!r} cannot be read: {str(error).splitlines()[0]}") from None
    missing = [column for column in COLUMNS if column not in examples]
    if missing:
        raise InputError(f"{EXAMPLES} of run {name!r} has no column {', '.join(missing)}: isod did not write it")
    if "margin" not in examples:  # runs of an isod that did not record it
        examples["margin"] = np.nan
    examples = examples.sort_values("index", ignore_index=True)
    if not np.array_equal(examples["index"], np.arange(len(examples))):
        raise InputError(f"{EXAMPLES} of run {name!r} does not have one row per example: isod did not write it")
    return examples
