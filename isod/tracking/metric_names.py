"""Names of metrics in MLflow, which allows fewer characters in a name than a data set does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from isod.errors import InputError
from isod.vocabulary import STRATA, metric_key

KEY_LENGTH = 250  # characters: MLflow's limit


def mlflow_key(name: str) -> str:
    """Return the metric's name with every character that MLflow does not allow replaced by ``_``."""
    parts = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def check_class_names(names: Sequence[str]) -> None:
    """Raise InputError if two classes would share a metric in MLflow, or if a name is too long for it."""
    taken: dict[str, str] = {}
    for name in names:
        key = mlflow_key(metric_key("AP", STRATA.index("medium"), name))  # the longest prefix
        if key in taken:
            raise InputError(
                f"the classes {taken[key]!r} and {name!r} would share the MLflow metric {key!r}: "
                "rename one of them in the data set and prepare it again"
            )
        if len(key) > KEY_LENGTH:
            raise InputError(
                f"the class name {name[:40]!r}… has {len(name)} characters, and MLflow allows {KEY_LENGTH} in "
                "the name of a metric: shorten it in the data set and prepare it again"
            )
        taken[key] = name
