"""Which isod this is."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


@cache
def source_commit() -> str:
    """Return what identifies this isod.

    It is the git commit of this checkout, with ``-dirty`` after changes. Where git does not track isod's own files, as
    in an environment inside somebody else's repository, it is the commit that isod was installed from, or its version.
    """
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    # A hook of another repository has variables that point there.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def ask(*words: str) -> str:
        done = subprocess.run([*git, *words], capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", "--", here.name)
        return ask("rev-parse", "HEAD") + ("-dirty" if ask("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return _installed()


def _installed() -> str:
    """Return the commit of the install record, or the version; "unknown" where isod is not installed."""
    try:
        package = distribution("isod")
        record = json.loads(package.read_text("direct_url.json") or "{}")
        return str(record.get("vcs_info", {}).get("commit_id") or f"isod {package.version}")
    except (PackageNotFoundError, ValueError, AttributeError):
        return "unknown"
