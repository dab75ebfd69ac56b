"""One Tune trial: one sampler with one seed, fed by its own table and stream.

Torch is imported where a trial runs: a driver on the CPU, which needs this file's names, starts without it.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ray import tune
from ray.exceptions import RayTaskError

from isod.config.settings import ResourceConfig, RunConfig
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.messages import Message, messages_sent
from isod.orchestration.stream import RayStream
from isod.training.device import device_name
from isod.training.examples import located
from isod.training.folder import Row, RunFolder
from isod.training.remote_folder import RemoteFolder
from isod.vocabulary import HEADLINE

if TYPE_CHECKING:
    from isod.training.run import Reporter


def trial_folder(runs: str, config: RunConfig) -> RunFolder | RemoteFolder:
    """Where a trial of a sweep leaves its results: a folder, or an address in object storage."""
    return RemoteFolder(f"{runs}/{config.name}") if "://" in runs else RunFolder(Path(runs) / config.name)


_stream: RayStream | None = None  # of this process; kept for its next trial


def kept_stream(resources: ResourceConfig) -> RayStream:
    """The stream of the trial that ran in this process before, or a new one: starting one takes seconds."""
    global _stream
    if _stream is None or (_stream.workers, _stream.cpus_per_worker) != (
        resources.decode_workers,
        resources.cpus_per_worker,
    ):
        drop_stream()
        _stream = RayStream(workers=resources.decode_workers, cpus_per_worker=resources.cpus_per_worker)
    return _stream


def drop_stream() -> None:
    """End the kept stream: after a failure nobody knows what it still holds."""
    global _stream
    if _stream is not None:
        _stream.close()
        _stream = None


class TuneReporter:
    """Reports a trial's validations to Tune, each with the messages that came since the last one.

    A report is ``{"iteration": …, "rows": [(iteration, metrics), …], "said": [Message, …], "device": name, "failed":
    reason, "mAP": that of the last row}``: one row, or after a restart first all those of the earlier attempt. Tune's
    own tools read ``mAP``.
    """

    def __init__(self) -> None:
        self.device = ""  # what the trial trains on
        self.messages: list[Message] = []
        self._iteration = 0
        self._headline = math.nan

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        self.send([(iteration, metrics)])

    def replay(self, rows: list[Row]) -> None:
        self.send(rows)

    def fail(self, reason: str) -> None:
        """Report that the trial cannot succeed, however often it is tried."""
        self.send([], failed=reason)

    def send(self, rows: list[Row], *, failed: str = "") -> None:
        """Report rows and the messages so far."""
        if rows:
            self._iteration, metrics = rows[-1]
            self._headline = metrics.get(HEADLINE, math.nan)
        said, self.messages[:] = self.messages[:], []
        report = {"iteration": self._iteration, "rows": rows, "said": said, "device": self.device, "failed": failed}
        tune.report({**report, HEADLINE: self._headline})


def measured_if(wanted: bool, reporter: Reporter) -> AbstractContextManager[Reporter]:
    """Return a context whose reporter adds the use of the machine, if that is wanted."""
    if not wanted:
        return nullcontext(reporter)
    from isod.tracking.system_metrics import measured  # imports MLflow, which other trials do without

    return measured(reporter)


def run_trial(
    params: dict[str, RunConfig],
    *,
    store_uri: str,
    runs: str,
    holdout: str,
    resources: ResourceConfig,
    started_in: str = "",
    system_metrics: bool = False,
    sweep: str = "",
) -> None:
    """Train a trial, from the last checkpoint if there is one, and report to Tune at every validation.

    A run that cannot succeed (bad input, a loss that is not finite) ends with a report that says why; whatever else is
    raised is for Tune to try again.

    Args:
        params: ``{"run": RunConfig}``, as Tune hands it out.
        runs: folder for the trials' results, on shared storage where the cluster has several nodes; or an address in
            object storage.
        holdout: folder for the hold-out models' scores.
        started_in: folder from which relative files in the settings are seen, as Tune gives each trial one of its own;
            "" for this process's.
        system_metrics: whether to report the use of the machine, too.
        sweep: whose name the run's metrics in Ray have; without it there are none.
    """
    from isod.training.device import choose_device
    from isod.training.process import configure_process
    from isod.training.run import Run

    config = located(params["run"], Path(started_in))
    place = trial_folder(runs, config)
    reporter = TuneReporter()
    configure_process(resources.threads)
    try:
        with messages_sent(reporter.messages.append), place.worked_in() as path:
            folder = RunFolder(path)
            if resources.workers_per_trial > 1 and not folder.finished:
                from isod.orchestration.ranks import run_on_ranks  # imports Ray Train, which other trials do without

                run_on_ranks(
                    config,
                    store_uri=store_uri,
                    folder=folder,
                    holdout=holdout,
                    resources=resources,
                    reporter=reporter,
                    system_metrics=system_metrics,
                    sweep=sweep,
                )
                return
            # A finished run only reports, wherever it is: what it lies in may have no GPU.
            device = choose_device("cuda" if resources.gpus_per_trial > 0 and not folder.finished else "cpu")
            reporter.device = "" if folder.finished else device_name(device)
            remote = place if isinstance(place, RemoteFolder) else None
            run = Run(
                config=config,
                store=CropStore.open(store_uri),
                folder=folder,
                device=device,
                resources=resources,
                holdout_cache=Path(holdout) if remote is None else None,  # in the copy
                remote=remote,
            )
            with measured_if(system_metrics, reporter) as measuring:
                run.train(
                    lambda examples, state: kept_stream(resources).begin(
                        store_uri, config, examples, state, sweep=sweep
                    ),
                    measuring,
                )
    except SystemExit:  # a scheduler stopped the run, which waits in its report: the stream serves the next trial
        raise
    except BaseException as error:
        drop_stream()
        cause = error.cause if isinstance(error, RayTaskError) else error  # a worker's own exception
        if not isinstance(cause, InputError | FloatingPointError):
            raise  # a lost process or machine: the next attempt resumes from the checkpoint
        reporter.fail(str(cause).splitlines()[0])  # Ray Data adds lines of advice to a worker's own words
