"""Annotations that are known to be wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isod.files import parse_json
from isod.vocabulary import Split

FaultKind = Literal["wrong_class", "missing_box"]


@dataclass(frozen=True)
class Fault:
    """One annotation that is known to be wrong; the demo data has some on purpose."""

    index: int  # place of its frame in the split; in a crop store, of its row
    kind: FaultKind
    box: tuple[float, float, float, float]  # of the object, xyxy, pixels of the full image; in a store, of the crop
    class_name: str  # what the object really is
    annotated_as: str | None  # what the annotation says; None: nothing

    @classmethod
    def from_entry(cls, index: int, entry: dict[str, Any]) -> Fault:
        """Parse an entry of the demo's truth file or of a store's faults.json.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        x0, y0, x1, y1 = map(float, entry["box"])
        return cls(index, entry["kind"], (x0, y0, x1, y1), entry["class"], entry["annotated_as"])


def faults_to_json(faults: Mapping[Split, Sequence[Fault]]) -> str:
    """Return the text of faults.json."""
    entries = [
        {"split": split, "index": fault.index, "kind": fault.kind, "box": fault.box, "class": fault.class_name,
         "annotated_as": fault.annotated_as}
        for split in faults for fault in faults[split]
    ]  # fmt: skip
    return json.dumps({"what": "annotations known to be wrong; boxes xyxy in crop pixels", "faults": entries}, indent=1)


def faults_from_json(text: str, split: Split) -> list[Fault]:
    """Return a split's faults from the text of faults.json.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    entries = [entry for entry in parse_json(text)["faults"] if entry["split"] == split]
    return [Fault.from_entry(int(entry["index"]), entry) for entry in entries]
