"""The end of ``isod search``: its trials as a table, and the best settings as a study for ``isod sweep``."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd

from isod.config.search import SearchStudy
from isod.files import atomic_write, output_folder
from isod.tracking.search_reader import SearchTrial, read_trials
from isod.vocabulary import HEADLINE

TRIALS, BEST = "trials.csv", "best.toml"
SHOWN = 10  # trials of the printed table; the file has all
NOT_COMPARED = (
    "This is a search: its runs had different settings, and its scheduler stopped some. It compares no samplers."
)


def trials_table(study: SearchStudy, trials: list[SearchTrial]) -> pd.DataFrame:
    """Return one row per trial, the best first: those that trained to the end, then those that trained
    longest; of equals by the last mAP."""
    rows = [
        {
            "trial": trial.name,
            "state": trial.state,
            "iterations": trial.curve[-1][0] if trial.curve else 0,
            HEADLINE: trial.curve[-1][1] if trial.curve else float("nan"),
            **{name: trial.params.get(name, "") for name in study.varied},
        }
        for trial in trials
    ]
    table = pd.DataFrame(rows, columns=["trial", "state", "iterations", HEADLINE, *study.varied])
    table["unfinished"] = table["state"] != "finished"
    return table.sort_values(
        ["unfinished", "iterations", HEADLINE], ascending=[True, False, False], ignore_index=True
    ).drop(columns="unfinished")


def search_command(
    tracking_uri: str, parent_run_id: str, study: SearchStudy, preset: str, store: str, out: Path
) -> tuple[Path, str]:
    """Print the trials of a search and its best settings; write trials.csv and best.toml.

    Args:
        preset: name of the one that the trials had.
        out: folder of the search's results.
    Returns:
        The folder of both files, and what was printed. There is no best.toml before a trial has trained to its end.
    Raises:
        InputError: MLflow cannot be read, or the folder not written.
    """
    trials = read_trials(tracking_uri, parent_run_id)
    table = trials_table(study, trials)
    folder = output_folder(out / "search")
    with atomic_write(folder / TRIALS) as part:
        table.to_csv(part, index=False)
    counts = table["state"].value_counts()
    states = ", ".join(f"{counts[state]} {state}" for state in counts.index)
    lines = [
        f"search {study.name}: {len(table)} trials of {study.sampler.name} ({study.search.algorithm}, scheduler "
        f"{study.search.scheduler}): {states}",
        table.head(SHOWN).to_string(index=False, float_format=lambda value: f"{value:.4f}"),
        NOT_COMPARED,
    ]
    best = next((trial for trial in trials if table.loc[0, "trial"] == trial.name and trial.state == "finished"), None)
    if best is None:
        (folder / BEST).unlink(missing_ok=True)
        lines.append("No trial has trained to its end, so there are no best settings.")
    else:
        values = study.values_in(best.params)
        assert values is not None  # a run that has results has its parameters
        reached = f"{HEADLINE} {best.curve[-1][1]:.4f} after {best.curve[-1][0]} iterations"
        comment = f"Best settings of search {study.name}: trial {best.name}, {reached}.\n{NOT_COMPARED}"
        with atomic_write(folder / BEST) as part:
            part.write_text(study.best_study(values, preset, comment), encoding="utf-8")
        lines += [
            f"best: {best.name}, {reached}: {' '.join(f'{name}={best.params[name]}' for name in study.varied)}",
            f"compare it with the baseline: isod sweep {shlex.quote(str(folder / BEST))} --store {shlex.quote(store)}",
        ]
    text = "\n".join(lines)
    print(text)
    return folder, text
