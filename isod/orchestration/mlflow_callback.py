"""What Ray Tune reports of its trials, passed on to MLflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from isod.config.settings import RunConfig
from isod.orchestration.trial import trial_folder
from isod.orchestration.tune_trial import failure_reason, name_of
from isod.tracking.sweep_writer import SweepWriter


class MLflowCallback(Callback):
    """Hand every event of a trial to a ``SweepWriter``.

    Args:
        runs: where the trials leave their results, as ``run_trial`` takes it.
        after_run: given the sampler's name of each run that has finished.
    """

    def __init__(self, writer: SweepWriter, *, runs: str, after_run: Callable[[str], None]) -> None:
        self._writer = writer
        self._runs = runs
        self._after_run = after_run

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks to restore them, while isod resumes from MLflow."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._writer.trial_started(name_of(trial), trial.config["run"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._writer.trial_reported(name_of(trial), result["rows"], result["device"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        config: RunConfig = trial.config["run"]
        folder, last = trial_folder(self._runs, config), trial.last_result or {}
        if reason := last.get("failed", ""):
            self._writer.trial_failed(name_of(trial), reason)
        elif last["iteration"] < config.training.iterations:
            self._writer.trial_stopped(name_of(trial), last["iteration"], folder)
        else:
            self._writer.trial_finished(name_of(trial), folder)
            self._after_run(config.sampler.name)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._writer.trial_failed(name_of(trial), failure_reason(trial))
