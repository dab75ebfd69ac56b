"""``isod results``: the report of a sweep, made from MLflow alone."""

from __future__ import annotations

import textwrap
from pathlib import Path

from isod.errors import InputError
from isod.results.report.page import write_report
from isod.results.statistics.best import best_model, predict_commands
from isod.results.statistics.guard import guard_sentence, guard_table, regressions, unjudged
from isod.results.statistics.text_table import format_table
from isod.tracking.saved import save_runs
from isod.tracking.sweep_reader import load_runs
from isod.vocabulary import HEADLINE


class RegressionError(Exception):
    """A stratum got worse and the caller asked for a failure then; the message has one line for each."""


def results_command(
    tracking_uri: str,
    experiment: str | None,
    out: Path | str,
    sweep: str | None = None,
    metric: str = HEADLINE,
    fail_on_regression: bool = False,
    save: Path | None = None,
    processes: int = 1,
) -> tuple[Path, str]:
    """Print the speed-up table and what got worse, write the report into a folder, and print where it is.

    Args:
        tracking_uri, experiment, sweep: as ``load_runs`` takes them; of what is not given, that of the sweep that
            started last.
        metric: of the printed table; the report has its own.
        save: folder for the runs and their curves as Parquet files, see ``save_runs``.
        fail_on_regression: whether a stratum that got worse, by the guard's rule, is an error.
        processes: that draw the figures, see ``write_report``.
    Returns:
        The path of report.html, and the printed table with what got worse.
    Raises:
        InputError: no runs to read or compare, a folder that cannot be written, a metric that is not logged or of which
            less is better; with ``fail_on_regression`` also if the guard cannot judge a sampler.
        RegressionError: a stratum got worse and ``fail_on_regression`` is set; the report is written first.
    """
    runs = load_runs(tracking_uri, experiment, sweep)
    if save is not None:
        save_runs(runs, save)
    guard = guard_table(runs)
    table = format_table(runs, metric=metric)
    page = write_report(runs, Path(out), processes)  # before anything is printed, which may fail
    table = f"{table}\n{textwrap.fill(guard_sentence(guard), 100)}"
    print(table)
    best = best_model(runs)
    print(f"\n{best.sentence}: {' && '.join(predict_commands(runs, best))}")
    print(f"report: {page}")
    if fail_on_regression:
        if guard.empty or unjudged(guard):
            raise InputError(f"--fail-on-regression cannot judge these runs. {guard_sentence(guard)}")
        if worse := regressions(guard):
            raise RegressionError("\n".join(worse))
    return page, table
