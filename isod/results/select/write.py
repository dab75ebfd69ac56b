"""A keep-list on disk: names, and the kept crops as a COCO json and as a YOLO dataset."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.files import atomic_write
from isod.inference.sources import Broken, StoreCrops
from isod.inference.tiles import Detections
from isod.inference.writers import YoloText
from isod.training.examples import KEEP_COLUMNS

KEEP = "keep.csv"


def write_keep_list(store: CropStore, kept: NDArray[np.int64], out: Path, *, images: bool) -> None:
    """Write the files of a keep-list into a folder.

    keep.csv       index, frame and tile of each crop: what ``sampler.subset`` reads
    keep.txt       names of the frames, each once
    coco.json      the crops with their boxes in crop pixels; file_name is relative to images/
    data.yaml, yolo.txt, labels/   the same for YOLO; yolo.txt lists ./images/NAME.jpg
    images/        the crops as they are in the store, with ``images``

    Don't-care objects are crowds in COCO, of every class, and are left out in YOLO, which has no such thing.

    Raises:
        InputError: the folder holds an earlier keep-list.
        OSError: a file cannot be written.
    """
    if (out / KEEP).exists():
        raise InputError(f"{out} holds a keep-list: choose another --out")
    split, rows = store.split("train"), store.split("train").annotations()
    labels = YoloText(out / "labels", confidence=False)
    names: list[str] = []
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(store.meta.class_names, 1)],
    }
    for item in StoreCrops(split, kept.tolist()).frames(Broken()):
        truth, (height, width) = item.truth, item.frame.image.size
        assert truth is not None
        names.append(f"{item.name}.jpg")
        image_id = int(item.image_id)
        content["images"].append({"id": image_id, "file_name": names[-1], "width": width, "height": height})
        for box, label, dont_care in zip(truth.boxes.tolist(), truth.labels.tolist(), truth.dont_care, strict=True):
            bbox = [round(value, 3) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            for category in range(1, len(store.meta.class_names) + 1) if dont_care else [label]:
                content["annotations"].append(
                    {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": category,
                     "bbox": bbox, "area": round(bbox[2] * bbox[3], 3), "iscrowd": int(dont_care)}
                )  # fmt: skip
        known = ~truth.dont_care
        labels.write(item, Detections(truth.boxes[known], np.ones(known.sum()), truth.labels[known]))
        if images:
            path = out / "images" / names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(split.read_encoded([image_id - 1])[0])
    frames = dict.fromkeys(rows.frame_ids[index] for index in kept)
    _write(out / "keep.txt", "".join(f"{name}\n" for name in frames))
    _write(out / "coco.json", json.dumps(content) + "\n")
    _write(out / "yolo.txt", "".join(f"./images/{name}\n" for name in names))
    described = {"train": "yolo.txt", "names": dict(enumerate(store.meta.class_names))}
    _write(out / "data.yaml", yaml.safe_dump(described, allow_unicode=True, sort_keys=False))
    with atomic_write(out / KEEP) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(KEEP_COLUMNS)
        writer.writerows((index, rows.frame_ids[index], *rows.tiles[index].tolist()) for index in kept.tolist())


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
