"""The results of a sweep in MLflow: its report as artifacts, and its table as the note on the sweep's own page."""

from __future__ import annotations

from pathlib import Path

from isod.errors import InputError
from isod.tracking.client import explained, open_for_reading

NOTE_TAG = "mlflow.note.content"  # Markdown that MLflow's UI shows as a run's description
FOLDER = "report"  # among the artifacts of the parent run


def publish_results(tracking_uri: str, parent_run_id: str, report: Path, table: str) -> str:
    """Log the files of a report, and the table as a note, at the parent run.

    Args:
        table: as it was printed.
    Returns:
        Why MLflow did not take them; "" if it did. The files themselves are not touched.
    """
    try:
        client = open_for_reading(tracking_uri)
        with explained(tracking_uri):
            client.set_tag(parent_run_id, NOTE_TAG, f"```text\n{table}\n```\n\nThe report is among the artifacts.")
            client.log_artifacts(parent_run_id, str(report), FOLDER)
    except InputError as error:
        return str(error)
    return ""
