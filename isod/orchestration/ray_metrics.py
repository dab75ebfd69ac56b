"""What Ray exports to Prometheus of the runs that train: each metric by name, and how a process records it."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ray
from ray.util.metrics import Counter, Gauge

from isod.config.settings import RunConfig

LABELS = ("sweep", "run", "sampler", "seed")
SECONDS = 5.0  # between two updates of what Ray holds; Ray sends that to its exporter every 10 seconds


@dataclass(frozen=True)
class Metric:
    """One exported metric."""

    kind: Literal["counter", "gauge"]
    unit: str
    description: str


# By the name that a process records. A counter of seconds is read by its rate: seconds waited per second are the share
# of the time, and seconds times batches per second the mean number of batches (Little's law).
METRICS = {
    "isod_steps": Metric("counter", "steps", "Training steps done"),
    "isod_images": Metric("counter", "images", "Images trained on, or scored as candidates"),
    "isod_crops": Metric("counter", "crops", "Crops that decode workers read, and decoded unless the GPU does"),
    "isod_queued_seconds": Metric("counter", "batch-seconds", "Time that decoded batches waited for training, summed"),
    "isod_wait_seconds": Metric("counter", "seconds", "Time that training waited for its next batch"),
    "isod_lag": Metric("gauge", "steps", "Steps drawn whose scores are not applied; at most the setting lag + 1"),
    "isod_table_version": Metric("gauge", "steps", "Steps whose scores the importance table has"),
    "isod_ess": Metric("gauge", "share of N", "Effective sample size at the last validation, once all have a score"),
}


def exported(name: str) -> str:
    """Return the name under which Prometheus finds a metric."""
    return f"ray_{name}_total" if METRICS[name].kind == "counter" else f"ray_{name}"


def labels_of(sweep: str, config: RunConfig) -> dict[str, str]:
    """Return the labels of a run's metrics."""
    values = (sweep, config.name, config.sampler.name, str(config.training.seed))
    return dict(zip(LABELS, values, strict=True))


@functools.cache
def _counter(name: str) -> Counter:
    return Counter(name, METRICS[name].description, LABELS)


@functools.cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, METRICS[name].description, LABELS)


class RunMetrics:
    """What one process records of one run. It goes to Ray every ``SECONDS``; a step costs additions.

    Without labels, and in a process without Ray, nothing is recorded. Not for several threads at once.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._counts: dict[str, float] = {}  # since the last update
        self._values: dict[str, float] = {}  # of gauges: Ray forgets one that is not set again for 20 seconds
        self._due = time.monotonic() + SECONDS

    def add(self, name: str, amount: float) -> None:
        """Count up."""
        self._counts[name] = self._counts.get(name, 0.0) + amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._values[name] = value

    def update(self, *, last: bool = False) -> None:
        """Give Ray what was recorded, if that is due or this is the last time."""
        now = time.monotonic()
        if now < self._due and not last:
            return
        self._due = now + SECONDS
        counts, self._counts = self._counts, {}
        if not self._labels or not ray.is_initialized():
            return
        for name, amount in counts.items():
            if amount > 0:
                _counter(name).inc(amount, self._labels)
        for name, value in self._values.items():
            _gauge(name).set(value, self._labels)
