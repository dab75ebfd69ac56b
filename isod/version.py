"""Which isod this is."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

HERE = Path(__file__).resolve()


@cache
def source_commit() -> str:
    """Return what identifies this isod.

    It is the git commit of this checkout, with ``-dirty`` after changes. Where git does not track isod's own files, as
    in an environment inside somebody else's repository, it is the commit that isod was installed from, which an image
    sets as ISOD_COMMIT, or its version.
    """
    try:
        _git("ls-files", "--error-unmatch", "--", HERE.name)
        return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return _installed()


@cache
def source_branch() -> str:
    """Return the git branch of this checkout; "" where git does not track isod's own files, or on no branch."""
    try:
        _git("ls-files", "--error-unmatch", "--", HERE.name)
        return _git("branch", "--show-current")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*words: str) -> str:
    """Run git where isod's files are, whatever a hook of another repository has put into the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    git = ["git", "-C", str(HERE.parent), *words]
    return subprocess.run(git, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def _installed() -> str:
    """Return ISOD_COMMIT, the commit of the install record, or the version; "unknown" where isod is not installed."""
    if commit := os.environ.get("ISOD_COMMIT"):
        return commit
    try:
        package = distribution("isod")
        record = json.loads(package.read_text("direct_url.json") or "{}")
        return str(record.get("vcs_info", {}).get("commit_id") or f"isod {package.version}")
    except (PackageNotFoundError, ValueError, AttributeError):
        return "unknown"
