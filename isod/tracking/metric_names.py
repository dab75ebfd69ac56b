"""What metrics are called in MLflow, which allows less in a name than a data set does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from isod.errors import InputError

KEY_LENGTH = 250  # characters: MLflow's limit


def mlflow_key(name: str) -> str:
    """The metric's name with what MLflow does not allow (class names may hold anything) replaced by ``_``."""
    parts = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def check_class_names(names: Sequence[str]) -> None:
    """Raises InputError where two classes would share a metric in MLflow, or one has a name too long for it."""
    taken: dict[str, str] = {}
    for name in names:
        key = mlflow_key(f"AP_medium/{name}")
        if key in taken:
            raise InputError(
                f"the classes {taken[key]!r} and {name!r} would share the MLflow metric {key!r}: "
                "rename one of them in the data set and prepare it again"
            )
        if len(key) > KEY_LENGTH:
            raise InputError(
                f"the class name {name[:40]!r}… has {len(name)} characters, and MLflow's metric names end at "
                f"{KEY_LENGTH}: shorten it in the data set and prepare it again"
            )
        taken[key] = name
