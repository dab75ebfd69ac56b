"""Tune results into MLflow, from the driver only: one parent run per sweep, one child per trial."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from ray.tune import Callback
from ray.tune.experiment import Trial

from isod.config import RunConfig, flatten
from isod.orchestration.trial import examples_path, run_config, trial_name

PARENT_TAG = "mlflow.parentRunId"  # what MLflow's UI nests runs by
NAME_TAG = "mlflow.runName"
PARAMS_PER_CALL = 100  # MLflow's limit for one log_batch call
METRICS_PER_CALL = 1000  # likewise


def metric_key(name: str) -> str:
    """The metric's name with what MLflow does not allow (class names may hold anything) replaced by ``_``."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


class MLflowCallback(Callback):
    """Writes every trial's parameters, metrics (step = iteration) and statistics as they come.

    Args:
        client, experiment_id: where to.
        sweep: the sweep's name, the parent run's ``isod.sweep`` tag.
        base: the run that every trial varies.
        params: further parameters of every child (``store`` …).
        tags: further tags of parent and children (``isod.commit``, ``isod.demo`` …).
        out: the sweep's folder, from which per-example statistics are taken.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        *,
        sweep: str,
        base: RunConfig,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        out: str,
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._base = base
        self._params = dict(params)
        self._tags = dict(tags)
        self._out = out
        self._runs: dict[str, str] = {}  # trial id → MLflow run id
        self.failed: dict[str, str] = {}  # trial name → the sentence it failed with
        parent = client.create_run(experiment_id, tags={NAME_TAG: sweep, "isod.sweep": sweep, **tags})
        self.parent_run_id: str = parent.info.run_id

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.trial_id in self._runs:
            return
        config = run_config(self._base, trial.config["run"])
        name, seed = config.sampler.name, config.training.seed
        tags = {PARENT_TAG: self.parent_run_id, NAME_TAG: trial_name(name, seed), **self._tags}
        run = self._client.create_run(self._experiment_id, tags=tags)
        self._runs[trial.trial_id] = run.info.run_id
        values = {"sampler": name, "seed": seed, **self._params, **flatten(config)}
        params = [Param(key, str(value)) for key, value in values.items() if key != "sampler.name"]
        for first in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(run.info.run_id, params=params[first : first + PARAMS_PER_CALL])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        now, step = int(time.time() * 1000), result["iteration"]
        metrics = [
            Metric(metric_key(name), float(value), now, step)
            for name, value in result["metrics"].items()
            if math.isfinite(value)  # a stratum without ground truth has no point, rather than a made-up one
        ]
        for first in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(self._runs[trial.trial_id], metrics=metrics[first : first + METRICS_PER_CALL])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        run_id = self._runs[trial.trial_id]
        path = examples_path(self._out, run_config(self._base, trial.config["run"]))
        if path.exists():
            self._client.log_artifact(run_id, str(path))
        self._client.set_terminated(run_id, "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        reason = failure_reason(trial)
        config = run_config(self._base, trial.config["run"])
        self.failed[trial_name(config.sampler.name, config.training.seed)] = reason
        run_id = self._runs.get(trial.trial_id)
        if run_id is not None:
            self._client.set_tag(run_id, "isod.error", reason)
            self._client.set_terminated(run_id, "FAILED")

    def finish(self, status: str = "FINISHED") -> None:
        """Closes the parent run, and whatever child is still open, as killed."""
        for run_id in self._runs.values():
            if self._client.get_run(run_id).info.status == "RUNNING":
                self._client.set_terminated(run_id, "KILLED")
        self._client.set_terminated(self.parent_run_id, status)


def failure_reason(trial: Trial) -> str:
    """The last line of what the trial raised: the sentence, not the stack."""
    path = trial.error_file  # get_error() reads a copy that Tune makes of it later
    text = Path(path).read_text() if path and os.path.exists(path) else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "the trial ended without saying why"
