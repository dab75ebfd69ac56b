"""One made dataset, written in every format that has a file per image, and in COCO's."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

WIDTH, HEIGHT = 64, 32  # powers of two, so that shares of them are exact
CLASSES = ("bike", "car", "person")


@dataclass(frozen=True)
class Item:
    box: tuple[float, float, float, float]  # xyxy
    class_name: str
    dont_care: bool = False


def made_set(train=6, val=3, *, dont_care=False):
    """split → [(stem, items)]; the second frame has none, and the third has a box that overhangs."""
    rng = np.random.default_rng(0)
    sets, number = {}, 0
    for split, count in (("train", train), ("val", val)):
        sets[split] = []
        for place in range(count):
            items = []
            for k in range(0 if place == 1 else 3):
                x0, y0 = rng.integers(0, 40), rng.integers(0, 20)
                box = (float(x0), float(y0), x0 + rng.integers(2, 40) / 2, y0 + rng.integers(2, 20) / 2)
                items.append(Item(box, CLASSES[k], dont_care and k == 2 and place == 3))
            if place == 2:
                items[0] = Item((50.0, 4.0, 70.0, 12.0), CLASSES[0])
            sets[split].append((f"{number:06d}", items))
            number += 1
    return sets


def write_image(path: Path, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(int(path.stem)).integers(0, 255, (height, width, 3), dtype=np.uint8)
    path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))


def write_text(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_coco(root: Path, sets):
    for split, frames in sets.items():
        images, annotations = [], []
        for number, (stem, items) in enumerate(frames, 1):
            write_image(root / "images" / f"{stem}.jpg")
            images.append({"id": number, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
            for item in items:
                x0, y0, x1, y1 = map(float, item.box)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": CLASSES.index(item.class_name),
                     "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": int(item.dont_care)}
                )  # fmt: skip
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(root / f"{split}.json", json.dumps(content))
    return ["--train", *(str(root / n) for n in ("images", "train.json")),
            "--val", *(str(root / n) for n in ("images", "val.json"))]  # fmt: skip


def yolo_line(item, form="box"):
    x0, y0, x1, y1 = item.box
    label = CLASSES.index(item.class_name)
    if form == "polygon":
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, (y0 + y1) / 2)]
        return f"{label} " + " ".join(f"{float(x / WIDTH)!r} {float(y / HEIGHT)!r}" for x, y in points)
    values = ((x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT)
    return f"{label} " + " ".join(repr(float(value)) for value in values)


def write_yolo(root: Path, sets, form="box"):
    for split, frames in sets.items():
        for stem, items in frames:
            write_image(root / "images" / split / f"{stem}.jpg")
            if items:  # no file for an empty image
                lines = "\n".join(yolo_line(item, form) for item in items)
                write_text(root / "labels" / split / f"{stem}.txt", lines + "\n")
    splits = "".join(f"{split}: images/{split}\n" for split, frames in sets.items() if frames)
    write_text(root / "data.yaml", f"path: .\n{splits}nc: {len(CLASSES)}\nnames: [{', '.join(CLASSES)}]\n")
    return [str(root / "data.yaml")]


def voc_xml(stem, items, size=(WIDTH, HEIGHT)):
    objects = "".join(
        f"<object><name>{item.class_name}</name><pose>Left</pose><difficult>{int(item.dont_care)}</difficult>"
        f"<bndbox><xmin>{item.box[0]}</xmin><ymin>{item.box[1]}</ymin><xmax>{item.box[2]}</xmax>"
        f"<ymax>{item.box[3]}</ymax></bndbox></object>"
        for item in items
    )
    return (f"<annotation><filename>{stem}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
            f"<depth>3</depth></size>{objects}</annotation>")  # fmt: skip


def write_voc(root: Path, sets, layout="sets"):
    for split, frames in sets.items():
        base = root if layout == "sets" else root / split
        images, xmls = (base / "JPEGImages", base / "Annotations") if layout == "sets" else (base, base)
        for stem, items in frames:
            write_image(images / f"{stem}.jpg")
            write_text(xmls / f"{stem}.xml", voc_xml(stem, items))
        if layout == "sets":
            write_text(root / f"ImageSets/Main/{split}.txt", "".join(f"{stem}\n" for stem, _ in frames))
    return [str(root)]


def write_kitti(root: Path, sets):
    for split, frames in sets.items():
        for stem, items in frames:
            write_image(root / f"training/image_2/{stem}.jpg")
            lines = [
                f"{'DontCare' if item.dont_care else item.class_name} 0.00 0 -1.57 "
                f"{' '.join(str(float(v)) for v in item.box)} 1.5 1.6 3.7 1.0 1.5 8.4 -1.5"
                for item in items
            ]
            write_text(root / f"training/label_2/{stem}.txt", "".join(f"{line}\n" for line in lines))
        write_text(root / f"ImageSets/{split}.txt", "".join(f"{stem}\n" for stem, _ in frames))
    return [str(root)]
