"""CPU, memory, disk, network and GPU use of a run's machine, beside its metrics; MLflow's own measurements."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from isod.training.folder import Row
from isod.training.run import Reporter

PREFIX = "system/"  # by which MLflow's UI has a page of them
SECONDS = 5.0  # between two measurements

log = logging.getLogger("isod")


class MeasuredReporter:
    """Adds the means since the last validation to what a run reports; of the network, megabytes since the start."""

    def __init__(self, reporter: Reporter, monitors: list[BaseMetricsMonitor]) -> None:
        self._reporter, self._monitors = reporter, monitors
        self._lock = threading.Lock()

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        self.measure()  # so that there is one
        with self._lock:
            means = {f"{PREFIX}{name}": value for m in self._monitors for name, value in m.aggregate_metrics().items()}
            for monitor in self._monitors:
                monitor.clear_metrics()
        self._reporter.report({**metrics, **means}, iteration)

    def replay(self, rows: list[Row]) -> None:
        self._reporter.replay(rows)

    def measure(self) -> None:
        """Measure now."""
        with self._lock:
            for monitor in self._monitors:
                monitor.collect_metrics()


@contextmanager
def measured(reporter: Reporter) -> Iterator[Reporter]:
    """Yield a reporter that adds ``system/…``, in MLflow's names, to the metrics of each validation.

    A thread measures every ``SECONDS``. What MLflow cannot measure is left out: GPUs need nvidia-ml-py.
    """
    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:
        log.debug("no system metrics of GPUs: %s", error)
    made, ended = MeasuredReporter(reporter, monitors), threading.Event()

    def work() -> None:
        while not ended.wait(SECONDS):
            made.measure()

    thread = threading.Thread(target=work, name="isod-system-metrics", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        ended.set()
        thread.join()
