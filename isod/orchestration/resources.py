"""How many trials fit on the machine at once, worked out before anything starts."""

from __future__ import annotations

import math

from ray.tune import PlacementGroupFactory

from isod.config import ResourceConfig
from isod.errors import InputError

SLACK = 1e-6  # fractions of a CPU add up only nearly


def reservation(resources: ResourceConfig) -> PlacementGroupFactory:
    """What Tune reserves for a trial before it starts: one bundle for training, one for each decode worker.

    Workers that took their CPUs outside of the trial's reservation could be starved by other trials, and all would
    wait for ever. An autoscaling cluster sees the whole reservation and grows by it.
    """
    training = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
    return PlacementGroupFactory([training] + [{"CPU": resources.cpus_per_worker}] * resources.decode_workers)


def concurrent_trials(resources: ResourceConfig, *, cpus: float, gpus: float, trials: int) -> int:
    """Trials that can run together, each with its decode workers.

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
