"""``isod results``: speed-up table, figures and report of a sweep."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from isod.cli.options import OUT, add_tracking_uri, choose_experiment, choose_tracking, examples

PROCESSES = 4  # that draw figures, at most: each imports what drawing needs, which takes longer than a few figures


def add_results_parser(commands: Any) -> None:
    """Add ``results`` to the commands."""
    parser = commands.add_parser(
        "results",
        help="print the speed-up table of a sweep and write its report",
        description="Read the runs of a sweep from MLflow, print its speed-up table, and write an HTML report.",
        **examples(
            "isod results                    # of the sweep that started last",
            "isod results --tracking-uri sqlite:///out/mlflow.db --experiment sweep-demo-store-1000-160x48",
        ),
    )
    add_tracking_uri(parser, "the database in out/")
    parser.add_argument("--experiment", metavar="NAME",
                        help="of the sweep (default: MLFLOW_EXPERIMENT_NAME, else that of the last one)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT / "report", metavar="DIR",
                        help="folder for the report (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sweep", metavar="RUN_ID", help="parent run of the sweep (default: the one started last)")
    parser.add_argument("--metric", default="mAP", metavar="NAME",
                        help="metric of the printed table, such as AP_small/Animal (default: %(default)s)")  # fmt: skip
    parser.add_argument("--save", type=Path, metavar="DIR", help="also write runs and curves as Parquet files to DIR")
    parser.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="exit with code 1 if a class or size ended lower than the baseline by more than the seed-to-seed spread",
    )
    parser.set_defaults(run=results)


def results(options: argparse.Namespace) -> int:
    """Print the table and write the report; 1 where a regression was to fail and there is one."""
    from isod.results.command import RegressionError, results_command

    try:
        results_command(
            choose_tracking(options),
            choose_experiment(options),
            options.out,
            sweep=options.sweep,
            metric=options.metric,
            fail_on_regression=options.fail_on_regression,
            save=options.save,
            processes=min(PROCESSES, os.cpu_count() or 1),
        )
    except RegressionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
