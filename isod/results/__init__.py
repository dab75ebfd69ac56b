"""MLflow runs → tables, figures and a report."""

from isod.results.command import results_command
from isod.results.report.page import write_report
from isod.results.statistics.guard import guard_table
from isod.results.statistics.order import order_table
from isod.results.statistics.speedup import speedup
from isod.results.statistics.table import format_table, speedup_table
from isod.tracking.examples import load_examples
from isod.tracking.saved import save_runs, saved_runs
from isod.tracking.sweep_reader import Runs, joined_runs, load_runs

__all__ = [
    "Runs",
    "format_table",
    "guard_table",
    "joined_runs",
    "load_examples",
    "load_runs",
    "order_table",
    "results_command",
    "save_runs",
    "saved_runs",
    "speedup",
    "speedup_table",
    "write_report",
]
