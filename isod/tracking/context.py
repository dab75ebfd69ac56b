"""Who and what began a run, under the tags that MLflow's UI shows as its user and its source."""

from __future__ import annotations

import contextlib
import getpass
import re
import shlex
import sys
from pathlib import Path

from isod.version import source_branch, source_commit

COMMIT = re.compile(r"[0-9a-f]{40}")


def run_context() -> dict[str, str]:
    """Return MLflow's own tags of this process: user and command, and of a checkout its commit and branch."""
    tags = {
        "mlflow.source.name": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "mlflow.source.type": "LOCAL",
    }
    with contextlib.suppress(KeyError, OSError, ImportError):  # a container's user without a name
        tags["mlflow.user"] = getpass.getuser()
    if commit := COMMIT.match(source_commit()):
        tags["mlflow.source.git.commit"] = commit.group()
    if branch := source_branch():
        tags["mlflow.source.git.branch"] = branch
    return tags
