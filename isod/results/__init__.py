"""MLflow runs → tables, figures and a report."""

from isod.results.command import results_command
from isod.results.examples import load_examples
from isod.results.guard import guard_table
from isod.results.order import order_table
from isod.results.report import write_report
from isod.results.runs import Runs, joined_runs, load_runs
from isod.results.saved import save_runs, saved_runs
from isod.results.speedup import speedup
from isod.results.table import format_table, speedup_table

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
