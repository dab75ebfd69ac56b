"""One run of ``isod train`` in MLflow: as a sweep's child, but without a parent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from mlflow.entities import RunInfo
from mlflow.exceptions import MlflowException

from isod.errors import InputError, one_line
from isod.files import atomic_write
from isod.tracking.client import Experiment
from isod.tracking.context import run_context
from isod.tracking.dataset import store_input
from isod.tracking.deliveries import PATIENCE
from isod.tracking.metric_names import class_tags
from isod.tracking.sweep_writer import SweepRecord, SweepWriter, begin_run
from isod.training.device import cpu_model, device_name
from isod.training.folder import Row
from isod.training.metrics_table import MetricsTable
from isod.training.run import Run
from isod.version import source_commit
from isod.vocabulary import COMMIT_TAG, DEMO_TAG, MACHINE_TAG, METRICS

ADDRESS = "mlflow.json"  # in the run's folder: where MLflow has it, for --resume


class RunReporter:
    """Hands a run's validations to a ``SweepWriter``; to nobody where MLflow has the finished run."""

    def __init__(self, run: Run, writer: SweepWriter | None, address: Mapping[str, str]) -> None:
        self._run, self._writer, self._address = run, writer, address
        self.begun = False  # whether the run reported something: it was not rejected
        self.undelivered = ""  # why MLflow lacks some of it, at the end

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        self.replay([(iteration, metrics)])

    def replay(self, rows: list[Row]) -> None:
        if self._writer is None:
            return
        if not self.begun:
            self.begun = True
            with atomic_write(self._run.folder.path / ADDRESS) as part:
                part.write_text(json.dumps(self._address) + "\n")
        self._writer.trial_started(self._run.config.name, self._run.config)
        self._writer.trial_reported(self._run.config.name, rows, device_name(self._run.device))


@contextmanager
def recorded(run: Run, experiment: Experiment, *, resume: bool = False) -> Iterator[RunReporter]:
    """Record what runs inside in MLflow; only the end waits for it, at most ``PATIENCE``.

    An error inside marks MLflow's run as failed, an interruption as killed; both are raised again. A run that is
    rejected before its first validation leaves nothing in MLflow.

    Args:
        resume: continue the run in MLflow that the folder names, if this store has it.
    Yields:
        What the run reports to; afterwards it says what could not be delivered.
    Raises:
        InputError: MLflow takes no run, or no files.
    """
    name, path, meta = run.config.name, run.folder.path, run.store.meta
    known = _known(path / ADDRESS, experiment) if resume else None
    if known is not None and known.status == "FINISHED":
        yield RunReporter(run, None, {})
        return
    tags = {
        **run_context(),
        COMMIT_TAG: source_commit(),
        DEMO_TAG: str(meta.demo).lower(),
        MACHINE_TAG: f"{cpu_model()}: {os.cpu_count()} CPUs, {torch.cuda.device_count()} GPUs",
        **class_tags(meta.class_names),
    }
    run_id = begin_run(experiment, name, run.settings, tags) if known is None else known.run_id
    writer = SweepWriter(
        experiment,
        SweepRecord("", {name: run_id}),
        params={"store": run.store.uri},
        tags={},
        class_names=meta.class_names,
        dataset=store_input(run.store),
    )
    reporter = RunReporter(run, writer, {"tracking_uri": experiment.tracking_uri, "run_id": run_id})
    if known is None:
        writer.trial_started(name, run.config)
    rejected = False
    try:
        yield reporter
        # All rows again: MLflow leaves out what it has, and a run that had finished before reported none
        reporter.replay(MetricsTable(path / METRICS).history())
        writer.trial_finished(name, run.folder)
    except Exception as error:
        rejected = isinstance(error, InputError) and not reporter.begun
        if not rejected:
            writer.trial_started(name, run.config)
            writer.trial_failed(name, one_line(error))
        raise
    finally:
        reporter.undelivered = writer.close("", patience=PATIENCE)
        if rejected and known is None:
            with suppress(MlflowException):
                experiment.client.delete_run(run_id)


def _known(address: Path, experiment: Experiment) -> RunInfo | None:
    """Return the run that the file names, if this store has it and it is not deleted."""
    try:
        content = json.loads(address.read_text())
        if content["tracking_uri"] != experiment.tracking_uri:
            return None
        info = experiment.client.get_run(content["run_id"]).info
    except (OSError, ValueError, LookupError, TypeError, MlflowException):
        return None
    return info if info.lifecycle_stage == "active" else None
