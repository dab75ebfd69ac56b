"""``isod triage``: the examples that a run drew most often, and what may be wrong with their labels (thesis §6.1.1)."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np

from isod.data.store.split import CropStore
from isod.detector.model import DetectorModel
from isod.detector.saved import load_model
from isod.errors import InputError
from isod.files import absolute_uri
from isod.results.statistics.best import best_model, scoring_runs
from isod.results.triage.page import summary, write_sheet
from isod.results.triage.sheet import make_sheet
from isod.tracking.run_reader import RecordedRun, read_run
from isod.tracking.sweep_reader import load_runs
from isod.vocabulary import OLD_MODEL

log = logging.getLogger(__name__)


def triage_command(
    tracking_uri: str,
    run: str | None,
    store: str | None,
    out: Path | str,
    *,
    experiment: str | None = None,
    top: int = 100,
) -> Path:
    """Write the contact sheet and its CSV into a folder, and print what is in them.

    Args:
        run: an MLflow run id, or the name of a run (``UIS-seed0``) if there is one of that name; None for the one with
            the highest mAP among those of the last sweep that score.
        store: the crop store that the run trained on; None for the one that the run names.
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
    if run is None:
        runs = load_runs(tracking_uri, experiment)
        run = best_model(scoring_runs(runs)).run_id
    crops = None if store is None else CropStore.open(absolute_uri(store))
    with tempfile.TemporaryDirectory() as folder:
        found = read_run(tracking_uri, run, Path(folder), experiment)
        if crops is None:
            if "store" not in found.params:
                raise InputError(f"run {found.name!r} does not say which crop store it trained on: give --store")
            crops = CropStore.open(found.params["store"])
        require_same_data(found, crops)
        detector, threshold = (None, 0.0) if found.model is None else open_model(found.model, crops)
    if found.old_model:
        log.warning(
            "run %s has the %s of an isod before 0.2, which this one does not read: the sheet shows no predictions; "
            "the isod that trained the run shows them",
            found.name,
            OLD_MODEL,
        )
    sheet = make_sheet(
        f"run {found.name} (experiment {found.experiment})",
        found.examples,
        crops,
        detector,
        threshold,
        top=top,
        trained_on=found.params.get("store"),
    )
    page = write_sheet(sheet, Path(out))
    print(summary(sheet))
    return page


def require_same_data(run: RecordedRun, store: CropStore) -> None:
    """Raise InputError if the store holds other data than the run trained on; a store that was moved is the same."""
    split = store.split("train")
    trained_on = run.params.get("store", "a store that it does not name")
    what = f"run {run.name!r} trained on {trained_on}, but {store.uri} holds other data"
    if len(run.examples) != len(split):
        raise InputError(f"{what}: {len(run.examples)} training examples there, {len(split)} here")
    names = split.annotations().frame_ids
    different = np.flatnonzero(run.examples["frame_id"].to_numpy() != np.array(names, dtype=object))
    if len(different):
        at = int(different[0])
        raise InputError(f"{what}: example {at} is frame {run.examples['frame_id'][at]!r} there, {names[at]!r} here")


def open_model(folder: Path, store: CropStore) -> tuple[DetectorModel, float]:
    """Return a saved detector, and the least score of its detections that people are shown.

    Raises:
        InputError: a model that cannot be read, or that knows other classes than the store.
    """
    detector, description = load_model(folder)
    store.meta.require_classes(description.class_names, store.uri, whose="the run's model")
    return detector, description.shown_from
