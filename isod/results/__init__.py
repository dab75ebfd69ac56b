"""MLflow runs → tables, figures and a report. Each name is imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isod.results.command import results_command
    from isod.results.report.page import write_report
    from isod.results.statistics.guard import guard_table
    from isod.results.statistics.order import order_table
    from isod.results.statistics.speedup import speedup
    from isod.results.statistics.speedup_table import speedup_table
    from isod.results.statistics.text_table import format_table
    from isod.tracking.examples import load_examples
    from isod.tracking.runs import Runs, joined_runs
    from isod.tracking.saved import save_runs, saved_runs
    from isod.tracking.sweep_reader import load_runs

_HOMES = {
    "Runs": "isod.tracking.runs",
    "format_table": "isod.results.statistics.text_table",
    "guard_table": "isod.results.statistics.guard",
    "joined_runs": "isod.tracking.runs",
    "load_examples": "isod.tracking.examples",
    "load_runs": "isod.tracking.sweep_reader",
    "order_table": "isod.results.statistics.order",
    "results_command": "isod.results.command",
    "save_runs": "isod.tracking.saved",
    "saved_runs": "isod.tracking.saved",
    "speedup": "isod.results.statistics.speedup",
    "speedup_table": "isod.results.statistics.speedup_table",
    "write_report": "isod.results.report.page",
}

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
