"""The crop store of a sweep as a dataset of MLflow, so that its UI shows what each run trained on."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array

from isod.data.store.meta import CHECKSUMS_KEY, StoreMeta
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

    Its name is that of its folder; its digest is that of the crops and objects, the same wherever and whenever the same
    images were prepared in the same way; its profile has, for each split, crops, lost crops, and objects of each size
    (SIZES) and class.
    """
    meta = store.meta
    address = urlsplit(store.uri)
    height, width = meta.crop_size
    # flat, as MLflow's UI shows sixty characters of whatever else
    profile: dict[str, Any] = {
        "crop width": width,
        "crop height": height,
        "classes": len(meta.class_names),
        "demo": meta.demo,
    }
    for split, classes in meta.counts.items():
        profile |= {
            f"{split} crops": meta.rows[split],
            f"{split} crops lost": len(meta.lost[split]),
            f"{split} objects": meta.objects(split),
            **{f"{split} {size} objects": _of_size(classes, size) for size in SIZES},
            **{f"{split} objects, {name}": sum(sizes.values()) for name, sizes in classes.items()},
        }
    data = Dataset(
        name=address.path.rstrip("/").rpartition("/")[2] or "store",
        digest=_digest(meta),
        source_type=address.scheme or "local",
        source=json.dumps({"uri": store.uri}),
        schema=json.dumps({"mlflow_colspec": ROW.to_dict()}),
        profile=json.dumps(profile, ensure_ascii=False),
    )
    return DatasetInput(data, [CONTEXT])


def _digest(meta: StoreMeta) -> str:
    """Return a digest of store.json, without the names of the data files, which are chance, and Lance's own files."""
    content = json.loads(meta.to_json())
    content[CHECKSUMS_KEY] = {
        split: sorted(checksum for file, checksum in files.items() if file.startswith("data/"))
        for split, files in content[CHECKSUMS_KEY].items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _of_size(classes: dict[str, dict[str, int]], size: str) -> int:
    return sum(sizes.get(size, 0) for name, sizes in classes.items() if name != DONT_CARE)
