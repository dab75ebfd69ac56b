"""Tune results into MLflow, from the driver only: one parent run per sweep, one child per trial."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunInfo
from mlflow.tracking import MlflowClient
from ray.tune import Callback
from ray.tune.experiment import Trial

from isod.config.record import changes, current, flatten
from isod.config.settings import RunConfig
from isod.errors import InputError
from isod.orchestration.trial import run_config, trial_folder, trial_name
from isod.tracking.deliveries import Outbox, reason
from isod.tracking.metric_names import mlflow_key
from isod.vocabulary import (
    COMMIT_TAG,
    DEVICE_TAG,
    ERROR_TAG,
    EXAMPLES,
    MODEL,
    NAME_TAG,
    PARENT_TAG,
    RESUMED_TAG,
    SWEEP_TAG,
)

PARAMS_PER_CALL = 100  # MLflow's limit for one log_batch call
METRICS_PER_CALL = 1000  # likewise
EVERY_RUN = "mAP"  # a metric that every validation has: its last step is how far MLflow knows a run


@dataclass
class SweepRecord:
    """A sweep in MLflow: its parent run, and what is there of its trials."""

    parent_run_id: str
    runs: dict[str, str] = field(default_factory=dict)  # trial name → run id
    finished: set[str] = field(default_factory=set)  # names of the trials that are complete there


def begin_sweep(
    client: MlflowClient, experiment_id: str, name: str, settings: Mapping[str, Any], tags: Mapping[str, str]
) -> SweepRecord:
    """Makes the parent run. Its parameters, and its file sweep.json, are ``settings``: what all trials share.

    Raises:
        InputError: MLflow does not take files; every trial would end with one that it cannot deliver.
    """
    tags = {NAME_TAG: name, SWEEP_TAG: name, **tags}
    parent = client.create_run(experiment_id, tags=tags).info
    _log_params(client, parent.run_id, settings)
    try:
        _keep_settings(client, parent, settings)
    except InputError:
        client.delete_run(parent.run_id)  # else it would be the sweep that began last
        raise
    return SweepRecord(parent.run_id)


def _keep_settings(client: MlflowClient, parent: RunInfo, settings: Mapping[str, Any]) -> None:
    """Write sweep.json; raises InputError if MLflow does not take it."""
    try:
        client.log_dict(parent.run_id, dict(settings), "sweep.json")
    except Exception as error:  # whatever a file system, a server or a bucket raises
        raise InputError(
            f"MLflow does not take files at {parent.artifact_uri} ({reason(error)}): give it an artifact root that it, "
            "or this machine, can write to"
        ) from None


def trial_params(config: RunConfig) -> dict[str, Any]:
    """The parameters of a child that its own settings give."""
    values = {"sampler": config.sampler.name, "seed": config.training.seed, **flatten(config)}
    del values["sampler.name"]
    return values


def require_same_trial(name: str, before: Mapping[str, str], config: RunConfig) -> None:
    """Raises InputError if a trial began with other settings: its points would be those of two runs.

    Args:
        before: the parameters that its run has; none yet where it ended at once.
    """
    now = {key: str(value) for key, value in trial_params(config).items()}
    known = {key: value for key, value in current(before).items() if key in now}
    if known and (text := changes(known, now)):
        raise InputError(
            f"{name} of the sweep to resume began with other settings ({text}): use the same, or another --out"
        )


def resume_sweep(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    trials: Mapping[str, RunConfig],
) -> SweepRecord:
    """Takes up the sweep of this name that was started last.

    Args:
        trials: what is to be run now, by name.
    Raises:
        InputError: there is none, or it or one of the trials began with other settings, or MLflow does not take files;
            nothing is changed there.
    """
    newest = ["attributes.start_time DESC"]
    parents = client.search_runs([experiment_id], f"tags.`{SWEEP_TAG}` = '{name}'", max_results=1, order_by=newest)
    if not parents:
        raise InputError(f"there is no sweep {name!r} to resume in this MLflow experiment: leave out --resume")
    parent = parents[0]
    if text := changes(parent.data.params, {key: str(value) for key, value in settings.items()}):
        raise InputError(f"the sweep {name!r} to resume began with other settings ({text}): use the same")
    record = SweepRecord(parent.info.run_id)
    for run in children_of(client, experiment_id, parent.info.run_id):
        trial = run.data.tags[NAME_TAG]
        if trial in trials:
            require_same_trial(trial, run.data.params, trials[trial])
        record.runs[trial] = run.info.run_id
        if run.info.status == "FINISHED":
            record.finished.add(trial)
    _keep_settings(client, parent.info, settings)
    client.update_run(record.parent_run_id, status="RUNNING")
    begun, now = parent.data.tags.get(COMMIT_TAG), tags.get(COMMIT_TAG)
    if begun != now:
        client.set_tag(record.parent_run_id, RESUMED_TAG, str(now))
        print(f"note: this sweep began at commit {begun} and goes on at {now}")
    return record


def children_of(client: MlflowClient, experiment_id: str, parent_run_id: str) -> list[Run]:
    """The runs of a sweep's trials."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`{PARENT_TAG}` = '{parent_run_id}'", max_results=1000, page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            return found


def _log_params(client: MlflowClient, run_id: str, values: Mapping[str, Any]) -> None:
    params = [Param(key, str(value)) for key, value in values.items()]
    for first in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[first : first + PARAMS_PER_CALL])


