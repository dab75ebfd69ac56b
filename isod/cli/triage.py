"""``isod triage``: the examples that a run drew most often, and what may be wrong with their labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isod.cli.options import OUT, add_tracking_uri, choose_experiment, choose_tracking, examples


def add_triage_parser(commands: Any) -> None:
    """Add ``triage`` to the commands."""
    parser = commands.add_parser(
        "triage",
        help="write a contact sheet of the examples that a run drew most often",
        description="Write a contact sheet of the examples that a run drew most often, with what may be wrong with "
        "their labels, and a CSV file for annotators.",
        **examples(
            "isod triage                     # the best run of the sweep that started last",
            "isod triage --tracking-uri sqlite:///out/mlflow.db --run UIS-seed0 --store demo-store --out sheet",
        ),
    )
    add_tracking_uri(parser, "the database in out/")
    parser.add_argument("--run", dest="run_name", metavar="RUN",
                        help="id or name of the run, such as UIS-seed0 (default: of the sweep that started last, the "
                             "run with the highest mAP among those that score)")  # fmt: skip
    parser.add_argument("--experiment", metavar="NAME",
                        help="of the run (default: MLFLOW_EXPERIMENT_NAME, else search all)")  # fmt: skip
    parser.add_argument("--store", metavar="STORE", help="crop store that the run trained on (default: as it says)")
    parser.add_argument("--out", type=Path, default=OUT / "triage", metavar="DIR",
                        help="folder for the contact sheet (default: %(default)s)")  # fmt: skip
    parser.add_argument("--top", type=int, default=100, metavar="N", help="number of examples (default: %(default)s)")
    parser.set_defaults(run=triage)


def triage(options: argparse.Namespace) -> None:
    """Write the contact sheet."""
    from isod.results.triage.command import triage_command

    page = triage_command(
        choose_tracking(options),
        options.run_name,
        options.store,
        options.out,
        experiment=choose_experiment(options),
        top=options.top,
    )
    print(f"contact sheet: {page}, for annotators: {page.with_suffix('.csv')}")
