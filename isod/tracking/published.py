"""The results of a sweep in MLflow: its report as artifacts, and its table as the note on the sweep's own page."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from mlflow.tracking import MlflowClient

from isod.errors import InputError
from isod.tracking.client import children_of, explained, open_for_reading
from isod.vocabulary import HEADLINE

NOTE_TAG = "mlflow.note.content"  # Markdown that MLflow's UI shows as a run's description
NOTE_LENGTH = 8000  # characters that MLflow takes
FOLDER = "report"  # among the artifacts of the parent run
TRAINING = "workflowType=machine_learning"  # else MLflow's UI opens on its pages for language models


def publish_results(tracking_uri: str, parent_run_id: str, report: Path, table: str) -> str:
    """Log the files of a report, and the table with a link to the curves as a note, at the parent run.

    Args:
        table: as it was printed.
    Returns:
        Why MLflow did not take them; "" if it did. The files themselves are not touched.
    """
    try:
        client = open_for_reading(tracking_uri)
        with explained(tracking_uri):
            client.log_artifacts(parent_run_id, str(report), FOLDER)
            client.set_tag(parent_run_id, NOTE_TAG, _note(client, parent_run_id, table))
    except InputError as error:
        return str(error)
    return ""


def runs_page(tracking_uri: str, parent_run_id: str) -> str:
    """Return the address of a sweep's runs in MLflow's UI, from the server's own address on.

    Raises:
        InputError: the store cannot be used.
    """
    client = open_for_reading(tracking_uri)
    with explained(tracking_uri):
        return f"/#/experiments/{client.get_run(parent_run_id).info.experiment_id}/runs?{TRAINING}"


def _note(client: MlflowClient, parent_run_id: str, table: str) -> str:
    """Return the longest note that MLflow takes: without the link if there are many runs, then without the table."""
    experiment = client.get_run(parent_run_id).info.experiment_id
    query = {
        "runs": [run.info.run_id for run in children_of(client, experiment, parent_run_id)],
        "metric": HEADLINE,
        "experiments": [experiment],
        "plot_metric_keys": [HEADLINE],
        "plot_layout": {},
    }
    words = "&".join(f"{name}={quote(json.dumps(value, separators=(',', ':')))}" for name, value in query.items())
    link = f"[{HEADLINE} of all runs](#/metric?{words}&x_axis=step&{TRAINING})\n\n"
    files = f"The report is among the artifacts, in {FOLDER}."
    notes = [f"{link}```text\n{table}\n```\n\n{files}", f"```text\n{table}\n```\n\n{files}", files]
    return next(note for note in notes if len(note) <= NOTE_LENGTH)
