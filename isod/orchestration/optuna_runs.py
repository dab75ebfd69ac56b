"""Optuna's choice of settings for the trials of a search (extra ``search``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.search.optuna import OptunaSearch

from isod.config.search import Dimension, SearchStudy
from isod.config.settings import Preset
from isod.errors import InputError
from isod.tracking.search_reader import SearchTrial
from isod.vocabulary import HEADLINE


class OptunaRuns(OptunaSearch):
    """Optuna's choice of settings, as the runs of a search.

    Args:
        pending: trials that an earlier call began: they run first, with their own settings and number.
        ended: those that it ended, whose results Optuna learns.
    """

    def __init__(
        self, study: SearchStudy, preset: Preset, pending: Sequence[SearchTrial], ended: Sequence[SearchTrial]
    ) -> None:
        self._study, self._preset = study, preset
        self._choices = {d.name: d.values for d in study.dimensions if d.values}
        again = [(trial.number, point) for trial in pending if (point := self._point(trial)) is not None]
        super().__init__(
            {d.name: _distribution(d) for d in study.dimensions},
            points_to_evaluate=[point for _, point in again],
            seed=study.search.seed + len(pending) + len(ended),  # else it would draw as the earlier call did
            metric=HEADLINE,
            mode="max",
        )
        for trial in ended:
            if (point := self._point(trial)) is not None and trial.curve:
                self.add_evaluated_point(point, trial.curve[-1][1])
        taken = {number for number, _ in again} | {trial.number for trial in ended}
        free = (number for number in range(1, study.search.samples + len(taken) + 1) if number not in taken)
        self._numbers = [number for number, _ in again] + list(free)  # of the trials to come

    def suggest(self, trial_id: str) -> dict | None:
        """Return ``{"run": RunConfig}``."""
        if trial_id not in self._ot_trials:
            self._number = self._numbers.pop(0)
        point = super().suggest(trial_id)
        if point is None:
            return None
        values = {name: self._choices[name][value] if name in self._choices else value for name, value in point.items()}
        return {"run": self._study.config(self._preset, values, self._number)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        failed = bool(result and result.get("failed"))
        super().on_trial_complete(trial_id, None if failed else result, error or failed)

    def _point(self, trial: SearchTrial) -> dict[str, Any] | None:
        """Return a trial's settings as Optuna has them: of a list, the position of the value."""
        values = self._study.values_in(trial.params)
        if values is None:
            return None
        try:
            return {
                name: self._choices[name].index(value) if name in self._choices else value
                for name, value in values.items()
            }
        except ValueError:
            raise InputError(f"{trial.name} of the search to resume has a value that is not searched now") from None


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.values:
        return CategoricalDistribution(list(range(len(dimension.values))))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
