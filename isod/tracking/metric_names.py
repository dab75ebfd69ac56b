"""Names of metrics in MLflow, which allows fewer characters in a name than a data set does.

MLflow takes letters of any script. A class whose name has other characters, such as an emoji, gets a key; a tag of the
sweep says which name each key stands for, and what reads the sweep puts the names back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

KEY_LENGTH = 200  # characters of a class's key: MLflow allows 250, the name of the metric before it included
MAX_CLASSES = 200  # of which all metrics go to MLflow; 1203 classes would be 14 000 metrics at every validation
EXTREMES = 10  # classes with the most objects, and as many with the fewest, of which they go there beyond that
CLASSES_TAG = "isod.classes."  # of a parent run, with a number: JSON of key → class name, for those that differ
TAG_LENGTH = 4000  # characters of a tag; MLflow allows 8000, and older servers 5000


def mlflow_key(name: str, keys: Mapping[str, str] | None = None) -> str:
    """Return the metric's name with every character that MLflow does not allow replaced by ``_``.

    Args:
        keys: class name → key, of those that have one.
    """
    metric, slash, class_name = name.partition("/")
    if keys and class_name in keys:
        return f"{metric}{slash}{keys[class_name]}"
    parts = re.sub(r"[^\w\-. :/]", "_", name).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def class_keys(names: Sequence[str]) -> dict[str, str]:
    """Return class name → key of the classes whose name MLflow does not allow; all keys and other names differ."""
    plain = {name: mlflow_key(name)[:KEY_LENGTH] for name in names}
    taken = {name for name, key in plain.items() if name == key}
    keys = {}
    for name, key in plain.items():
        if name != key:
            number = 1
            while (unique := key if number == 1 else f"{key} {number}") in taken:
                number += 1
            keys[name] = unique
            taken.add(unique)
    return keys


def class_tags(names: Sequence[str]) -> dict[str, str]:
    """Return the tags that say which class each key stands for; none if every class has its own name."""
    tags: list[dict[str, str]] = [{}]
    for name, key in class_keys(names).items():
        if len(json.dumps({**tags[-1], key: name})) > TAG_LENGTH and tags[-1]:
            tags.append({})
        tags[-1][key] = name
    return {f"{CLASSES_TAG}{number}": json.dumps(part) for number, part in enumerate(tags) if part}


def class_names(tags: Mapping[str, str]) -> dict[str, str]:
    """Return key → class name from the tags of a sweep."""
    names: dict[str, str] = {}
    for tag in sorted(tag for tag in tags if tag.startswith(CLASSES_TAG)):
        try:
            names |= json.loads(tags[tag])
        except (ValueError, TypeError):
            continue  # somebody else's
    return names


def metric_name(key: str, names: Mapping[str, str]) -> str:
    """Return the metric's name with the class's own name in place of its key."""
    metric, slash, class_key = key.partition("/")
    return f"{metric}{slash}{names.get(class_key, class_key)}"


def extreme_classes(metrics: Mapping[str, float]) -> set[str]:
    """Return the classes with the most and with the fewest objects in validation, of those that have any."""
    counts = {key.removeprefix("GT/"): count for key, count in metrics.items() if key.startswith("GT/") and count > 0}
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return {*ordered[:EXTREMES], *ordered[-EXTREMES:]}
