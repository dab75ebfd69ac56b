"""``isod results``: the report of a sweep, made from MLflow alone."""

from __future__ import annotations

from pathlib import Path

from isod.results.report import write_report
from isod.results.runs import load_runs
from isod.results.table import format_table


def results_command(tracking_uri: str, experiment: str, out: Path | str, sweep: str | None = None) -> Path:
    """Print the speed-up table and write the report into a folder.

    Args:
        tracking_uri, experiment, sweep: as ``load_runs`` takes them; the sweep that started last if not given.
    Returns:
        The path of report.html.
    Raises:
        InputError: nothing to read, nothing to compare, or nowhere to write.
    """
    runs = load_runs(tracking_uri, experiment, sweep)
    print(format_table(runs))
    return write_report(runs, Path(out))
