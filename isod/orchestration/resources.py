"""How many trials fit on the machine at once, worked out before anything starts."""

from __future__ import annotations

import math

import ray
from ray.tune import PlacementGroupFactory

from isod.config.settings import ResourceConfig
from isod.errors import InputError

SLACK = 1e-6  # fractions of a CPU add up only nearly
WAITING_MEMORY = 2**30  # bytes; of a trial's process that waits for its workers, and of Ray Train's that starts them


def rank_resources(resources: ResourceConfig) -> dict[str, float]:
    """What Ray Train reserves for each of a trial's workers, where it has several: also what its decode workers use."""
    cpus = resources.cpus_per_trial + resources.decode_workers * resources.cpus_per_worker
    return {"CPU": cpus} | ({"GPU": resources.gpus_per_trial} if resources.gpus_per_trial > 0 else {})


def reservation(resources: ResourceConfig) -> PlacementGroupFactory:
    """What Tune reserves for a trial before it starts: one bundle for training, one for each decode worker.

    Workers that took their CPUs outside of the trial's reservation could be starved by other trials, and all would
    wait for ever. An autoscaling cluster sees the whole reservation and grows by it.

    A trial of several workers reserves next to nothing here: its process only waits. Ray Train reserves all of the
    workers' resources at once when the trial begins, so two trials can never hold half of what each of them needs.
    """
    if resources.workers_per_trial > 1:
        return PlacementGroupFactory([{"memory": WAITING_MEMORY}])
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
    on_gpus = trials_on_gpus(resources, gpus) if resources.gpus_per_trial > 0 else trials
    workers = resources.workers_per_trial
    need = workers * rank_resources(resources)["CPU"]
    sum_text = (
        f"{resources.cpus_per_trial:g} CPU for training + {resources.decode_workers} decode workers"
        f" × {resources.cpus_per_worker:g} CPU"
    )
    sum_text = f"{workers} workers × ({sum_text}) = {need:g}" if workers > 1 else f"{sum_text} = {need:g}"
    on_cpus = math.floor(cpus / need + SLACK)
    if on_cpus < 1:
        raise InputError(
            f"a trial needs {sum_text} CPUs and Ray has {cpus:g}: ask for fewer decode workers or less CPU"
        )
    return max(1, min(on_gpus, on_cpus, trials))


def check_gpus_here(resources: ResourceConfig) -> None:
    """Raises InputError if a Ray that has yet to start on this machine would find too few GPUs for a trial: it takes
    half a minute to say so itself."""
    if resources.gpus_per_trial > 0 and not ray.is_initialized():
        from torch.cuda import device_count  # seconds to import, and for nothing where trials run on the CPU

        trials_on_gpus(resources, device_count())


def trials_on_gpus(resources: ResourceConfig, gpus: float) -> int:
    """Trials whose GPUs are there at once.

    Raises:
        InputError: not even one's are.
    """
    need = resources.workers_per_trial * resources.gpus_per_trial
    fit = math.floor(gpus / need + SLACK)
    if fit < 1:
        raise InputError(
            f"a trial needs {need:g} GPU and there are {gpus:g}:"
            " set --gpus-per-trial 0 for the CPU, or connect to a cluster that has one"
        )
    return fit
