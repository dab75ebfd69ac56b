"""The time that a sweep says is left."""

import io
import logging
from contextlib import suppress
from types import SimpleNamespace

import pytest

from isod.messages import messages_to
from isod.orchestration import progress
from isod.orchestration.progress import ProgressView, clock, seconds_left


def test_by_hand():
    """A tenth of the work in 100 s, 0.89 left: 890 s."""
    assert seconds_left(100.0, 0.10, 0.89) == pytest.approx(890)
    assert seconds_left(60.0, 1.0, 0.0) == 0


def test_too_little_to_tell():
    assert seconds_left(1.0, 0.01, 0.94) is None
    assert seconds_left(1.0, 0.0, 0.0) is None  # a sweep of one result


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3725.5, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_what_resumed_trials_bring_along_and_what_failed_ones_leave_is_no_pace(monkeypatch):
    """Two of five trials come back at 80 % and each does 10 % more in 100 s, so 0.04 of the work, with 1 − 1.8/5 = 0.64
    left: 1600 s. Then a third fails at once: its fifth is no longer left, and no work that was done: 1100 s."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    view = ProgressView(5, 100, every=0.0, stream=out)
    trials = [
        SimpleNamespace(trial_id=name, config={"run": SimpleNamespace(name=f"{name}-seed0")},
                        last_result={"failed": "no"})
        for name in "abc"
    ]  # fmt: skip

    def report(trial, iteration):
        view.on_trial_result(0, [], trial, {"said": [], "iteration": iteration, "rows": [(iteration, {"mAP": 0.1})]})

    now[0] = 50.0
    report(trials[0], 80)
    report(trials[1], 80)
    assert "left" not in out.getvalue()
    now[0] = 150.0
    report(trials[0], 90)
    report(trials[1], 90)
    assert out.getvalue().splitlines()[-1].startswith(f"[2:30] 0/5 runs, about {clock(1600)} left")
    view.on_trial_complete(0, [], trials[2])
    report(trials[1], 90)
    assert f"about {clock(1100)} left" in out.getvalue().splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def console():
    """A console as the command line sets it up."""
    stream, log = io.StringIO(), logging.getLogger("isod")
    handler, level = logging.StreamHandler(stream), log.level
    log.addHandler(handler)
    log.setLevel("INFO")
    yield stream
    log.removeHandler(handler)
    log.setLevel(level)


def test_messages_are_lines_above_the_status_line_while_a_sweep_runs(console, tmp_path):
    """Each clears the status line, which has no end of line, and ends its own; the console shows only those outside."""
    log, out = logging.getLogger("isod"), Terminal()
    file = logging.FileHandler(tmp_path / "log")
    log.addHandler(file)
    view = ProgressView(2, 100, stream=out)
    trial = SimpleNamespace(trial_id="a", config={"run": SimpleNamespace(name="UIS-seed0")})
    log.info("before")
    with suppress(KeyboardInterrupt), messages_to(view.write_line):
        view.on_trial_start(0, [], trial)
        logging.getLogger("isod.tracking").warning("MLflow is %s", "away")
        raise KeyboardInterrupt
    log.info("after")
    log.removeHandler(file)
    file.close()
    clear = "\r\x1b[K"
    assert out.getvalue() == f"{clear}[0:00] 0/2 runs · UIS-seed0 starting{clear}[0:00] MLflow is away\n"
    assert console.getvalue() == "before\nafter\n"
    assert (tmp_path / "log").read_text() == "before\nMLflow is away\nafter\n"
