"""A sweep into MLflow: one parent run, and one child per trial with its parameters, metrics, tags and files.

Only the process that runs the sweep writes. Calls to MLflow are queued (``Deliveries``), so training never waits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import DatasetInput, Metric, Param, Run, RunInfo
from mlflow.tracking import MlflowClient

from isod.config.record import changes, current, flatten
from isod.config.settings import RunConfig
from isod.errors import InputError
from isod.tracking.client import Experiment, children_of, explained, search, time_limits
from isod.tracking.deliveries import Deliveries, reason
from isod.tracking.logged_model import has_no_logged_models, log_detector
from isod.tracking.metric_names import EXTREMES, MAX_CLASSES, class_keys, extreme_classes, mlflow_key
from isod.training.folder import Row, RunFolder
from isod.training.remote_folder import RemoteFolder
from isod.vocabulary import (
    COMMIT_TAG,
    DEVICE_TAG,
    ERROR_TAG,
    EXAMPLES,
    HEADLINE,
    METRICS,
    MODEL,
    NAME_TAG,
    PARENT_TAG,
    RESUMED_TAG,
    STOPPED_TAG,
    SWEEP_TAG,
)

PARAMS_PER_CALL = 100  # MLflow's limit for one log_batch call
METRICS_PER_CALL = 1000  # likewise
SETTINGS_FILE = "sweep.json"  # artifact of the parent run
RUN_SETTINGS_FILE = "config.json"  # artifact of a run without a parent

log = logging.getLogger("isod")


@dataclass
class SweepRecord:
    """A sweep in MLflow: its parent run, and what MLflow has of its trials."""

    parent_run_id: str  # "" for a run without a parent
    runs: dict[str, str] = field(default_factory=dict)  # trial name → run id
    finished: set[str] = field(default_factory=set)  # names of the trials that are complete


def begin_sweep(
    experiment: Experiment,
    name: str,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    dataset: DatasetInput | None = None,
    *,
    kind: str = SWEEP_TAG,
) -> SweepRecord:
    """Create the parent run. Its parameters, and its file sweep.json, are ``settings``: what all trials share.

    Args:
        dataset: what they train on; see ``isod.tracking.dataset``.
        kind: the tag that holds the name: ``SWEEP_TAG`` or ``SEARCH_TAG``.
    Raises:
        InputError: the store refuses the run or the file; every trial would end with a file that cannot be delivered.
    """
    client = experiment.client
    with explained(experiment.tracking_uri):
        parent = client.create_run(experiment.id, tags={NAME_TAG: name, kind: name, **tags}).info
        _log_params(client, parent.run_id, settings)
        _log_input(client, parent.run_id, dataset)
        _log_settings(client, parent, settings)
    return SweepRecord(parent.run_id)


def begin_run(experiment: Experiment, name: str, settings: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Create a run without a parent, with its settings as a file, and return its id.

    Raises:
        InputError: the store refuses the run or the file.
    """
    client = experiment.client
    with explained(experiment.tracking_uri):
        run = client.create_run(experiment.id, tags={NAME_TAG: name, **tags}).info
        _log_settings(client, run, settings, RUN_SETTINGS_FILE)
    return str(run.run_id)


def resume_sweep(
    experiment: Experiment,
    name: str,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    trials: Mapping[str, RunConfig],
    *,
    runs: str = "",
    kind: str = SWEEP_TAG,
) -> SweepRecord:
    """Reopen the sweep of this name that began with these settings.

    Of several it is one whose folder is here; of these the one with the most of the trials; of these the newest.

    Args:
        trials: what will run now, by name.
        runs: folder, or address, that has a folder for each sweep, by its parent's id.
        kind: the tag that holds the name, as ``begin_sweep`` takes it.
    Raises:
        InputError: there is none, all of them or one of the trials began with other settings, or the store refuses
            files; nothing is changed there.
    """
    client, what = experiment.client, kind.removeprefix("isod.")
    with explained(experiment.tracking_uri):
        parents = search(client, experiment.id, f"tags.`{kind}` = '{name}'")
        if not parents:
            raise InputError(f"there is no {what} {name!r} to resume in this MLflow experiment: leave out --resume")
        now_set = {key: str(value) for key, value in settings.items()}
        fitting = [parent for parent in parents if not changes(parent.data.params, now_set)]
        if not fitting:
            text = changes(parents[0].data.params, now_set)
            raise InputError(f"the {what} {name!r} to resume began with other settings ({text}): use the same")
        children = {p.info.run_id: children_of(client, experiment.id, p.info.run_id) for p in fitting}

        def rank(parent: Run) -> tuple[bool, int]:
            known = {run.data.tags[NAME_TAG] for run in children[parent.info.run_id]}
            return Path(runs, parent.info.run_id).is_dir(), len(known & trials.keys())

        parent = max(fitting, key=rank)  # of equals the first, which is the newest
        record = SweepRecord(parent.info.run_id)
        for run in children[parent.info.run_id]:
            trial = run.data.tags[NAME_TAG]
            if trial in trials:
                require_same_trial(trial, run.data.params, trials[trial])
            record.runs[trial] = run.info.run_id
            if run.info.status == "FINISHED":
                record.finished.add(trial)
        _log_settings(client, parent.info, settings, begun=False)
        client.update_run(record.parent_run_id, status="RUNNING")
        begun, now = parent.data.tags.get(COMMIT_TAG), tags.get(COMMIT_TAG)
        if begun != now:
            client.set_tag(record.parent_run_id, RESUMED_TAG, str(now))
            log.info("note: this sweep began at commit %s and resumes at %s", begun, now)
    return record


