"""``isod triage``: the examples that a run drew most often, and what may be wrong with their labels (thesis §6.1.1)."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from isod.config.fields import settings_in
from isod.config.overrides import Assignment, override
from isod.config.settings import DetectorConfig
from isod.data.store.split import CropStore
from isod.detector import Detector
from isod.errors import InputError
from isod.results.triage.page import summary, write_sheet
from isod.results.triage.sheet import make_sheet
from isod.tracking.examples import ARTIFACT as EXAMPLES
from isod.tracking.histories import connect, explained
from isod.vocabulary import PARENT_TAG, SWEEP_TAG

MODEL = "model.pt"
COLUMNS = ("index", "frame_id", "draw_count", "mean_importance")  # that every examples.parquet has
LISTED = 6  # runs that a message names


@dataclass(frozen=True)
class TriageRun:
    """What MLflow keeps of one run and triage needs."""

    run_id: str
    name: str
    experiment: str
    params: dict[str, str]
    examples: pd.DataFrame  # one row per row of the store's train split
    weights: dict[str, torch.Tensor] | None  # state dict of the detector; None where the run left none


def triage_command(
    tracking_uri: str, run: str, store: str, out: Path | str, *, experiment: str | None = None, top: int = 100
) -> Path:
    """Write the contact sheet and its CSV into a folder, and print what is in them.

    Args:
        run: an MLflow run id, or the name of a run (``UIS-seed0``) if there is one of that name.
        store: the crop store that the run trained on.
        experiment: where to look for the run; None looks everywhere.
        top: how many examples the sheet shows.
    Returns:
        The path of triage.html.
    Raises:
        InputError: no such run, or several; a run without per-example statistics; a store of other data; nowhere to
            write.
    """
    if top < 1:
        raise InputError(f"--top must be ≥ 1, got {top}")
    crops = CropStore.open(store)
    found = load_run(tracking_uri, run, experiment)
    require_same_data(found, crops)
    sheet = make_sheet(
        f"run {found.name} (experiment {found.experiment})",
        found.examples,
        crops,
        None if found.weights is None else load_detector(found, crops),
        detector_config(found.params),
        top=top,
        trained_on=found.params.get("store"),
    )
    page = write_sheet(sheet, Path(out))
    print(summary(sheet))
    return page


def load_run(tracking_uri: str, run: str, experiment: str | None = None) -> TriageRun:
    """Read one run: its parameters, examples.parquet, and model.pt if it has one. Raises InputError."""
    client = connect(tracking_uri)
    with explained(tracking_uri):
        found = _find(client, tracking_uri, run, experiment)
        where = client.get_experiment(found.info.experiment_id).name
        name = found.info.run_name or found.info.run_id
        artifacts = {item.path for item in client.list_artifacts(found.info.run_id)}
        if EXAMPLES not in artifacts:
            raise InputError(_why_no_examples(client, found, name))
        with tempfile.TemporaryDirectory() as folder:
            examples = _read_examples(client.download_artifacts(found.info.run_id, EXAMPLES, folder), name)
            weights = None
            if MODEL in artifacts:
                weights = _read_weights(client.download_artifacts(found.info.run_id, MODEL, folder), name)
    return TriageRun(found.info.run_id, name, where, dict(found.data.params), examples, weights)


def _find(client: MlflowClient, tracking_uri: str, run: str, experiment: str | None) -> Run:
    """The one run of that id or name."""
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
    latest = ["attributes.start_time DESC"]
    matching = list(client.search_runs(list(experiments), wanted, order_by=latest)) if experiments else []
    if len(matching) == 1:
        return matching[0]
    if not matching:
        there = client.search_runs(list(experiments), order_by=latest, max_results=LISTED) if experiments else []
        names = ", ".join(item.info.run_name or item.info.run_id for item in there) or "none"
        raise InputError(f"{place} has no run {run!r}; the latest are: {names}")
    listed = ", ".join(
        f"{item.info.run_id} ({experiments[item.info.experiment_id]}, started "
        f"{pd.Timestamp(item.info.start_time, unit='ms'):%Y-%m-%d %H:%M} UTC)"
        for item in matching[:LISTED]
    )
    raise InputError(f"{place} has {len(matching)} runs {run!r}: give one's id instead: {listed}")


def _why_no_examples(client: MlflowClient, run: Run, name: str) -> str:
    if SWEEP_TAG in run.data.tags:
        children = client.search_runs(
            [run.info.experiment_id], f"tags.`{PARENT_TAG}` = '{run.info.run_id}'", max_results=LISTED
        )
        names = ", ".join(sorted(item.info.run_name or item.info.run_id for item in children)) or "none"
        return f"run {name!r} is a whole sweep: choose one of its runs ({names})"
    why = {
        "RUNNING": "it is still running, and leaves them when it ends",
        "SCHEDULED": "it has not started",
        "FAILED": "it failed, and a run leaves them when it ends",
        "KILLED": "it was stopped, and a run leaves them when it ends",
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
        raise InputError(f"{EXAMPLES} of run {name!r} has not one row for each example: isod did not write it")
    return examples


def _read_weights(path: str, name: str) -> dict[str, torch.Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file may fail in torch with any error, of many lines.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{MODEL} of run {name!r} cannot be read: {reason}") from None


def require_same_data(run: TriageRun, store: CropStore) -> None:
    """Refuse a store of other data than the run's; one that was moved is the same. Raises InputError."""
    split = store.split("train")
    trained_on = run.params.get("store", "a store that it does not name")
    what = f"run {run.name!r} trained on {trained_on}, and {store.uri} holds other data"
    if len(run.examples) != len(split):
        raise InputError(f"{what}: {len(run.examples)} training examples there, {len(split)} here")
    names = split.annotations().frame_ids
    different = np.flatnonzero(run.examples["frame_id"].to_numpy() != np.array(names, dtype=object))
    if len(different):
        at = int(different[0])
        raise InputError(f"{what}: example {at} is frame {run.examples['frame_id'][at]!r} there, {names[at]!r} here")


def detector_config(params: dict[str, str]) -> DetectorConfig:
    """The detector's settings from a run's parameters ``detector.*``; what is not there keeps its default.

    Raises InputError for a value that is not one.
    """
    known = settings_in({"detector": DetectorConfig()})
    given = [
        Assignment(name, text, f"the run's parameter {name}={text}") for name, text in params.items() if name in known
    ]
    return override({"detector": DetectorConfig()}, given)["detector"]


def load_detector(run: TriageRun, store: CropStore) -> Detector:
    """The run's trained network. Raises InputError if its weights do not fit its settings or the store's classes."""
    detector = Detector(len(store.meta.class_names), detector_config(run.params), seed=0)
    try:
        detector.load_state_dict(run.weights or {})
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{MODEL} of run {run.name!r} does not fit its parameters detector.* and the {len(store.meta.class_names)} "
            f"classes of {store.uri}: {reason}"
        ) from None
    return detector.eval()
