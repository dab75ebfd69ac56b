"""How many trials fit on the machine at once, worked out before anything starts."""

from __future__ import annotations

import math

from isod.config import ResourceConfig
from isod.errors import InputError

SLACK = 1e-6  # fractions of a CPU add up only nearly


def concurrent_trials(resources: ResourceConfig, *, cpus: float, gpus: float, trials: int) -> int:
    """Trials that can run together without starving each other's streams.

    A trial's decode workers run outside of its own reservation. If trials reserved every CPU, none would be left
    for the workers that feed them and all would wait for ever; so a trial is counted with its workers.

    Args:
        cpus, gpus: what the cluster has.
        trials: how many there are to run.
    Raises:
        InputError: if not even one fits, with the arithmetic.
    """
    need = resources.cpus_per_trial + resources.decode_workers * resources.cpus_per_worker
    sum_text = (
        f"{resources.cpus_per_trial:g} CPU for training + {resources.decode_workers} decode workers"
        f" × {resources.cpus_per_worker:g} CPU = {need:g}"
    )
    fit = math.floor(cpus / need + SLACK)
    if fit < 1:
        raise InputError(
            f"a trial needs {sum_text} CPUs and Ray has {cpus:g}: ask for fewer decode workers or less CPU"
        )
    if resources.gpus_per_trial > 0:
        fit_gpus = math.floor(gpus / resources.gpus_per_trial + SLACK)
        if fit_gpus < 1:
            raise InputError(
                f"a trial needs {resources.gpus_per_trial:g} GPU and Ray has {gpus:g}:"
                " choose a preset without a GPU, or connect to a cluster that has one"
            )
        fit = min(fit, fit_gpus)
    return max(1, min(fit, trials))
