"""One trial on several workers: Ray Train starts the ranks of a run, which share one table (spec §10)."""

from __future__ import annotations

import shutil
import threading
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
from isod.messages import Message, messages_sent
from isod.orchestration.resources import rank_resources
from isod.orchestration.stream import RayStream, start_table
from isod.orchestration.trial import TuneReporter, measured_if
from isod.training.device import device_name
from isod.training.folder import Row, RunFolder
from isod.training.process import configure_process
from isod.training.run import Run
from isod.training.stream import BatchPart

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
    reporter: TuneReporter,
    system_metrics: bool = False,
    sweep: str = "",
) -> None:
    """Trains a trial's run on ``workers_per_trial`` ranks, from its last checkpoint if there is one. To be called in a
    trial.

    Args:
        reporter: receives what rank 0 reports, and its messages.
        sweep: whose name the run's metrics in Ray have; without it there are none.
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
            "system_metrics": system_metrics,
            "sweep": sweep,
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
            # Tune tries again, and the table with it; Train keeps waiting where the cluster has no room yet
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
        ),
    )

    def forward() -> None:
        while (received := messages.get()) is not None:
            rows, message, device = received
            reporter.device = f"{resources.workers_per_trial} × {device}"
            if message is not None:
                reporter.messages.append(message)
            if rows:
                reporter.send(rows)

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


class RankReporter:
    """Sends what rank 0 reports to the trial that started it.

    Args:
        messages: queue of (rows, message or None, device).
        device: what it trains on.
    """

    def __init__(self, messages: Queue, device: str) -> None:
        self._messages, self._device = messages, device

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        self.replay([(iteration, metrics)])

    def replay(self, rows: list[Row]) -> None:
        self._messages.put((rows, None, self._device))

    def message(self, message: Message) -> None:
        """Send a message that was logged."""
        self._messages.put(([], message, self._device))


def _run_rank(settings: dict[str, Any]) -> None:
    """Train as one of Ray Train's workers: rank 0 has the run, the others follow it."""
    resources = settings["resources"]
    context = ray.train.get_context()
    device = get_device() if resources.gpus_per_trial > 0 else torch.device("cpu")
    configure_process(resources.threads)
    run = Run(
        config=settings["config"],
        store=CropStore.open(settings["store_uri"]),
        folder=settings["folder"],
        device=device,
        resources=resources,
        part=BatchPart(context.get_world_rank(), context.get_world_size()),
        holdout_cache=Path(settings["holdout"]),
    )
    stream = RayStream(workers=resources.decode_workers, cpus_per_worker=0, table=settings["table"], part=run.part)
    if run.part.rank > 0:
        run.follow(lambda first: stream.join())
        return
    reporter = RankReporter(settings["messages"], device_name(device))
    with messages_sent(reporter.message), measured_if(settings["system_metrics"], reporter) as measuring:
        run.train(
            lambda examples, state: stream.begin(run.store.uri, run.config, examples, state, sweep=settings["sweep"]),
            measuring,
        )