class MLflowCallback(Callback):
    """Writes every trial's parameters, metrics (step = iteration) and files as they come.

    Nothing here waits for MLflow: an outbox delivers, also after the server was away. A point that a restarted trial
    reports again is not written twice.

    Args:
        client, experiment_id: where to.
        record: of the sweep; the runs in it are gone on with.
        base: the run that every trial varies.
        params: further parameters of every child (``store`` …).
        tags: of every child (``isod.commit``, ``isod.demo`` …).
        runs: folder of the trials' results, from which files are taken.
        say: where to tell that MLflow is away.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        record: SweepRecord,
        *,
        base: RunConfig,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        runs: str,
        say: Callable[[str], None] = print,
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._base = base
        self._params = dict(params)
        self._tags = dict(tags)
        self._folder = runs
        self._record = record
        self._last_step: dict[str, int] = {}  # trial name → step of the last point that was sent
        self._devices: dict[str, list[str]] = {}  # trial name → what it trained on so far
        self._open: set[str] = set()  # names of the trials that have begun and not ended
        self._outbox = Outbox(say)
        self.failed: dict[str, str] = {}  # trial name → the sentence it failed with

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks now and then, to restore them; isod goes on from MLflow instead."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        config = run_config(self._base, trial.config["run"])
        name = name_of(trial)
        if name not in self._open:
            self._open.add(name)
            self._outbox.put(name, lambda: self._open_run(name, config))

    def _open_run(self, name: str, config: RunConfig) -> None:
        """Find or make the trial's run; it may be called again after it failed half way."""
        if name not in self._record.runs:  # it may be there all the same, if the answer got lost
            for run in children_of(self._client, self._experiment_id, self._record.parent_run_id):
                self._record.runs.setdefault(run.data.tags[NAME_TAG], run.info.run_id)
        if name not in self._record.runs:
            tags = {PARENT_TAG: self._record.parent_run_id, NAME_TAG: name, **self._tags}
            self._record.runs[name] = self._client.create_run(self._experiment_id, tags=tags).info.run_id
        run_id = self._record.runs[name]
        _log_params(self._client, run_id, {**self._params, **trial_params(config)})
        self._client.update_run(run_id, status="RUNNING")
        known = self._client.get_run(run_id).data
        if ERROR_TAG in known.tags:  # of an attempt that was resumed
            self._client.delete_tag(run_id, ERROR_TAG)
        history = self._client.get_metric_history(run_id, EVERY_RUN) if EVERY_RUN in known.metrics else []
        self._devices[name] = [device for device in known.tags.get(DEVICE_TAG, "").split("; ") if device]
        self._last_step[name] = max((point.step for point in history), default=-1)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        now, name = int(time.time() * 1000), name_of(trial)
        if device := result["device"]:
            self._outbox.put(name, partial(self._tag_device, name, device))
        for step, metrics in result["rows"]:
            points = [
                Metric(mlflow_key(key), float(value), now, step)
                for key, value in metrics.items()
                if math.isfinite(value)  # a stratum without ground truth has no point, rather than a made-up one
            ]
            self._outbox.put(name, partial(self._log, name, step, points))

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

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        reason = (trial.last_result or {}).get("failed", "")
        if reason:
            self._fail(name_of(trial), reason)
            return
        name = name_of(trial)
        folder = trial_folder(self._folder, run_config(self._base, trial.config["run"])).path

        def finish() -> None:
            run_id = self._record.runs[name]
            for file in (EXAMPLES, MODEL):
                self._client.log_artifact(run_id, str(folder / file))
            self._end(name, "FINISHED")

        self._outbox.put(name, finish)
        self._open.discard(name)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._fail(name_of(trial), failure_reason(trial))

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        self._open.discard(name)

        def fail() -> None:
            self._client.set_tag(self._record.runs[name], ERROR_TAG, reason)
            self._end(name, "FAILED")

        self._outbox.put(name, fail)

    def _end(self, name: str, status: str) -> None:
        self._client.set_terminated(self._record.runs[name], status)

    def finish(self, status: str, *, patience: float) -> str:
        """Closes the parent run, and whatever child is still open, as killed.

        Args:
            patience: seconds to wait for a server that is away.
        Returns:
            Why not everything was delivered; empty if it was.
        """
        for name in sorted(self._open):
            self._outbox.put(name, partial(self._end, name, "KILLED"))
        self._outbox.put(None, lambda: self._client.set_terminated(self._record.parent_run_id, status))
        left, error = self._outbox.close(patience)
        return f"{left} messages did not reach MLflow ({error})" if left else ""


def name_of(trial: Trial) -> str:
    """What a trial is called."""
    run = trial.config["run"]
    return trial_name(run["sampler"].name, run["seed"])


def failure_reason(trial: Trial) -> str:
    """The sentence that the trial's exception begins with, not the stack, nor the advice that Ray appends to it."""
    path = trial.error_file  # get_error() reads a copy that Tune makes of it later
    text = Path(path).read_text() if path and os.path.exists(path) else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    headings = [line for line in lines if re.match(r"[\w.]+(Error|Exception)(\(\w+\))?: ", line)]
    return (headings or lines or ["the trial ended without saying why"])[-1][:500]
