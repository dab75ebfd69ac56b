"""One trial on several workers: Ray Train starts the ranks of a run, which share one table (spec §10)."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.queue import Queue

import isod.config
from isod.config.settings import ResourceConfig
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.orchestration.resources import rank_resources
from isod.orchestration.stream import RayStream, start_table
from isod.training.device import device_name
from isod.training.folder import Row, RunFolder
from isod.training.process import settle
from isod.training.run import follow_run, run_in_folder
from isod.training.stream import Part

# How long ranks wait for rank 0, which trains a hold-out model and validates alone. A rank that is lost is noticed by
# Ray, not by the others' waiting.
PATIENCE = 7 * 24 * 3600  # seconds


def run_on_ranks(
    config: isod.config.settings.RunConfig,
    *,
    store_uri: str,
    folder: RunFolder,
    holdout: str,
    resources: ResourceConfig,
    send: Callable[[list[Row], str], None],
    say: Callable[[str], None],
) -> None:
    """Trains a trial's run on ``workers_per_trial`` ranks, from its last checkpoint if there is one. To be called in a
    trial.

    Args:
        send: called with the rows of each validation as rank 0 reports it, and the devices; after a restart first with
            all rows of the earlier attempt.
        say: where to tell what rank 0 says.
    Raises:
        InputError, FloatingPointError: of a rank; the run cannot succeed.
        WorkerGroupError: a rank was lost.
    """
    table, messages = start_table(), Queue(actor_options={"num_cpus": 0})
    state = folder.path / "ranks"  # what Ray Train keeps of itself, on storage that every node can reach
    trainer = TorchTrainer(
        _run_rank,
        train_loop_config={
            "config": config,
            "store_uri": store_uri,
            "folder": folder,
            "holdout": holdout,
            "resources": resources,
            "table": table,
            "messages": messages,
        },
        torch_config=TorchConfig(timeout_s=PATIENCE),
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_trial > 0,
            resources_per_worker=rank_resources(resources),
        ),
        run_config=RunConfig(
            name=state.name,
            storage_path=str(folder.path),
            # Tune tries again, and the table with it; Train goes on waiting where the cluster has no room yet
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
        ),
    )

    def forward() -> None:
        while (message := messages.get()) is not None:
            rows, sentences, device = message
            for sentence in sentences:
                say(sentence)
            if rows:
                send(rows, f"{resources.workers_per_trial} × {device}")

    forwarding = threading.Thread(target=forward, daemon=True)
    forwarding.start()
    try:
        trainer.fit()
    except WorkerGroupError as error:
        for cause in error.worker_failures.values():
            if isinstance(cause, InputError | FloatingPointError):
                raise cause from None
        raise
    finally:
        messages.put(None)
        forwarding.join()  # all that rank 0 reported has reached Tune
        ray.kill(table)
        messages.shutdown(force=True)
        shutil.rmtree(state, ignore_errors=True)


def _run_rank(settings: dict[str, Any]) -> None:
    """What each worker of Ray Train does: rank 0 has the run, the others follow it."""
    config, resources, messages = settings["config"], settings["resources"], settings["messages"]
    context = ray.train.get_context()
    part = Part(context.get_world_rank(), context.get_world_size())
    device = get_device() if resources.gpus_per_trial > 0 else torch.device("cpu")
    settle(resources.threads)
    store = CropStore.open(settings["store_uri"])
    stream = RayStream(workers=resources.decode_workers, cpus_per_worker=0, table=settings["table"], part=part)
    if part.rank > 0:
        follow_run(config, store, lambda start: stream.join(), device=device, part=part)
        return

    name = device_name(device)
    run_in_folder(
        config,
        store,
        settings["folder"],
        lambda examples, state: stream.begin(store.uri, config, examples, state),
        device=device,
        workers=resources.decode_workers,
        holdout_cache=Path(settings["holdout"]),
        report=lambda metrics, iteration: messages.put(([(iteration, metrics)], [], name)),
        replay=lambda rows: messages.put((rows, [], name)),
        checkpoint_share=resources.checkpoint_share,
        say=lambda sentence: messages.put(([], [sentence], name)),
        part=part,
    )
