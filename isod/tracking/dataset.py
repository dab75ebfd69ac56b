"""The crop store of a sweep as a dataset of MLflow, so that its UI shows what each run trained on."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array

from isod.data.store.split import CropStore
from isod.vocabulary import DONT_CARE, SIZES

CONTEXT = InputTag("mlflow.data.context", "training")
ROW = Schema(  # type: ignore[no-untyped-call]
    [
        ColSpec("string", "frame_id"),
        ColSpec("binary", "image"),
        ColSpec(Array("float"), "boxes"),  # type: ignore[arg-type]  # 4·n, xyxy, crop pixels
        ColSpec(Array("long"), "labels"),  # type: ignore[arg-type]
        ColSpec(Array("boolean"), "dont_care"),  # type: ignore[arg-type]
    ]
)


def store_input(store: CropStore) -> DatasetInput:
    """Return a store as MLflow's input of a run.

    Its name is that of its folder; its digest changes with the crops, the objects and their number; its profile has
    crops, lost crops, and objects by class and size (SIZES) of each split.
    """
    meta = store.meta
    address = urlsplit(store.uri)
    counts: dict[str, dict[str, Any]] = {
        split: {
            "crops": meta.rows[split],
            "lost": len(meta.lost[split]),
            "objects": meta.objects(split),
            "objects by size": {size: _of_size(classes, size) for size in SIZES},
            "objects by class": {name: sum(sizes.values()) for name, sizes in classes.items()},
        }
        for split, classes in meta.counts.items()
    }
    height, width = meta.crop_size
    profile = {
        "crop width": width,
        "crop height": height,
        "classes": len(meta.class_names),
        "demo": meta.demo,
        **counts,
    }
    data = Dataset(
        name=address.path.rstrip("/").rpartition("/")[2] or "store",
        digest=hashlib.sha256(meta.to_json().encode()).hexdigest()[:16],
        source_type=address.scheme or "local",
        source=json.dumps({"uri": store.uri}),
        schema=json.dumps({"mlflow_colspec": ROW.to_dict()}),
        profile=json.dumps(profile, ensure_ascii=False),
    )
    return DatasetInput(data, [CONTEXT])


def _of_size(classes: dict[str, dict[str, int]], size: str) -> int:
    return sum(sizes.get(size, 0) for name, sizes in classes.items() if name != DONT_CARE)
