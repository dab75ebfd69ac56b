"""How far a whole sweep has come, in place of Tune's tables."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.tune import Callback, ProgressReporter
from ray.tune.experiment import Trial

from isod.config.record import flatten
from isod.console import EVERY, Line, clock, display, say, seconds_left, times
from isod.messages import messages_to
from isod.orchestration.tune_trial import failure_reason, name_of
from isod.training.folder import Row
from isod.vocabulary import HEADLINE, SECONDS

log = logging.getLogger("isod")

ENDED_ROWS = 40  # of a notebook's table: so many of the trials that ended last


@dataclass
class _Trial:
    """How far a trial has come."""

    name: str
    iteration: int = 0
    quality: str = "starting"  # "mAP 0.123"
    ended: str = ""  # how: "done", "stopped early" or "failed"


class NoReporter(ProgressReporter):
    """Reports nothing: in a notebook Tune's own reporter would clear the view."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Trial], done: bool, *sys_info: Any) -> None:
        """Never called."""


class ProgressView(Callback):
    """Bars in a terminal, a table in a notebook, or a status line now and then: what runs, and how much is left.

    Args:
        total: number of trials.
        iterations: of each trial.
        what: sweep or search.
        varied: names of the settings that a search varies, which a line states as a trial starts.
        every: seconds between two status lines where the output is neither a terminal nor a notebook.
    """

    def __init__(
        self, total: int, iterations: int, *, what: str = "sweep", varied: Sequence[str] = (), every: float = EVERY
    ) -> None:
        self._total = total
        self._iterations = iterations
        self._what = what
        self._varied = varied
        self._every = every
        self._began = time.monotonic()
        self._shown: Any = None  # while it is shown
        self._unread = False  # whether whoever read the lines has left
        self._trials: dict[str, _Trial] = {}  # trial id → how far it has come; those that ended come last
        self.done = 0  # trials that ended, well or not
        self._share: dict[str, float] = {}  # trial id → share of its iterations
        # The pace counts from the first results on: Ray's start and the imports happen once, and what a trial brings
        # along from before --resume took none of this sweep's time.
        self._first_result: float | None = None  # when it came
        self._brought: dict[str, float] = {}  # trial id → share of its iterations that does not count for the pace
        self._latest: dict[str, Row] = {}  # trial id → its last validation

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks, which a terminal does not allow."""
        return {**vars(self), "_shown": None}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within it the sweep is shown, with what is logged as lines above it.

        Raises:
            BrokenPipeError: at the end, if whoever read the lines has left.
        """
        with display(
            self.lines, plain=lambda: self._say(self.status()), table=self.table, every=self._every, at_once=True
        ) as self._shown:
            try:
                with messages_to(self.write_line):
                    yield
            finally:
                self._shown.update()
        if self._unread:
            raise BrokenPipeError

    def status(self) -> str:
        """Return the status as one line."""
        now = time.monotonic()
        seconds = self._seconds_left(now)
        left = "" if seconds is None else f", about {clock(seconds)} left"
        running = " · ".join(
            f"{trial.name} {f'{trial.iteration}/{self._iterations} ' if trial.iteration else ''}{trial.quality}"
            for trial in self._running()
        )
        return f"[{clock(now - self._began)}] {self.done}/{self._total} runs{left} · {running}"[:200]

    def lines(self) -> list[Line]:
        """Return a line for the whole, and one for each trial that runs."""
        now = time.monotonic()
        seconds, share = now - self._began, sum([*self._share.values()]) / max(self._total, 1)
        notes = [clock(seconds)] if self.done == self._total else times(seconds, self._seconds_left(now))
        whole = Line(self._what, share, f"{self.done}/{self._total} runs", notes)
        return [whole, *map(self._line, self._running())]

    def table(self) -> list[Line]:
        """Return these lines, and one for each of those trials that ended last."""
        ended = [trial for trial in [*self._trials.values()] if trial.ended]
        lines = [*self.lines(), *map(self._line, ended[: -ENDED_ROWS - 1 : -1])]
        if len(ended) > ENDED_ROWS:
            lines.append(Line(f"and {len(ended) - ENDED_ROWS} that ended earlier", None, ""))
        return lines

    def _running(self) -> list[_Trial]:
        return [trial for trial in [*self._trials.values()] if not trial.ended]  # a copy: another thread reads it

    def _line(self, trial: _Trial) -> Line:
        return Line(
            trial.name,
            trial.iteration / self._iterations,
            f"{trial.iteration}/{self._iterations}",
            [*filter(None, [trial.quality, trial.ended])],
        )

    def _seconds_left(self, now: float) -> float | None:
        if self._first_result is None:
            return None
        share, brought = sum([*self._share.values()]), sum([*self._brought.values()])
        done, left = (share - brought) / self._total, 1 - share / self._total
        return seconds_left(now - self._first_result, done, left)

    def _update(self) -> None:
        if self._shown is not None:
            self._shown.update()

    def write_line(self, text: str) -> None:
        """Write a line that stays."""
        self._say(f"[{clock(time.monotonic() - self._began)}] {text}")

    def _say(self, text: str) -> None:
        """Print a line; if its reader has left, stop Tune as a Ctrl-C does. It would take an error for a trial's."""
        if self._unread:
            return
        try:
            say(text)
        except BrokenPipeError:
            self._unread = True
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # but Tune's own
                signal.raise_signal(signal.SIGINT)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._trials:
            self._update()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self._varied and trial.trial_id not in self._trials:  # else it is restarted
            settings = flatten(trial.config["run"])
            self.write_line(" ".join([f"{name_of(trial)}:", *(f"{name}={settings[name]}" for name in self._varied)]))
        self._trials[trial.trial_id] = _Trial(name_of(trial))
        self._update()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        for message in result["said"]:
            log.log(message.level, "%s: %s", name_of(trial), message.text)
        if not result["rows"]:
            return
        self._share[trial.trial_id] = result["iteration"] / self._iterations
        self._brought.setdefault(trial.trial_id, self._share[trial.trial_id])
        self._first_result = self._first_result or time.monotonic()
        self._latest[trial.trial_id] = result["rows"][-1]
        quality = f"{HEADLINE} {result['rows'][-1][1][HEADLINE]:.3f}"
        self._trials[trial.trial_id] = _Trial(name_of(trial), result["iteration"], quality)
        self._update()

    def _ended(self, trial: Trial, how: str, text: str) -> None:
        skipped = 1.0 - self._share.get(trial.trial_id, 0.0)  # of a trial that failed
        self._brought[trial.trial_id] = self._brought.get(trial.trial_id, 0.0) + skipped
        self._share[trial.trial_id] = 1.0
        self.done += 1
        ended = self._trials.pop(trial.trial_id, _Trial(name_of(trial)))
        quality = ended.quality if ended.iteration else ""
        self._trials[trial.trial_id] = _Trial(ended.name, ended.iteration, quality, how)
        if how == "failed" or self._shown is None or not self._shown.rows:
            self.write_line(text)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if reason := (trial.last_result or {}).get("failed"):
            self._ended(trial, "failed", f"{name_of(trial)} FAILED: {reason}")
            return
        step, metrics = self._latest[trial.trial_id]
        how = "done" if step >= self._iterations else "stopped early"
        self._ended(
            trial,
            how,
            f"{name_of(trial)} {how}: {HEADLINE} {metrics[HEADLINE]:.4f} after {step} iterations,"
            f" {metrics[SECONDS]:.0f} s of training",
        )

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.write_line(f"{name_of(trial)} was lost ({failure_reason(trial)}): it resumes from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended(trial, "failed", f"{name_of(trial)} FAILED: {failure_reason(trial)}")
