"""``isod triage``: the examples that a run drew most often, and what may be wrong with their labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isod.cli.options import examples


def add_triage_parser(commands: Any) -> None:
    """Add ``triage`` to the commands."""
    parser = commands.add_parser(
        "triage",
        help="write a contact sheet of the examples that a run drew most often",
        description="Write a contact sheet of the examples that a run drew most often, with what may be wrong with "
        "their labels, and a CSV file for annotators.",
        **examples("isod triage --tracking-uri sqlite:///out/mlflow.db --run UIS-seed0 --store demo-store --out sheet"),
    )
    parser.add_argument("--tracking-uri", required=True, metavar="URI", help="MLflow's, as given to `isod sweep`")
    parser.add_argument("--run", required=True, dest="run_name", metavar="RUN",
                        help="id or name of the run, such as UIS-seed0")  # fmt: skip
    parser.add_argument("--experiment", metavar="NAME", help="MLflow experiment of the run (default: search all)")
    parser.add_argument("--store", required=True, metavar="STORE", help="crop store that the run trained on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the contact sheet")
    parser.add_argument("--top", type=int, default=100, metavar="N", help="number of examples (default: %(default)s)")
    parser.set_defaults(run=triage)


def triage(options: argparse.Namespace) -> None:
    """Write the contact sheet."""
    from isod.results.triage.command import triage_command

    page = triage_command(
        options.tracking_uri,
        options.run_name,
        options.store,
        options.out,
        experiment=options.experiment,
        top=options.top,
    )
    print(f"contact sheet: {page}, for annotators: {page.with_suffix('.csv')}")
