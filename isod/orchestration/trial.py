"""One Tune trial: one sampler with one seed, fed by its own table and stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ray import tune

from isod.config import ResourceConfig, RunConfig
from isod.data.store import CropStore
from isod.orchestration.stream import RayStream
from isod.training.holdout import training_examples
from isod.training.local import write_examples
from isod.training.run import Trainer, ValidationCrops, choose_device, train


def run_config(base: RunConfig, params: dict[str, Any]) -> RunConfig:
    """The base run with a trial's own sampler, seed and, under "training", training settings if it has any."""
    training = replace(base.training, seed=params["seed"], **params.get("training", {}))
    return replace(base, sampler=params["sampler"], training=training)


def trial_name(sampler: str, seed: int) -> str:
    """How a trial is called everywhere: in MLflow, in file names, in messages."""
    return f"{sampler}-seed{seed}"


def run_trial(params: dict[str, Any], *, base: RunConfig, store_uri: str, out: str, resources: ResourceConfig) -> None:
    """Trains and reports ``{"iteration": …, "metrics": {…}}`` at every validation; Tune's function trainable.

    Args:
        params: ``{"run": {"sampler": SamplerConfig, "seed": int}}``, from the sweep's grid.
        out: folder for the per-example statistics; shared storage where the cluster has several nodes.
    """
    config = run_config(base, params["run"])
    store = CropStore.open(store_uri)
    split = store.split("train")
    device = choose_device("cuda" if resources.gpus_per_trial > 0 else "cpu")
    torch.set_num_threads(resources.threads)
    examples = training_examples(
        config, store, device=device, workers=resources.decode_workers, cache=Path(out) / "holdout"
    )
    stream = RayStream(
        store_uri,
        config,
        examples,
        workers=resources.decode_workers,
        cpus_per_worker=resources.cpus_per_worker,
    )
    try:
        trainer = Trainer(config, store.meta, device)
        validation = ValidationCrops(store.split("val"), config.training.batch_size)
        last = config.training.iterations
        path = examples_path(out, config)

        def report(metrics: dict[str, float], iteration: int) -> None:
            if iteration == last:  # written before the last report: the driver picks it up with that
                path.parent.mkdir(parents=True, exist_ok=True)
                write_examples(path, split, stream.statistics(last - 1))
            tune.report({"iteration": iteration, "metrics": metrics})

        train(trainer, stream, validation, report)
    finally:
        stream.close()


def examples_path(out: str, config: RunConfig) -> Path:
    """Where a trial leaves its per-example statistics for the driver to store."""
    return Path(out) / trial_name(config.sampler.name, config.training.seed) / "examples.parquet"
