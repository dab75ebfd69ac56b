"""What a search does that a sweep does not: Tune chooses the settings of its trials, and stops some of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from isod.config.search import SearchStudy, last_decision
from isod.config.settings import Preset, RunConfig
from isod.vocabulary import HEADLINE

if TYPE_CHECKING:
    from isod.tracking.search_reader import SearchTrial
    from isod.tracking.sweep_writer import SweepRecord

BEFORE_MEDIAN = 3  # trials that the median stopping rule wants to have seen


@dataclass(frozen=True)
class Plan:
    """What Tune is to run."""

    count: int  # of trials
    space: dict[str, Any]  # Tune's param_space: {"run": …}, unless a searcher makes it
    options: dict[str, Any] = field(default_factory=dict)  # further ones of TuneConfig


@dataclass(frozen=True)
class Search:
    """A study's trials under a preset, as its name gives it.

    Raises:
        InputError: a value, a combination of the ends of ranges or a trial that a settings dataclass rejects; a
            scheduler that could stop nothing.
        ModuleNotFoundError: no Optuna, where the study asks for it.
    """

    study: SearchStudy
    preset: Preset

    def __post_init__(self) -> None:
        if self.study.search.algorithm == "optuna":
            import optuna

            optuna.logging.set_verbosity(optuna.logging.ERROR)
        base = self.corners()[0].training
        self.study.search.grace_of(base.iterations, base.validate_every)
        self.trials()

    @property
    def count(self) -> int:
        """How many trials there are in all."""
        return len(self.study.points()) or self.study.search.samples

    def trials(self) -> list[RunConfig]:
        """Return the run of every trial; none where Optuna chooses them as results come."""
        return self.study.trials(self.preset)

    def corners(self) -> list[RunConfig]:
        """Return runs at the ends of every range, which show what start-up can reject."""
        return self.study.corners(self.preset)

    def plan(self, record: SweepRecord, tracking_uri: str) -> Plan:
        """Return the trials that are not in the record, with a scheduler, and Optuna, that know those that are."""
        earlier: list[SearchTrial] = []
        if record.runs:
            from isod.tracking.search_reader import read_trials

            earlier = read_trials(tracking_uri, record.parent_run_id)
        ended = [trial for trial in earlier if trial.name in record.finished]
        scheduler = self._scheduler()
        for trial in ended:
            _replay(scheduler, trial)
        if self.study.search.algorithm != "optuna":
            todo = [config for config in self.trials() if config.name not in record.finished]
            return Plan(len(todo), {"run": tune.grid_search(todo)}, {"scheduler": scheduler})
        from isod.orchestration.optuna_runs import OptunaRuns

        count = max(self.study.search.samples - len(ended), 0)
        searcher = OptunaRuns(self.study, self.preset, [trial for trial in earlier if trial not in ended], ended)
        return Plan(count, {}, {"scheduler": scheduler, "search_alg": searcher, "num_samples": count})

    def _scheduler(self) -> TrialScheduler:
        """Return the scheduler, which counts in iterations and never stops a run at its end: it would lose its model.

        The rungs of ASHA end at the last validation before the end.
        """
        search, training = self.study.search, self.corners()[0].training
        grace = search.grace_of(training.iterations, training.validate_every)
        if search.scheduler == "asha":
            return ASHAScheduler(
                time_attr="iteration",
                max_t=last_decision(training.iterations, training.validate_every),
                grace_period=grace,
                reduction_factor=search.reduction,
                stop_last_trials=False,
                metric=HEADLINE,
                mode="max",
            )
        if search.scheduler == "median":
            return BeforeTheEnd(
                time_attr="iteration",
                grace_period=grace,
                min_samples_required=BEFORE_MEDIAN,
                min_time_slice=float("inf"),  # type: ignore[arg-type]  # a trial never makes room for another one
                end=training.iterations,
                metric=HEADLINE,
                mode="max",
            )
        return FIFOScheduler()


class BeforeTheEnd(MedianStoppingRule):
    """The median stopping rule for trials that are not at their last validation.

    Args:
        end: iterations of a trial.
    """

    def __init__(self, *, end: int, **options: Any) -> None:
        super().__init__(**options)
        self._end = end

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        if result["iteration"] >= self._end:  # on_trial_complete records it
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


@dataclass(frozen=True)
class _Earlier:
    """Stands for a trial of an earlier call in a scheduler's records."""

    trial_id: str


def _replay(scheduler: TrialScheduler, trial: SearchTrial) -> None:
    """Show a scheduler the results of a trial that ended before it was made, up to where it would stop it."""
    if not trial.curve:
        return
    stand_in: Any = _Earlier(trial.name)
    nobody: Any = None  # the controller, which neither scheduler asks for anything then
    results = [{"iteration": step, HEADLINE: value} for step, value in trial.curve]
    scheduler.on_trial_add(nobody, stand_in)
    for result in results:
        if scheduler.on_trial_result(nobody, stand_in, result) != TrialScheduler.CONTINUE:
            break
    scheduler.on_trial_complete(nobody, stand_in, results[-1])
