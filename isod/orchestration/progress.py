"""One compact line for the whole sweep, in place of Tune's tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from ray.tune import Callback
from ray.tune.experiment import Trial

from isod.config.record import flatten
from isod.orchestration.tune_trial import failure_reason, name_of
from isod.training.folder import Row
from isod.vocabulary import HEADLINE, SECONDS


def clock(seconds: float) -> str:
    """Return ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_left(seconds: float, done: float, left: float) -> float | None:
    """Return how long the share ``left`` of all work takes, at the pace of the share ``done`` in ``seconds``; None
    while less than 2 % is done."""
    return None if done < 0.02 else seconds * left / done


class ProgressView(Callback):
    """A status line that is redrawn on a terminal, and written now and then to a file or pipe.

    Args:
        total: number of trials.
        iterations: of each trial.
        varied: names of the settings that a search varies, which a line states as a trial starts.
        every: seconds between two status lines where the output is no terminal.
    """

    def __init__(
        self,
        total: int,
        iterations: int,
        *,
        varied: Sequence[str] = (),
        every: float = 20.0,
        stream: TextIO | None = None,
    ) -> None:
        self._total = total
        self._iterations = iterations
        self._varied = varied
        self._stream = stream
        self._live = (stream or sys.stdout).isatty()
        self._every = 0.5 if self._live else every
        self._began = time.monotonic()
        self._drawn = -float("inf")
        self._running: dict[str, str] = {}  # trial id → "UIS-seed0 300/600 mAP 0.123"
        self.done = 0  # trials that ended, well or not
        self._share: dict[str, float] = {}  # trial id → share of its iterations
        # The pace counts from the first results on: Ray's start and the imports happen once, and what a trial brings
        # along from before --resume took none of this sweep's time.
        self._first_result: float | None = None  # when it came
        self._brought: dict[str, float] = {}  # trial id → share of its iterations that does not count for the pace
        self._latest: dict[str, Row] = {}  # trial id → its last validation

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; a stream (a notebook's standard output, say) need not allow that."""
        return {**vars(self), "_stream": None}

    def _write(self, text: str, *, lasting: bool) -> None:
        start, end = ("\r\x1b[K", "\n" if lasting else "") if self._live else ("", "\n")
        stream = self._stream or sys.stdout
        stream.write(start + text + end)
        stream.flush()

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._drawn < self._every:
            return
        self._drawn = now
        elapsed = now - self._began
        seconds = self._seconds_left(now)
        left = "" if seconds is None else f", about {clock(seconds)} left"
        running = " · ".join(self._running.values())
        self._write(f"[{clock(elapsed)}] {self.done}/{self._total} runs{left} · {running}"[:200], lasting=False)

    def _seconds_left(self, now: float) -> float | None:
        if self._first_result is None:
            return None
        share, brought = sum(self._share.values()), sum(self._brought.values())
        done, left = (share - brought) / self._total, 1 - share / self._total
        return seconds_left(now - self._first_result, done, left)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._varied and trial.trial_id not in self._running:  # else it is restarted
            settings = flatten(trial.config["run"])
            self.write_line(" ".join([f"{name_of(trial)}:", *(f"{name}={settings[name]}" for name in self._varied)]))
        self._running[trial.trial_id] = f"{name_of(trial)} starting"
        self._draw()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        for sentence in result["said"]:
            self.write_line(f"{name_of(trial)}: {sentence}")
        if not result["rows"]:
            return
        self._share[trial.trial_id] = result["iteration"] / self._iterations
        self._brought.setdefault(trial.trial_id, self._share[trial.trial_id])
        self._first_result = self._first_result or time.monotonic()
        quality = f"{HEADLINE} {result['rows'][-1][1][HEADLINE]:.3f}"
        self._latest[trial.trial_id] = result["rows"][-1]
        self._running[trial.trial_id] = f"{name_of(trial)} {result['iteration']}/{self._iterations} {quality}"
        self._draw()

    def _ended(self, trial: Trial, text: str) -> None:
        skipped = 1.0 - self._share.get(trial.trial_id, 0.0)  # of a trial that failed
        self._brought[trial.trial_id] = self._brought.get(trial.trial_id, 0.0) + skipped
        self._share[trial.trial_id] = 1.0
        self.done += 1
        self._running.pop(trial.trial_id, None)
        self.write_line(text)

    def write_line(self, text: str) -> None:
        """Write a line that stays, above the status line."""
        self._write(f"[{clock(time.monotonic() - self._began)}] {text}", lasting=True)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if reason := (trial.last_result or {}).get("failed"):
            self._ended(trial, f"{name_of(trial)} FAILED: {reason}")
            return
        step, metrics = self._latest[trial.trial_id]
        how = "done" if step >= self._iterations else "stopped early"
        self._ended(
            trial,
            f"{name_of(trial)} {how}: {HEADLINE} {metrics[HEADLINE]:.4f} after {step} iterations,"
            f" {metrics[SECONDS]:.0f} s of training",
        )

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.write_line(f"{name_of(trial)} was lost ({failure_reason(trial)}): it resumes from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended(trial, f"{name_of(trial)} FAILED: {failure_reason(trial)}")
