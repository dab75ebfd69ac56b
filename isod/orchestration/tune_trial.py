"""Ray Tune's own record of a trial: the trial's name, and why it failed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ray.tune.experiment import Trial

from isod.config.settings import RunConfig


def name_of(trial: Trial) -> str:
    """Return the name of the trial's run."""
    config: RunConfig = trial.config["run"]
    return config.name


def failure_reason(trial: Trial) -> str:
    """Return the sentence that the trial's exception begins with, without the stack and the advice that Ray appends."""
    path = trial.error_file  # get_error() reads a copy that Tune makes of it later
    text = Path(path).read_text() if path and os.path.exists(path) else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    headings = [line for line in lines if re.match(r"[\w.]+(Error|Exception)(\(\w+\))?: ", line)]
    return (headings or lines or ["the trial ended without an error message"])[-1][:500]