def trial_params(config: RunConfig) -> dict[str, Any]:
    """Return the parameters of a child that its own settings give."""
    values = {"sampler": config.sampler.name, "seed": config.training.seed, **flatten(config)}
    del values["sampler.name"]
    return values


def require_same_trial(name: str, before: Mapping[str, str], config: RunConfig) -> None:
    """Raise InputError if a trial began with other settings: its points would be those of two runs.

    Args:
        before: the parameters that its run has; none yet where it ended at once.
    """
    now = {key: str(value) for key, value in trial_params(config).items()}
    known = {key: value for key, value in current(before).items() if key in now}
    if known and (text := changes(known, now)):
        raise InputError(
            f"{name} of the sweep to resume began with other settings ({text}): use the same, or another --out"
        )


class SweepWriter:
    """Write each trial's parameters, metrics (step = iteration) and files as they come.

    No method waits for MLflow but ``close``. A point that a restarted trial reports again is not written twice.

    Args:
        record: of the sweep; runs that it names are continued.
        params: further parameters of every child (``store`` …).
        tags: of every child (``isod.commit``, ``isod.demo`` …).
        class_names: of the data. Of more than ``MAX_CLASSES``, MLflow gets the metrics of those with the most and the
            fewest objects, and each trial's metrics.csv, which has them all.
        dataset: what every trial trains on.
    """

    def __init__(
        self,
        experiment: Experiment,
        record: SweepRecord,
        *,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        class_names: Sequence[str] = (),
        dataset: DatasetInput | None = None,
    ) -> None:
        self._client = experiment.client
        self._experiment_id = experiment.id
        self._record = record
        self._params = dict(params)
        self._tags = dict(tags)
        self._dataset = dataset
        self._keys = class_keys(class_names)
        self._classes = frozenset(class_names if len(class_names) > MAX_CLASSES else ())
        if self._classes:
            log.info(
                "note: MLflow gets the metrics of the %d classes with the most and the fewest objects, of %d; each "
                "run's %s has all",
                2 * EXTREMES,
                len(class_names),
                METRICS,
            )
        self._last_step: dict[str, int] = {}  # trial name → step of the last point that was sent
        self._devices: dict[str, list[str]] = {}  # trial name → what it trained on so far
        self._logged_models = True  # until MLflow says that it has none
        self._open: set[str] = set()  # names of the trials that have begun and not ended
        self._limits = ExitStack()
        self._limits.enter_context(time_limits())  # of one call; the deliveries are patient
        self._deliveries = Deliveries()
        self.failed: dict[str, str] = {}  # trial name → the sentence it failed with

    def trial_started(self, name: str, config: RunConfig) -> None:
        """Find or create the trial's run; no-op for a trial that is restarted."""
        if name not in self._open:
            self._open.add(name)
            self._deliveries.put(name, lambda: self._open_run(name, config))

    def trial_reported(self, name: str, rows: Sequence[Row], device: str) -> None:
        """Log metrics by iteration, and the device where it is not "".

        A value that is not finite is left out: a stratum without ground truth has no point.
        """
        now = int(time.time() * 1000)
        if device:
            self._deliveries.put(name, partial(self._tag_device, name, device))
        for step, metrics in rows:
            left_out = self._classes - extreme_classes(metrics) if self._classes else self._classes
            points = [
                Metric(mlflow_key(key, self._keys), float(value), now, step)
                for key, value in metrics.items()
                if math.isfinite(value) and key.partition("/")[2] not in left_out
            ]
            self._deliveries.put(name, partial(self._log, name, step, points))

    def trial_finished(self, name: str, folder: RunFolder | RemoteFolder) -> None:
        """Log the files of the trial's folder, and mark its run as finished."""
        copies = ExitStack()
        paths: list[Path] = []

        def open_folder() -> None:  # a call of its own: once, however often MLflow does not answer the next one
            paths.append(copies.enter_context(folder.opened(patience=0)))  # calls are tried again

        def finish() -> None:
            (path,) = paths
            self._client.log_artifact(self._record.runs[name], str(path / EXAMPLES))
            if self._classes:
                self._client.log_artifact(self._record.runs[name], str(path / METRICS))
            self._client.log_artifacts(self._record.runs[name], str(path / MODEL), MODEL)
            self._log_detector(name, path / MODEL)
            self._end(name, "FINISHED")
            copies.close()

        self._deliveries.put(name, open_folder)
        self._deliveries.put(name, finish)
        self._open.discard(name)

    def trial_stopped(self, name: str, iteration: int, folder: RunFolder | RemoteFolder) -> None:
        """Tag the trial's run with the iteration at which a scheduler stopped it, mark it as finished, and only then
        delete the folder's checkpoints, from which the trial continues if MLflow is never told."""

        def stop() -> None:
            self._client.set_tag(self._record.runs[name], STOPPED_TAG, str(iteration))
            self._end(name, "FINISHED")
            folder.drop_checkpoints()

        self._deliveries.put(name, stop)
        self._open.discard(name)

    def trial_failed(self, name: str, reason: str) -> None:
        """Tag the trial's run with the reason, and mark it as failed."""
        self.failed[name] = reason
        self._open.discard(name)

        def fail() -> None:
            self._client.set_tag(self._record.runs[name], ERROR_TAG, reason)
            self._end(name, "FAILED")

        self._deliveries.put(name, fail)

    def close(self, status: str, *, patience: float) -> str:
        """End the parent run, if there is one, with this status, and runs that are still open as killed; wait for
        deliveries.

        Args:
            patience: seconds to wait for a server that is away.
        Returns:
            Why some data could not be delivered; "" if everything was.
        """
        for name in sorted(self._open):
            self._deliveries.put(name, partial(self._end, name, "KILLED"))
        if self._record.parent_run_id:
            self._deliveries.put(None, lambda: self._client.set_terminated(self._record.parent_run_id, status))
        left, error = self._deliveries.close(patience)
        self._limits.close()
        return f"{left} messages did not reach MLflow ({error})" if left else ""

    # Calls that are delivered: each may be made again after it failed half way

    def _open_run(self, name: str, config: RunConfig) -> None:
        runs = self._record.runs
        if name not in runs:  # it may exist all the same, if the answer was lost
            for run in children_of(self._client, self._experiment_id, self._record.parent_run_id):
                runs.setdefault(run.data.tags[NAME_TAG], run.info.run_id)
        if name not in runs:
            tags = {PARENT_TAG: self._record.parent_run_id, NAME_TAG: name, **self._tags}
            runs[name] = self._client.create_run(self._experiment_id, tags=tags).info.run_id
        run_id = runs[name]
        _log_params(self._client, run_id, {**self._params, **trial_params(config)})
        _log_input(self._client, run_id, self._dataset)
        self._client.update_run(run_id, status="RUNNING")
        known = self._client.get_run(run_id).data
        if ERROR_TAG in known.tags:  # of an attempt that was resumed
            self._client.delete_tag(run_id, ERROR_TAG)
        history = self._client.get_metric_history(run_id, HEADLINE) if HEADLINE in known.metrics else []
        self._devices[name] = [device for device in known.tags.get(DEVICE_TAG, "").split("; ") if device]
        self._last_step[name] = max((point.step for point in history), default=-1)

    def _tag_device(self, name: str, device: str) -> None:
        devices = self._devices[name]
        if device not in devices:
            self._client.set_tag(self._record.runs[name], DEVICE_TAG, "; ".join([*devices, device]))
            devices.append(device)

    def _log(self, name: str, step: int, points: list[Metric]) -> None:
        if step <= self._last_step[name]:
            return
        for first in range(0, len(points), METRICS_PER_CALL):
            self._client.log_batch(self._record.runs[name], metrics=points[first : first + METRICS_PER_CALL])
        self._last_step[name] = step

    def _log_detector(self, name: str, folder: Path) -> None:
        """Log the LoggedModel; where MLflow has none, the run keeps its folder ``model`` alone."""
        if not self._logged_models:
            return
        step = max(self._last_step[name], 0)
        try:
            log_detector(self._client, self._experiment_id, self._record.runs[name], folder, step=step)
        except Exception as error:
            if not has_no_logged_models(error):
                raise
            self._logged_models = False
            log.warning(
                "this MLflow has no LoggedModels (3.0 and later has): each run keeps its folder %s alone", MODEL
            )

    def _end(self, name: str, status: str) -> None:
        self._client.set_terminated(self._record.runs[name], status)


def _log_settings(
    client: MlflowClient, parent: RunInfo, settings: Mapping[str, Any], file: str = SETTINGS_FILE, *, begun: bool = True
) -> None:
    """Write the settings; if MLflow refuses the file, delete the run that was begun with it and raise InputError."""
    try:
        client.log_dict(parent.run_id, dict(settings), file)
    except Exception as error:  # whatever a file system, a server or a bucket raises
        if begun:
            client.delete_run(parent.run_id)  # else it would be the sweep that began last
        raise InputError(
            f"MLflow cannot store files at {parent.artifact_uri} ({reason(error)}): give it an artifact root that it, "
            "or this machine, can write to"
        ) from None


def _log_params(client: MlflowClient, run_id: str, values: Mapping[str, Any]) -> None:
    params = [Param(key, str(value)) for key, value in values.items()]
    for first in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[first : first + PARAMS_PER_CALL])


def _log_input(client: MlflowClient, run_id: str, dataset: DatasetInput | None) -> None:
    if dataset is not None:
        client.log_inputs(run_id, [dataset])
