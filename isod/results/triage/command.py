"""``isod triage``: the examples that a run drew most often, and what may be wrong with their labels (thesis §6.1.1)."""

from __future__ import annotations

import ast
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isod.config.settings import DetectorConfig
from isod.data.store.split import CropStore
from isod.detector import Detector
from isod.errors import InputError, one_line
from isod.results.triage.page import summary, write_sheet
from isod.results.triage.sheet import make_sheet
from isod.tracking.run_reader import RecordedRun, read_run
from isod.vocabulary import MODEL


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
    found = read_run(tracking_uri, run, experiment)
    require_same_data(found, crops)
    sheet = make_sheet(
        f"run {found.name} (experiment {found.experiment})",
        found.examples,
        crops,
        None if found.model is None else load_detector(found, crops),
        detector_config(found.params),
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


def detector_config(params: dict[str, str]) -> DetectorConfig:
    """Return the detector's settings from a run's parameters ``detector.*``; missing ones have their default.

    Raises:
        InputError: a parameter that is not a value of its setting.
    """
    given = {}
    for field in fields(DetectorConfig):
        text = params.get(f"detector.{field.name}")
        if text is not None:
            try:
                given[field.name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                raise InputError(
                    f"the run's parameter detector.{field.name} is not a Python value, got {text!r}"
                ) from None
    try:
        return DetectorConfig(**given)
    except TypeError:
        raise InputError(f"the run's parameters detector.* are not the settings of a detector: {given}") from None


def load_detector(run: RecordedRun, store: CropStore) -> Detector:
    """Return the run's trained network.

    Raises:
        InputError: a model that cannot be read, or one that does not fit its settings or the store's classes.
    """
    detector = Detector(len(store.meta.class_names), detector_config(run.params), seed=0)
    weights = _read_weights(run)
    try:
        detector.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{MODEL} of run {run.name!r} does not fit its parameters detector.* and the {len(store.meta.class_names)} "
            f"classes of {store.uri}: {reason}"
        ) from None
    return detector.eval()


def _read_weights(run: RecordedRun) -> Any:
    """Return the state dict in the run's model.pt; a damaged file may fail in torch with any error, of many lines."""
    try:
        return torch.load(io.BytesIO(run.model or b""), map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{MODEL} of run {run.name!r} cannot be read: {one_line(error, 200)}") from None
