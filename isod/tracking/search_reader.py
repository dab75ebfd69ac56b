"""The trials of a search from MLflow: their settings, how far they came, and their mAP."""

from __future__ import annotations

from dataclasses import dataclass

from isod.tracking.client import children_of, explained, open_for_reading
from isod.vocabulary import ERROR_TAG, HEADLINE, NAME_TAG, STOPPED_TAG


@dataclass(frozen=True)
class SearchTrial:
    """What MLflow has of one trial."""

    name: str  # UIS-003-seed0
    params: dict[str, str]
    state: str  # finished, stopped, failed, or not finished
    curve: tuple[tuple[int, float], ...]  # (iteration, mAP) of each validation, in order
    error: str = ""  # why it failed

    @property
    def number(self) -> int:
        """The trial's number in the search, which its name holds."""
        return int(self.name.rpartition("-")[0].rpartition("-")[2])


def read_trials(tracking_uri: str, parent_run_id: str) -> list[SearchTrial]:
    """Read the trials of a search by number. Raises InputError if the store cannot be used."""
    client = open_for_reading(tracking_uri)
    with explained(tracking_uri):
        experiment_id = client.get_run(parent_run_id).info.experiment_id
        trials = []
        for run in children_of(client, experiment_id, parent_run_id):
            states = {"FINISHED": "stopped" if STOPPED_TAG in run.data.tags else "finished", "FAILED": "failed"}
            history = client.get_metric_history(run.info.run_id, HEADLINE) if HEADLINE in run.data.metrics else []
            trials.append(
                SearchTrial(
                    run.data.tags[NAME_TAG],
                    run.data.params,
                    states.get(run.info.status, "not finished"),
                    tuple(sorted({point.step: point.value for point in history}.items())),
                    run.data.tags.get(ERROR_TAG, ""),
                )
            )
    return sorted(trials, key=lambda trial: trial.number)
