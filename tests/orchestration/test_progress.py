"""What a sweep says of how far it is, and of the time that is left."""

import io
import logging
import re
import signal
from contextlib import suppress
from types import SimpleNamespace

import pytest

from isod.console import Line, clock, quiet
from isod.messages import Message
from isod.orchestration import progress
from isod.orchestration.progress import ProgressView


def trial_named(name):
    """What the view reads of Tune's trial."""
    return SimpleNamespace(
        trial_id=name, config={"run": SimpleNamespace(name=f"{name}-seed0")}, last_result={"failed": "no"}
    )


def report(view, trial, iteration):
    metrics = {"mAP": 0.1, "time/seconds": 1.0}
    view.on_trial_result(0, [], trial, {"said": [], "iteration": iteration, "rows": [(iteration, metrics)]})


def test_what_resumed_trials_bring_along_and_what_failed_ones_leave_is_no_pace(monkeypatch):
    """Two of five trials come back at 80 % and each does 10 % more in 100 s, so 0.04 of the work, with 1 − 1.8/5 = 0.64
    left: 1600 s. Then a third fails at once: its fifth is no longer left, and no work that was done: 1100 s."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    view = ProgressView(5, 100)
    trials = [trial_named(name) for name in "abc"]

    now[0] = 50.0
    report(view, trials[0], 80)
    report(view, trials[1], 80)
    assert "left" not in view.status()
    now[0] = 150.0
    report(view, trials[0], 90)
    report(view, trials[1], 90)
    assert view.status().startswith(f"[2:30] 0/5 runs, about {clock(1600)} left · a-seed0 90/100 mAP 0.100 · b-seed0 ")
    view.on_trial_complete(0, [], trials[2])
    report(view, trials[1], 90)
    assert f"about {clock(1100)} left" in view.status()


def test_what_a_trial_logged_keeps_its_level(capsys):
    """So that `--quiet` shows its warnings, on standard error, and nothing else."""
    said = [Message(logging.INFO, "a note"), Message(logging.WARNING, "3 crops are lost")]
    for wanted, out, error in (
        (False, "a-seed0: a note\na-seed0: 3 crops are lost\n", ""),
        (True, "", "a-seed0: 3 crops are lost\n"),
    ):
        view = ProgressView(1, 100)
        with quiet(wanted), view.shown():
            view.on_trial_result(0, [], trial_named("a"), {"said": said, "iteration": 0, "rows": []})
        printed = capsys.readouterr()
        assert printed.err == error
        assert "".join(re.findall(r"a-seed0: .*\n", printed.out)) == out


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


def test_messages_are_lines_of_the_view_while_a_sweep_runs(console, tmp_path, capsys):
    """The console shows only those outside; a file has all."""
    log = logging.getLogger("isod")
    file = logging.FileHandler(tmp_path / "log")
    log.addHandler(file)
    view = ProgressView(2, 100)
    log.info("before")
    with suppress(KeyboardInterrupt), view.shown():
        view.on_trial_start(0, [], trial_named("UIS"))
        logging.getLogger("isod.tracking").warning("MLflow is %s", "away")
        raise KeyboardInterrupt
    log.info("after")
    log.removeHandler(file)
    file.close()
    assert capsys.readouterr().out == "[0:00] 0/2 runs · UIS-seed0 starting\n[0:00] MLflow is away\n"
    assert console.getvalue() == "before\nafter\n"
    assert (tmp_path / "log").read_text() == "before\nMLflow is away\nafter\n"


def test_a_reader_that_leaves_stops_tune_as_a_ctrl_c_does(monkeypatch):
    """An error in a callback would be a trial's to Tune, which has its own handler; what follows is not printed."""
    stopped, printed = [], []

    class Closed(io.StringIO):
        def write(self, text):
            printed.append(text)
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    before = signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
    try:
        view = ProgressView(2, 100)
        shown = view.shown()
        shown.__enter__()
        view.write_line("first")
        view.write_line("second")
        logging.getLogger("isod").info("third")
        with pytest.raises(BrokenPipeError):
            shown.__exit__(None, None, None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped == [True]
    assert len(printed) == 1


def test_where_it_is_quiet_warnings_alone_are_seen(capsys):
    view = ProgressView(1, 100)
    with quiet(), view.shown():
        view.on_trial_start(0, [], trial_named("UIS"))
        logging.getLogger("isod").info("unseen")
        logging.getLogger("isod").warning("MLflow is away")
    assert capsys.readouterr() == ("", "MLflow is away\n")


def test_lines_are_of_the_whole_and_of_what_runs_and_a_table_has_what_ended_last(monkeypatch):
    """Of four trials one is done, one failed at once, one is at 30 of 100 iterations and one has started: (1 + 1 + 0.3)
    of 4."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    view = ProgressView(4, 100)
    done, failed, half, fresh = map(trial_named, ("done", "failed", "half", "fresh"))
    for trial in (done, failed, half, fresh):
        view.on_trial_start(0, [], trial)
    now[0] = 10.0
    for trial, iteration in ((half, 10), (done, 100)):
        report(view, trial, iteration)
    done.last_result = {}
    view.on_trial_complete(0, [], done)
    view.on_trial_complete(0, [], failed)
    now[0] = 30.0
    report(view, half, 30)
    whole, first, second = view.lines()
    assert (whole.name, whole.share, whole.counts) == ("sweep", 2.3 / 4, "2/4 runs")
    # 0.2 of a trial in 20 s, with 0.7 + 1 left: 170 s
    assert whole.notes == ["about 2:50 left", "0:30 so far"]
    assert first == Line("half-seed0", 0.3, "30/100", ["mAP 0.100"])
    assert second == Line("fresh-seed0", 0.0, "0/100", ["starting"])
    assert view.table()[:3] == view.lines()
    assert view.table()[3:] == [
        Line("failed-seed0", 0.0, "0/100", ["failed"]),
        Line("done-seed0", 1.0, "100/100", ["mAP 0.100", "done"]),
    ]
