"""Frames per second of `isod prepare` from COCO, YOLO, VOC and KITTI: the same pictures and boxes.

    python -m benchmarks.formats [--frames 3000] [--turns 3] [--processes N]

Pictures of 640×480 with as much detail as a camera's, eight boxes each, every one resized to 320×240: reading of the
labels, decoding and encoding count, as in the command. The formats take turns, and COCO stands first: the others shall
be no slower.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.harness import number, seconds, spread, take_turns, yes
from isod.cli.main import exit_cleanly
from isod.data.prepare.job import prepare
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers import build_reader

WIDTH, HEIGHT, BOXES = 640, 480, 8
CLASSES = ("car", "person", "sign")
SETTINGS = PrepareSettings(resize=(320, 240))
Frames = dict[str, list[tuple[str, np.ndarray]]]  # split → (stem, boxes [n, 4] xyxy, pixels)


def write_pictures(root: Path, count: int) -> Frames:
    """Write the pictures, a tenth of them of the validation split, and return their boxes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (16, HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    files = [simplejpeg.encode_jpeg(np.kron(c, np.ones((8, 8, 1), np.uint8)), quality=85) for c in coarse]
    frames: Frames = {"train": [], "val": []}
    for place in range(count):
        split = "val" if place % 10 == 9 else "train"
        corner = rng.integers(0, (WIDTH // 2, HEIGHT // 2), (BOXES, 2))
        boxes = np.hstack([corner, corner + rng.integers(8, (WIDTH // 2, HEIGHT // 2), (BOXES, 2))]).astype(float)
        stem = f"{place:06d}"
        for folder in (root / "images" / split, root / "JPEGImages", root / "training/image_2"):
            folder.mkdir(parents=True, exist_ok=True)
        first = root / "images" / split / f"{stem}.jpg"
        first.write_bytes(files[place % len(files)])
        for folder in (root / "JPEGImages", root / "training/image_2"):
            os.link(first, folder / first.name)
        frames[split].append((stem, boxes))
    return frames


def write_labels(root: Path, frames: Frames) -> None:
    """Write the boxes in every format."""
    for folder in ("Annotations", "ImageSets/Main", "training/label_2", "labels/train", "labels/val"):
        (root / folder).mkdir(parents=True)
    for split, items in frames.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for place, (stem, boxes) in enumerate(items):
            images.append({"id": place, "file_name": f"{split}/{stem}.jpg", "width": WIDTH, "height": HEIGHT})
            yolo, kitti, voc = [], [], []
            for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
                label = k % len(CLASSES)
                annotations.append({"id": len(annotations), "image_id": place, "category_id": label,
                                    "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0})  # fmt: skip
                centre = ((x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT)
                yolo.append(f"{label} {centre[0]} {centre[1]} {(x1 - x0) / WIDTH} {(y1 - y0) / HEIGHT}")
                kitti.append(f"{CLASSES[label]} 0 0 0 {x0} {y0} {x1} {y1} 1 1 1 1 1 1 1")
                voc.append(f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin>"
                           f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>")  # fmt: skip
            (root / "labels" / split / f"{stem}.txt").write_text("\n".join(yolo))
            (root / "training/label_2" / f"{stem}.txt").write_text("\n".join(kitti))
            size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{''.join(voc)}</annotation>")
        categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
        stems = "\n".join(stem for stem, _ in items)
        (root / "ImageSets/Main" / f"{split}.txt").write_text(stems)
        (root / "ImageSets" / f"{split}.txt").write_text(stems)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [{', '.join(CLASSES)}]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3000, metavar="N")
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each core")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        write_labels(root, write_pictures(root, options.frames))
        splits = {split: (root / "images", root / f"{split}.json") for split in ("train", "val")}
        arguments: dict[str, dict[str, Any]] = {
            "coco": dict(splits),
            "yolo": {"data": root},
            "voc": {"root": root},
            "kitti": {"root": root},
        }
        if options.processes:
            os.cpu_count = lambda: options.processes  # what the process pool asks

        def measure(name: str) -> Callable[[], float]:
            def once() -> float:
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    store = Path(out) / "store"
                    took = seconds(
                        lambda: prepare(build_reader(name, arguments[name]), store, SETTINGS, progress=False)
                    )
                return options.frames / took

            return once

        figures = take_turns({name: measure(name) for name in arguments}, options.turns)
    print(f"The same for all: {options.frames} pictures of {WIDTH}×{HEIGHT}, {BOXES} boxes each.\n")
    found = {name: figure for name, figure in figures.items() if isinstance(figure, list)}
    print("| | frames/s | lowest … highest | beside coco | no lower? |\n|---|---|---|---|---|")
    for name, figure in found.items():
        ratio = median(figure) / median(found["coco"])
        met = "" if name == "coco" else yes(ratio >= 1)
        print(f"| {name} | {number(median(figure))} | {spread(figure)} | {ratio:.2f} × | {met} |")


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.formats", None, main))
